"""Entity tags: whether a client has the present answer already (RFC 9110)."""


def names(if_none_match: str | None, tag: str) -> bool:
    """Return whether the header ``If-None-Match`` names ``tag``, given with its quotes."""
    if if_none_match is None:
        return False
    tags = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return tag in tags or "*" in tags

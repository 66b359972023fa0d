"""What names of models, data sets and aliases look like."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

# Of a name for a model's version. It begins with a letter, so that no number can be meant.
ALIAS_PATTERN = r"^[A-Za-z][A-Za-z0-9._-]{0,99}$"
LATEST = "latest"
"""A model's newest version, in the place of an alias; no alias can have this name."""

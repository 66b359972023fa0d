"""One line of the log for each request."""

import logging

log = logging.getLogger("api.access")

_FILE = "access_log.py"


def log_request(method: str, path: str, status: int, seconds: float, identifier: str) -> None:
    """Log what was answered to a request, and how long that took."""
    if not log.isEnabledFor(logging.INFO):
        return
    milliseconds = seconds * 1000
    # Made here and not by ``log.info``, which looks through the stack for who called it.
    record = logging.LogRecord(
        log.name,
        logging.INFO,
        _FILE,
        0,
        "%s %s %d %.1f ms request_id=%s",
        (method, path, status, milliseconds, identifier),
        None,
    )
    record.request_id = identifier
    record.method = method
    record.path = path
    record.status = status
    record.milliseconds = round(milliseconds, 3)
    log.handle(record)

"""Log records as JSON, one object a line, for programs that collect logs."""

import logging
import time

import orjson

_OF_REQUESTS = ("request_id", "method", "path", "status", "milliseconds")


class JsonFormatter(logging.Formatter):
    """Writes time, level, logger and message, what is known of the request, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        document |= {name: getattr(record, name) for name in _OF_REQUESTS if hasattr(record, name)}
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS).decode()

"""Whether this process can do its work, whatever protocol asks. Without torch."""

import logging

from sqlalchemy.exc import SQLAlchemyError

from api.problems import Problem
from api.services import Services
from store.errors import SchemaNotAtHead
from store.schema_version import require_head

log = logging.getLogger(__name__)


def require_ready(services: Services) -> None:
    """Return if the database can be used and the models that are to be in memory are.

    Raises:
        Problem: with status 503 and what is missing.
    """
    try:
        require_head(services.store.engine)
    except SchemaNotAtHead as error:
        raise Problem(503, "schema_not_at_head", str(error)) from error
    except SQLAlchemyError as error:
        log.warning("not ready: %s", type(error).__name__)
        raise Problem(503, "database_unavailable", "the database does not answer: is it running?") from error
    if services.settings.role != "control":
        services.warm_up.require_done()

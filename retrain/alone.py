"""One model's, or one request's, trouble must not keep those after it waiting.

A database that is away is not one model's trouble: it ends the round, and the round begins anew at the next tick.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from feedback.database import is_away
from feedback.errors import IllegalMove

log = structlog.get_logger(__name__)


@contextmanager
def alone(**what: str) -> Iterator[None]:
    """Log what goes wrong inside, under the names of `what`, and go on; it is tried again at the next tick."""
    try:
        yield
    except IllegalMove as error:
        log.info("let go: somebody else moved it meanwhile", reason=str(error), **what)
    except Exception as error:
        if is_away(error):
            raise
        log.exception("failed for one; the others go on", **what)

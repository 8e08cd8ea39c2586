"""Errors that a person can act on.

Each message names the value, says what was expected and what to do. The same text reaches the log,
the JSON body and the terminal. A `HoneError` is never a bug of ours: those stay ordinary exceptions.
"""


class HoneError(ValueError):
    """A mistake the caller or operator can mend; the command line shows it without a traceback, exit 2."""


class Unwell(HoneError):
    """What was asked for was done, and found that something is wrong; the command line shows it, exit 1."""


class NotFound(HoneError):
    """The named thing does not exist in this project."""


class IllegalMove(HoneError):
    """The adapter, run or experiment is not in a state that allows this move."""


class Conflict(HoneError):
    """Somebody else changed it first, or the name is taken."""


class Refused(HoneError):
    """A request that is refused with a status and code of its own; `seconds` says when to try again."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int = 400,
        param: str | None = None,
        seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.param = param
        self.seconds = seconds

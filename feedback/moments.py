"""How far ahead people may plan: a hundred years, which every calendar that meets the moment can hold."""

from feedback.errors import HoneError

DAYS_MAX = 36_500


def check_days(what: str, days: float | None) -> None:
    """Refuse a time past all planning; None is none.

    Raises:
        HoneError: it is longer than a hundred years, or no number.
    """
    if days is not None and not days <= DAYS_MAX:
        raise HoneError(f"{what} is {days:g} days; expected at most {DAYS_MAX}, a hundred years, or none.")

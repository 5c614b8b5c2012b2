"""The exceptions that are no defects of ours, and the check for the commonest; any other that escapes is one."""

from pathlib import Path


class InputError(ValueError):
    """Bad input from the user's side: one sentence with the value, the place and the way out.

    The command line prints it and exits with code 2.
    """


class AwayError(InputError):
    """A disk or a store is full or does not answer for now: what was finished before is worth keeping."""


class UnfinishedError(RuntimeError):
    """Some parts of the work failed and the others are done: one sentence with the count and the way on.

    The command line prints it and exits with code 1.
    """


def existing(path: str | Path, option: str) -> Path:
    """Refuse a file that is not there, as the setting `option` names it."""
    if not Path(path).is_file():
        raise InputError(f"no file at {path}; check {option}")
    return Path(path)

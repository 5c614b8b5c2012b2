"""Which errors are refusals: the user can do something about them, and trying again without him cannot."""

import errno

from datasets.errors import InputError
from models.config import ConfigError

_SYSTEM = {
    errno.ENOSPC: "the disk is full; free some room, nothing was kept half-written",
    errno.EDQUOT: "the quota of this disk is used up; free some room, nothing was kept half-written",
    errno.EACCES: "permission denied; choose another place, or ask for access to this one",
    errno.EIO: "the disk failed; choose another place",
    errno.EROFS: "this disk can only be read; choose another place",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EEXIST: "a file is in the way; move it, or choose another place",
    errno.ENOTDIR: "a file is in the way; move it, or choose another place",
}


def refusal(error: BaseException) -> str | None:
    """Put a refusal into a sentence for the user; None for a defect of ours."""
    if isinstance(error, InputError | ConfigError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        return f"{error.filename or 'writing'}: {_SYSTEM[error.errno]}"
    return None

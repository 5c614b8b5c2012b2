"""Amounts of memory as people write them, and back. Imports nothing heavy."""

import re

from datasets.errors import InputError

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_amount(text: str, place: str) -> int:
    """Read an amount such as ``80GB`` or ``7.5 GiB`` as bytes; what is none is refused with the setting, `place`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None or float(match[1]) == 0:
        raise InputError(
            f"{place} is {text!r}; give a number above 0 with its unit, such as 80GB or 16GiB (MB, GB, TB count in "
            "thousands, MiB, GiB, TiB in 1024s)"
        )
    return int(float(match[1]) * factor)


def show_bytes(size: float) -> str:
    """Write bytes with three digits, in thousands: ``2.19 GB``."""
    unit = next((unit for unit in ("TB", "GB") if size >= _UNITS[unit]), "MB")
    amount = size / _UNITS[unit]
    return f"{amount:.3g} {unit}" if amount < 999.5 else f"{amount:.0f} {unit}"


def show_seconds(seconds: float) -> str:
    """Write a duration in the unit that reads best: ``1.5 s``, ``40 min``, ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

"""ASEG-GDF2, the exchange format of airborne surveys: a .dfn that defines the fixed-width columns of a .dat.

Source: Dampney, Pratt and Whiting, "ASEG-GDF2: a standard for point located data exchange", Australian Society of
Exploration Geophysicists, 2003.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.errors import InputError

_DEFINITION = re.compile(r"DEFN\s*\d*\s*ST\s*=\s*RECD\s*,\s*RT\s*=\s*(\w*)\s*;?(.*)", re.IGNORECASE)
_FORMAT = re.compile(r"(\d*)([AIFEDG])(\d*)(?:\.\d+)?", re.IGNORECASE)
_GAP = re.compile(r"(\d*)X", re.IGNORECASE)
_NULL = re.compile(r"NULL\s*=\s*([^,:\s]+)", re.IGNORECASE)


@dataclass(frozen=True)
class _Field:
    """A field of a record: `repeat` values of `width` characters from `start` on, as ``15f12.6``.

    It holds text or numbers, of which `null` stands for none.
    """

    name: str
    start: int
    width: int
    repeat: int
    text: bool
    null: float | None

    @property
    def end(self) -> int:
        return self.start + self.width * self.repeat


def _read_definition(path: Path) -> list[_Field]:
    """Read the fields of the data records from a .dfn."""
    if not path.is_file():
        raise InputError(f"no file at {path}, which defines the columns of an ASEG-GDF2 .dat; put it beside the data")
    fields: list[_Field] = []
    start = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _DEFINITION.match(line.strip())
        if not found or found[1].upper() == "COMM":
            continue
        for entry in found[2].split(";"):
            if not entry.strip() or entry.strip().upper() == "END DEFN":
                continue
            gap = _GAP.fullmatch(entry.strip())
            if gap:
                start += int(gap[1] or 1)
                continue
            name, _, rest = (part.strip() for part in entry.partition(":"))
            shape = _FORMAT.fullmatch(rest.split(":")[0].split(",")[0].strip())
            if not name or not shape:
                raise InputError(f"{path} defines a field as {entry.strip()!r}, which is not understood; correct it")
            repeat, kind = int(shape[1] or 1), shape[2].upper()
            null = _NULL.search(rest)
            field = _Field(name, start, int(shape[3] or 1), repeat, kind == "A", _number(null[1]) if null else None)
            fields.append(field)
            start = field.end
    if not fields:
        raise InputError(f"{path} defines no fields of data; check the file")
    return fields


def read_table(path: Path) -> pd.DataFrame:
    """Read the numbers of an ASEG-GDF2 data set.

    Parameters
    ----------
    path
        The .dat or the .dfn; the other lies beside it.

    Returns
    -------
    pandas.DataFrame
        float64 columns; a field of several values becomes NAME[0], NAME[1] and so on. Null values are NaN.

    Raises
    ------
    InputError
        Where a file is missing, or a record does not fit the definition.
    """
    dat, dfn = beside(path, ".dat"), beside(path, ".dfn")
    fields = _read_definition(dfn)
    if not dat.is_file():
        raise InputError(f"no file at {dat}, the data that {dfn.name} defines; put it beside the definition")
    least = max(field.end - field.width + 1 for field in fields)  # trailing blanks may be cut off
    most = max(field.end for field in fields)
    lines = []
    with dat.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            record = line.rstrip("\r\n")
            if not record.strip("\x1a ") or record.startswith("COMM"):
                continue
            if not least <= len(record.rstrip()) <= most:
                raise InputError(
                    f"line {number} of {dat} has {len(record.rstrip())} characters, but {dfn.name} defines {most}; "
                    "check that the two belong together"
                )
            lines.append(record)
    columns = {}
    for field in fields:
        if field.text:
            continue
        for index in range(field.repeat):
            cut = slice(field.start + index * field.width, field.start + (index + 1) * field.width)
            label = f"{field.name}[{index}]" if field.repeat > 1 else field.name
            try:
                values = np.array([_number(line[cut]) for line in lines])
            except ValueError as error:
                raise InputError(f"{dat} holds in {label} what is no number ({error}); check {dfn.name}") from error
            if field.null is not None:
                values[values == field.null] = np.nan
            columns[label] = values
    return pd.DataFrame(columns)


def beside(path: Path, suffix: str) -> Path:
    """Name the file of that suffix, in small letters or in capitals if there is one: `path` itself or its neighbour."""
    if path.suffix.lower() == suffix:
        return path
    small, capitals = path.with_suffix(suffix), path.with_suffix(suffix.upper())
    return capitals if capitals.is_file() and not small.is_file() else small


def _number(text: str) -> float:
    """Read a Fortran number: D is an exponent too, blanks and stars (a value too wide for its field) are none."""
    plain = text.strip().upper().replace("D", "E")
    return float(plain) if plain.strip("*") else np.nan

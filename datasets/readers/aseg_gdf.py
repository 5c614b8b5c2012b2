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
class _Column:
    name: str
    cut: slice
    text: bool
    null: float  # NaN where there is none


def _read_definition(path: Path) -> list[_Column]:
    """Read the columns of the data records from a .dfn; a field such as ``15f12.6`` has several."""
    if not path.is_file():
        raise InputError(f"no file at {path}, which defines the columns of an ASEG-GDF2 .dat; put it beside the data")
    columns: list[_Column] = []
    start = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _DEFINITION.match(line.strip())
        if not found or found[1].upper() == "COMM":
            continue
        for entry in map(str.strip, found[2].split(";")):
            if not entry or entry.upper() == "END DEFN":
                continue
            if gap := _GAP.fullmatch(entry):
                start += int(gap[1] or 1)
                continue
            name, _, rest = (part.strip() for part in entry.partition(":"))
            shape = _FORMAT.fullmatch(rest.split(":")[0].split(",")[0].strip())
            if not name or not shape:
                raise InputError(f"{path} defines a field as {entry!r}, which is not understood; correct it")
            repeat, text, width = int(shape[1] or 1), shape[2].upper() == "A", int(shape[3] or 1)
            null = _NULL.search(rest)
            for index in range(repeat):
                label = f"{name}[{index}]" if repeat > 1 else name
                columns.append(_Column(label, slice(start, start + width), text, _number(null[1] if null else "")))
                start += width
    if not columns:
        raise InputError(f"{path} defines no fields of data; check the file")
    return columns


def read_table(path: Path) -> pd.DataFrame:
    """Read the numbers of the .dat and the .dfn beside it, of which `path` is either, as float64, NaN for null.

    A field of several values becomes NAME[0], NAME[1] and so on. `InputError` where a file is missing, or a record does
    not fit the definition.
    """
    dat, dfn = beside(path, ".dat"), beside(path, ".dfn")
    defined = _read_definition(dfn)
    if not dat.is_file():
        raise InputError(f"no file at {dat}, the data that {dfn.name} defines; put it beside the definition")
    last = defined[-1].cut  # whose trailing blanks may be cut off, or all that it is
    lines = []
    with dat.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            record = line.rstrip("\r\n")
            if not record.strip("\x1a ") or record.startswith("COMM"):
                continue
            length = len(record.rstrip())
            if len(record) <= last.start or length > last.stop:
                raise InputError(
                    f"line {number} of {dat} has {length} characters, but {dfn.name} defines {last.stop}; "
                    "check that the two belong together"
                )
            lines.append(record)
    columns = {}
    for column in defined:
        if column.text:
            continue
        try:
            values = np.array([_number(line[column.cut]) for line in lines])
        except ValueError as error:
            raise InputError(f"{dat} holds in {column.name} what is no number ({error}); check {dfn.name}") from error
        columns[column.name] = np.where(values == column.null, np.nan, values)
    return pd.DataFrame(columns)


def beside(path: Path, suffix: str) -> Path:
    """Name the file of that suffix, `path` or its neighbour; in capitals only where it is there so."""
    if path.suffix.lower() == suffix:
        return path
    small, capitals = path.with_suffix(suffix), path.with_suffix(suffix.upper())
    return capitals if capitals.is_file() and not small.is_file() else small


def _number(text: str) -> float:
    """Read a Fortran number: D is an exponent too, blanks and stars (too wide for a field) are none."""
    plain = text.strip().upper().replace("D", "E")
    return float(plain) if plain.strip("*") else np.nan

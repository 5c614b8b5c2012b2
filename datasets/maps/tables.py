"""Text tables of points: CSV, columns parted by blanks, and Geosoft XYZ with its line markers."""

import gzip
import lzma
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.errors import InputError, existing

TABLE_SUFFIXES = (".csv", ".txt", ".xyz", ".dat")
XY_NAMES = ("easting", "east", "x", "longitude", "lon"), ("northing", "north", "y", "latitude", "lat")
_COMPRESSED: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
_MARKERS = ("line", "tie", "random")  # Geosoft XYZ: "LINE 1001" before the readings of each flight line


def table_suffix(path: str | Path) -> str:
    """Suffix of a table without that of its compression: ``.csv`` of ``lines.csv.xz``."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in _COMPRESSED), "")


def read_table(path: Path, columns: Sequence[str], option: str) -> pd.DataFrame:
    """Read a table of text.

    Files .xz and .gz are unpacked. Lines that start with ``/`` or ``#`` are comments, of which the last before the rows
    may name the columns; where the file does not, `columns`, which the setting `option` gives, does. ``*`` and empty
    fields are NaN. `InputError` where the file is missing, empty, no table, or does not name its columns.
    """
    existing(path, "its name")
    first, comment, skipped = "", "", []
    try:
        with _COMPRESSED.get(path.suffix.lower(), open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file):
                text = line.strip()
                if text.startswith(("/", "#")):
                    comment = comment if first else text.lstrip("/# ")
                elif text and not _is_marker(text.split()):
                    first = first or text
                    continue
                skipped.append(number)
    except (OSError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise InputError(f"{path} is not a table of text ({error}); check the file") from error
    if not first:
        raise InputError(f"{path} holds no rows; check the file")
    separator = next((mark for mark in (",", ";", "\t") if mark in first), r"\s+")
    fields = [field.strip(" \"'") for field in re.split(separator, first)]
    headed = not any(_is_number(field) for field in fields)
    names = list(columns)
    if not headed and not names:
        names = comment.replace(",", " ").split()
        if len(names) != len(fields):
            raise InputError(
                f"{path} does not name its columns; name its {len(fields)} columns with {option}, as in [x, y, z]"
            )
    if names and len(names) != len(fields):
        raise InputError(f"{option} names {len(names)} columns, but {path} has {len(fields)}; name them all")
    names = names or fields
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{path} has several columns named {twice}; give each of its {len(names)} a name of its own with {option}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of fields that would be lost
            return pd.read_csv(
                path, sep=separator, header=0 if headed else None, names=names, skiprows=skipped or None,
                index_col=False, na_values="*", skipinitialspace=True, encoding="utf-8-sig",
            )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a table that can be read ({str(error).strip()}); check the file") from error


def find_column(table: pd.DataFrame, names: Sequence[str], path: Path, option: str) -> str:
    """Find the first of `names` among the columns, capitals or not; `InputError` without any."""
    found = find_optional(table, names)
    if found is None:
        held = ", ".join(map(str, table.columns[:30])) + (", ..." if len(table.columns) > 30 else "")
        wanted = " or ".join(names)
        raise InputError(f"{path} has no column {wanted}; its columns are {held}; name the right one with {option}")
    return found


def find_optional(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Find a column as `find_column` does, or None."""
    columns = {str(column).lower(): str(column) for column in reversed(table.columns)}
    return next((columns[name.lower()] for name in names if name.lower() in columns), None)


def numbers(table: pd.DataFrame, column: str, path: Path) -> np.ndarray:
    """Take a column as float64, NaN where empty; `InputError` has the first field that is no number."""
    fields = table[column]
    values = pd.to_numeric(fields, errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(np.isnan(values) & fields.notna().to_numpy())
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{path} holds {fields.iloc[row]!r} in column {column}, row {row + 1}, where a number is needed; correct it"
        )
    return values


def _is_marker(words: list[str]) -> bool:
    """Whether a line is ``LINE 1001``, with more or not, and no names of columns."""
    return words[0].lower() in _MARKERS and (len(words) < 3 or any(map(_is_number, words)))


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return field == "*"
    return True

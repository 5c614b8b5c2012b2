"""The table of a batch: which volume is mapped to which place. Every mistake in it is found before any work."""

import csv
from dataclasses import dataclass
from pathlib import Path

from datasets.errors import InputError
from datasets.storage.objects import is_remote
from pipeline.mapping.predict import check_name

COLUMNS = ("input", "output")


@dataclass(frozen=True)
class Row:
    """One line of the table: volume and place, URIs or absolute paths, and for an error where the line is."""

    source: str
    out: str
    where: str


def read_table(table: str) -> list[Row]:
    """Read the table of a batch.

    `InputError` where there is no table, a column or a value is missing, or a place is no store's, is given twice or is
    one of the volumes.
    """
    try:
        with Path(table).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            lines = [(reader.line_num, line) for line in reader]
            columns = [name.strip() for name in reader.fieldnames or []]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"the table {table} cannot be read ({why}); give a CSV with the columns input and output"
        ) from error
    if not set(COLUMNS) <= set(columns):
        raise InputError(f"{table} has the columns {columns}; name two of them input and output in its first line")
    if not lines:
        raise InputError(f"{table} names no volume; give each a line with its input and its output")
    rows = []
    for number, line in lines:
        where = f"{table}, line {number}"
        given = {str(name).strip(): str(value or "").strip() for name, value in line.items()}
        for column in COLUMNS:
            if not given[column]:
                raise InputError(f"{where}: {column} is empty; give a path or a URI")
        row = Row(_absolute(given["input"]), _absolute(given["output"]), where)
        try:
            check_name(row.out, row.source)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        rows.append(row)
    _refuse_clashes(rows)
    return rows


def _absolute(place: str) -> str:
    return place.rstrip("/") if is_remote(place) else str(Path(place).resolve())  # for workers elsewhere


def _refuse_clashes(rows: list[Row]) -> None:
    sources = {row.source: row for row in rows}
    places: dict[str, Row] = {}
    for row in rows:
        if row.out in places:
            raise InputError(
                f"{row.where}: {row.out} is the output of {places[row.out].where} too; give each volume its own"
            )
        if row.out in sources:
            raise InputError(f"{row.where}: {row.out} is the input of {sources[row.out].where}; choose another place")
        places[row.out] = row

"""Classes of labels that are things, not cells: here an unknown class is a mistake."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from datasets.errors import InputError
from datasets.labels import UNLABELLED


def class_indices(values: pd.Series, class_names: Mapping[int, str], where: str) -> np.ndarray:
    """Turn classes, values or names of `class_names`, into uint8 indices in its order, 255 where they are empty.

    `InputError` says `where`, in which file and column, one is unknown.
    """
    if not class_names:
        held = ", ".join(repr(_plain(value)) for value in values.dropna().unique()[:20])
        raise InputError(f"{where} holds the classes {held}; name the classes with class_names, as in {{1: sand}}")
    known: dict[Any, int] = {key: code for code, named in enumerate(class_names.items()) for key in named}
    known[None] = UNLABELLED
    codes = []
    for value in map(_plain, values):
        code = known.get(value, known.get(str(value)))
        if code is None:
            raise InputError(
                f"{where} holds the class {value!r}, but class_names has {dict(class_names)}; add it or correct it"
            )
        codes.append(code)
    return np.array(codes, np.uint8)


def _plain(value: Any) -> int | float | str | None:
    if value is None or value is pd.NA or value != value or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value).strip()
    return int(number) if number.is_integer() else number

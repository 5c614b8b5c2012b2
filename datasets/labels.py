"""From a source's label values to class indices, where unlabelled is a value of its own and never a class."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from datasets.errors import InputError

UNLABELLED = 255
FILLS = (-32768.0, -9999.0, -99999.0, -999.25, 1e30, -1e30, -1e32, 9.96921e36, 1.70141e38)
"""Numbers that by custom stand for nothing."""
_SHOWN = 20


def encode_labels(
    values: np.ndarray, class_names: Mapping[int, str], where: str
) -> tuple[np.ndarray, dict[str, object]]:
    """Return `class_codes` and `label_attrs` of label values, of which NaN is unlabelled.

    `InputError` without names, or where none of the named values occurs; it says `where` and lists the values that do.
    """
    present = np.unique(values[np.isfinite(values)])
    shown = ", ".join(f"{value:g}" for value in present[:_SHOWN]) + (", ..." if len(present) > _SHOWN else "")
    if not class_names:
        raise InputError(f"the labels in {where} have the values {shown}; name the classes with class_names")
    if not np.isin(list(class_names), present).any():
        raise InputError(
            f"class_names names the values {sorted(class_names)}, but the labels in {where} have {shown}; correct it"
        )
    return class_codes(values, class_names), label_attrs(class_names)


def class_codes(values: np.ndarray, class_names: Mapping[int, str]) -> np.ndarray:
    """Turn label values into uint8 class indices, in the order of `class_names`; all others are `UNLABELLED`."""
    labels = np.full(values.shape, UNLABELLED, np.uint8)
    for index, value in enumerate(class_names):
        labels[values == value] = index
    return labels


def label_attrs(class_names: Mapping[int, str]) -> dict[str, object]:
    """Attributes of labels that `class_codes` made."""
    return {
        "class_names": list(class_names.values()),
        "class_values": list(map(int, class_names)),
        "unlabelled": UNLABELLED,
    }


def unlabel_missing(labels: xr.Variable, valid: xr.Variable) -> xr.Variable:
    """Take labels from cells in which there is no data at all: no map can say anything there."""
    there = valid.any([dim for dim in valid.dims if dim not in labels.dims])
    return labels.where(there, np.uint8(UNLABELLED))

"""Names of classes, of conversions and of views."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.store import open_volume

TWICE = r"class_names calls both 0 and 2 'salt'; give each a name of its own"


def test_two_classes_of_one_name_are_refused(survey: ConvertConfig) -> None:
    with pytest.raises(InputError, match=TWICE):
        replace(survey, class_names={0: "salt", 1: "sand", 2: "salt"})


def test_a_view_with_two_classes_of_one_name_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "s.zarr", data=np.ones((3, 4), np.float32), dimension_names=["y", "x"])
    np.save(tmp_path / "labels.npy", np.zeros((3, 4), np.uint8))
    view = tmp_path / "view.yaml"
    view.write_text("source: s.zarr\nlabels: labels.npy\nclass_names: {0: salt, 2: salt}\n")
    with pytest.raises(InputError, match=TWICE):
        open_volume(str(view))
    view.write_text(view.read_text().replace("2: salt", "2: sand"))
    assert open_volume(str(view))["labels"].attrs["class_names"] == ["salt", "sand"]

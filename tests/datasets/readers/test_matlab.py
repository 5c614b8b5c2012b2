"""MATLAB 7.3 files, written by hdf5storage, against the same arrays in version 5; version 5 is in `test_convert`."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import hdf5storage
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import InputError
from datasets.readers import matlab

Convert = Callable[..., xr.Dataset]


def save(path: Path, **arrays: object) -> Path:
    hdf5storage.savemat(str(path), arrays, format="7.3")
    return path


def test_a_real_scene_is_the_same_in_both_versions(shared_data: Path, tmp_path: Path, converted: Convert) -> None:
    old = shared_data / "hyperspectral" / "samson_1.mat"
    new = save(tmp_path / "samson.mat", V=scipy.io.loadmat(old)["V"], nRow=95.0)
    options = {"key": "V", "shape": [156, 95, 95], "order": "F", "dims": ["band", "y", "x"]}
    ds = converted(new, **options)
    np.testing.assert_array_equal(ds["data"].values, converted(old, **options)["data"].values)
    assert ds["data"].dtype == np.float64


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    kind=st.sampled_from(["f4", "f8", "i2", "u1", "u8"]),
    data=st.data(),
)
def test_parts_have_the_axes_of_matlab(shape: list[int], kind: str, data: st.DataObject) -> None:
    cube = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    with TemporaryDirectory() as folder:
        array = matlab.load(save(Path(folder) / "a.mat", cube=cube), "cube", "key")
        assert (array.shape, array.dtype) == (cube.shape, cube.dtype)
        dims = [f"axis {axis}" for axis in range(cube.ndim)]
        lazy = xr.DataArray(array.variable(dims))  # type: ignore[union-attr]
        cut = tuple(slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in shape)
        np.testing.assert_array_equal(lazy[cut].values, cube[cut])
        np.testing.assert_array_equal(lazy[0, ..., -1].values, cube[0, ..., -1])


def test_labels_and_mask_of_version_73(tmp_path: Path, converted: Convert) -> None:
    rng = np.random.default_rng(0)
    cube, classes = rng.normal(size=(3, 4, 5)), rng.integers(0, 3, (4, 5)).astype(np.uint8)
    valid = rng.random((3, 4, 5)) < 0.5
    source = save(tmp_path / "scene.mat", cube=cube, classes=classes, good=valid)
    ds = converted(
        source, key="cube", dims=["band", "y", "x"], labels_key="classes", label_dims=["y", "x"],
        class_names={1: "rock", 2: "water"}, valid_key="good",
    )  # fmt: skip
    np.testing.assert_array_equal(ds["data"].values, cube)
    np.testing.assert_array_equal(ds["valid"].values, valid)
    np.testing.assert_array_equal(ds["labels"].values, np.where(valid.any(0), np.array([255, 0, 1])[classes], 255))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", r"scene\.mat holds several arrays; set key to one of: cube \(2, 3\), name \(1, 4\), wave \(1, 1\)$"),
        ("V", r"scene\.mat has no array 'V'; set key to one of: cube \(2, 3\), "),
        ("wave", r"'wave' in .*scene\.mat is a complex array; key must name one of real numbers"),
        ("name", r"'name' in .*scene\.mat is a char array; key must name one of real numbers"),
        ("info", r"'info' in .*scene\.mat is a struct or sparse; key must name a full array of numbers"),
    ],
)
def test_refusals(tmp_path: Path, converted: Convert, key: str, words: str) -> None:
    source = save(tmp_path / "scene.mat", cube=np.ones((2, 3)), wave=np.array([[1 + 2j]]), name="text", info={"a": 1.0})
    with pytest.raises(InputError, match=words):
        converted(source, key=key, dims=["y", "x"])


def test_a_sparse_array_of_version_5_is_refused_in_words(tmp_path: Path, converted: Convert) -> None:
    scipy.io.savemat(tmp_path / "scene.mat", {"a": scipy.sparse.csc_matrix(np.eye(4))})
    with pytest.raises(InputError, match=r"'a' in .*scene\.mat is sparse; key must name a full array of numbers"):
        converted(tmp_path / "scene.mat", dims=["y", "x"])


def test_broken_files(tmp_path: Path, converted: Convert) -> None:
    source = save(tmp_path / "scene.mat", cube=np.ones((200, 300)))
    whole = source.read_bytes()
    for content in (whole[: len(whole) // 2], b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(600)):
        source.write_bytes(content)
        with pytest.raises(
            InputError, match=r"scene\.mat is not a MATLAB file that can be read \(.*\); check the file"
        ):
            converted(source, key="cube", dims=["y", "x"])


def test_without_h5py_the_extra_is_named(tmp_path: Path, converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "scene.mat", cube=np.ones((2, 3)))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InputError, match=r"version 7\.3, which needs h5py: pip install -e '\.\[formats\]'; or save it"):
        converted(source, dims=["y", "x"])

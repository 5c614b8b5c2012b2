"""A map written as SEG-Y lies on the survey's own traces, under its own headers, whatever their order and layout."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segyio
import xarray as xr

from datasets import export as module
from datasets.config_convert import ConvertConfig
from datasets.config_export import ExportConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.export import EMPTY, export
from datasets.prediction import Labelled, lay_out, write_prediction
from datasets.store import open_volume
from tests.datasets.readers.test_segy_layouts import IBM, IEEE, INT16, TYPES, write

CELLS = [(10 + 2 * i, 300 + j) for i in range(6) for j in range(4) if (i, j) != (1, 2) and i != 4]
CLASSES, CUBE = ["rést", "salt"], ("inline", "crossline", "twt")


def survey(folder: Path, code: int = IEEE, endian: str = "big", places: tuple[int, int] = (189, 193)) -> Path:
    """A survey of 6 x 4 traces, in no order, of which one and an inline are missing."""
    draw = np.random.default_rng(0)
    cells = [CELLS[at] for at in draw.permutation(len(CELLS))]
    values = draw.normal(size=(len(cells), 7)).astype(np.float32 if code in (IBM, IEEE) else TYPES[code])
    write(folder / "survey.sgy", cells, values, code, endian, places, 1)
    path, trace = folder / "survey.sgy", np.dtype([("header", "u1", 240), ("samples", f"V{7 * values.itemsize}")])
    content = bytearray(path.read_bytes())
    traces = np.frombuffer(content, trace, offset=len(content) - len(cells) * trace.itemsize)
    traces["header"][:, 232:] = draw.integers(0, 256, (len(cells), 8))  # which no field of segyio has
    content[3300:3304], content[3520:3528] = b"ours", b"revision"
    path.write_bytes(content)
    return path


def raw_headers(path: Path, itemsize: int) -> np.ndarray:
    """The bytes of every trace's header."""
    content = path.read_bytes()
    return np.frombuffer(content[-len(CELLS) * (240 + 7 * itemsize) :], np.uint8).reshape(len(CELLS), -1)[:, :240]


def write_map(
    ds: xr.Dataset, path: Path, dims: tuple[str, ...] = ("inline", "crossline", "twt"), factor: int = 1
) -> xr.Dataset:
    """Write a map of drawn probabilities; the second inline has no data at its first sample."""
    layout = lay_out(ds, dims, factor=factor, classes=CLASSES, attrs={"model_version": "salt/3"})
    sizes = layout["class"].shape
    salt = np.random.default_rng(1).random(sizes).astype(np.float32)
    empty = np.zeros(sizes, bool)
    empty[1, ..., 0] = True
    piece = Labelled.of(tuple(slice(0, size) for size in sizes), np.stack([1 - salt, salt]), empty)
    write_prediction(layout, lambda finished: iter([piece]), path)
    return xr.open_zarr(path, mask_and_scale=False).load()


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, xr.Dataset]:
    """A survey, and the map of its volume at ``map.zarr`` beside it."""
    source = survey(tmp_path)
    ds = open_volume(convert(ConvertConfig(str(source), out=str(tmp_path / "survey.zarr"))))
    return source, write_map(ds, tmp_path / "map.zarr")


def config(source: Path, **settings: object) -> ExportConfig:
    folder = source.parent
    return ExportConfig(str(folder / "map.zarr"), str(source), str(folder / "out.sgy"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["class", "salt"])
@pytest.mark.parametrize(
    ("code", "endian", "places"), [(IBM, "big", (189, 193)), (IEEE, "little", (9, 21)), (INT16, "big", (9, 21))]
)
def test_every_trace_has_its_headers_and_the_maps_values(tmp_path, monkeypatch, code, endian, places, value):
    monkeypatch.setattr(module, "_PIECE_BYTES", 1)  # an inline at once
    source, bytes_ = (
        survey(tmp_path, code, endian, places),
        dict(zip(("inline_byte", "crossline_byte"), places, strict=True)),
    )
    ds = open_volume(convert(ConvertConfig(str(source), out=str(tmp_path / "survey.zarr"), **bytes_)))
    found = write_map(ds, tmp_path / "map.zarr")
    out = export(config(source, value=value, **bytes_))
    expected = found["class"].values.astype(np.float32) if value == "class" else found["probability"][1].values
    expected = np.where(found["class"].values == 255, EMPTY, expected)
    inlines, crosslines = found["inline"].values.tolist(), found["crossline"].values.tolist()
    np.testing.assert_array_equal(raw_headers(out, 4), raw_headers(source, 2 if code == INT16 else 4))
    assert out.read_bytes()[3300:3304] == b"ours"
    assert out.read_bytes()[3504:3600] == bytes(96)  # where the first trace begins, and of which further headers
    with (
        segyio.open(source, ignore_geometry=True, endian=endian) as before,
        segyio.open(out, ignore_geometry=True, endian=endian) as after,
    ):
        assert after.tracecount == before.tracecount == len(CELLS)
        np.testing.assert_array_equal(after.samples, before.samples)
        for number in range(len(CELLS)):
            header = before.header[number]
            assert bytes(after.header[number].buf) == bytes(header.buf)
            cell = inlines.index(header[places[0]]), crosslines.index(header[places[1]])
            np.testing.assert_array_equal(after.trace[number], expected[cell])
        text = after.text[0].decode("ascii", "replace")
        assert len(after.text[0]) == 3200
        assert ("-1 no data, 0 r?st, 1 salt" if value == "class" else "-1 no data, probability of salt") in text
        assert "model salt/3" in text
        assert after.bin[segyio.BinField.Format] == IEEE
    again = open_volume(convert(ConvertConfig(str(out), out=str(tmp_path / "again.zarr"), **bytes_))).load()
    valid = again["valid"].values
    assert valid.sum() == len(CELLS) * 7
    np.testing.assert_array_equal(again["data"].values[valid], expected[valid])
    assert not list(tmp_path.glob(".*"))


def test_a_map_of_a_part_leaves_the_rest_empty(made, tmp_path, capsys):
    source, found = made
    write_map(
        found.isel(inline=slice(2, 4), twt=slice(1, 6)).transpose("twt", ...),
        tmp_path / "map.zarr",
        ("twt", "crossline", "inline"),
    )
    part = xr.open_zarr(tmp_path / "map.zarr", mask_and_scale=False)["class"].load()
    with segyio.open(export(config(source)), ignore_geometry=True) as after:
        for number in range(after.tracecount):
            inline, crossline = (after.header[number][byte] for byte in (189, 193))
            expected = np.full(7, EMPTY, np.float32)
            if inline in part["inline"]:
                values = part.sel(inline=inline, crossline=crossline).values
                expected[1:6] = np.where(values == 255, EMPTY, values)
            np.testing.assert_array_equal(after.trace[number], expected)
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out.sgy'}: 8 of 19 traces lie on the map\n"


def test_a_survey_whose_headers_contradict_each_other_gets_its_map_back(tmp_path):
    source = survey(tmp_path)
    with segyio.open(source, "r+", ignore_geometry=True) as file:
        file.header[3].update({segyio.TraceField.TRACE_SAMPLE_INTERVAL: 3000})
    volume = convert(ConvertConfig(str(source), out=str(tmp_path / "survey.zarr"), coordinates={"twt": "100:2"}))
    found = write_map(open_volume(volume), tmp_path / "map.zarr")
    with segyio.open(export(config(source)), ignore_geometry=True) as after:
        header = after.header[5]
        values = found["class"].sel(inline=header[189], crossline=header[193]).values
        np.testing.assert_array_equal(after.trace[5], np.where(values == 255, EMPTY, values))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"map": ""}, r"^export needs a map, a SEG-Y file to take the headers of, and a place: python -m"),
        ({"map": "survey.zarr"}, r"survey\.zarr is no map; name a store that `python -m pipeline predict` wrote$"),
        ({"map": "gone.zarr"}, r"no volume at .*gone\.zarr"),
        ({"map": "flat.zarr"}, r"flat\.zarr is over inline, crossline; SEG-Y takes a map over inline, crossline"),
        ({"map": "coarse.zarr"}, r"coarse\.zarr does not lie on the traces and samples of .*survey\.sgy; give"),
        ({"like": "gone.sgy"}, r"no file at .*gone\.sgy; give the SEG-Y file that the volume was converted from$"),
        ({"like": "note.txt"}, r"note\.txt is not SEG-Y: it ends within the file headers; check the file$"),
        ({"like": "other.sgy"}, r"map\.zarr does not lie on the traces and samples of .*other\.sgy; give"),
        ({"inline_byte": 190}, r"inline_byte is 190, at which no trace header field of .*survey\.sgy starts; common"),
        ({"inline_byte": 21}, r"map\.zarr does not lie on the traces .*, and inline_byte and crossline_byte where"),
        ({"value": "gas"}, r"^value is 'gas'; take class, or for its probability one of rést, salt$"),
        ({"out": "out.zarr"}, r"out\.zarr is the survey itself or does not end in \.sgy or \.segy; name another file"),
        ({"out": "survey.sgy"}, r"survey\.sgy is the survey itself or does not end in"),
        ({"out": "there.sgy"}, r"there\.sgy exists already; choose another place, or pass --overwrite to replace it$"),
        ({"out": "note.txt/out.sgy"}, r"note\.txt/out\.sgy was not written \(File exists\); choose another place$"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_and_nothing_is_left(made, tmp_path, settings, words):
    source, found = made
    (tmp_path / "note.txt").write_text("not SEG-Y")
    (tmp_path / "there.sgy").write_text("kept")
    write_map(found.isel(twt=0, drop=True), tmp_path / "flat.zarr", ("inline", "crossline"))
    write_map(found, tmp_path / "coarse.zarr", factor=2)
    write(tmp_path / "other.sgy", [(1, 2), (1, 3), (2, 2)], np.ones((3, 7), np.float32), IEEE, "big", (189, 193))
    before = sorted(tmp_path.iterdir())
    places = {"map": "map.zarr", "like": source.name, "out": "out.sgy"} | settings
    given: dict[str, Any] = {name: str(tmp_path / str(place)) if place else "" for name, place in places.items()}
    given |= {name: value for name, value in settings.items() if name not in ("map", "like", "out")}
    with pytest.raises(InputError, match=words):
        export(ExportConfig(**given))
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.sgy").read_text() == "kept"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_leaves_what_was_there(made, tmp_path, monkeypatch, number):
    source, _ = made
    out = export(config(source))
    before = out.read_bytes()

    def stopped(*_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(module, "_put", stopped)
    usual = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("SIGTERM went by"))
    try:
        with pytest.raises(KeyboardInterrupt):
            export(config(source), overwrite=True)
    finally:
        after = signal.signal(signal.SIGTERM, usual)
    assert after is not signal.default_int_handler
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*"))

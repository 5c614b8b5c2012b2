"""The random forest: its features mean what they say, and it learns from training labels only."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import pipeline.scoring.baseline as baseline
from datasets.config import DataConfig, SplitConfig
from datasets.store import write_volume
from datasets.volume import Volume
from models.config import NetworkConfig
from pipeline.config import RunConfig
from pipeline.scoring.baseline import ATTRIBUTES, cell_features, features_of, forest, forest_scores, seismic_attributes
from pipeline.training.prepare import prepare


def attribute(features: np.ndarray, name: str) -> np.ndarray:
    """Take one attribute, away from the edges, where windows and the Hilbert transform are incomplete."""
    return features[3:-3, 3:-3, 16:-16, ATTRIBUTES.index(name)]


def test_attributes_of_a_flat_layered_earth_are_those_of_its_wavelet() -> None:
    samples = np.arange(80)
    frequency = 2 * np.pi / 8
    trace = 3 * np.cos(frequency * samples)
    features = seismic_attributes(np.broadcast_to(trace, (10, 12, 80)).astype(np.float32), vertical=2)
    assert features.shape == (10, 12, 80, len(ATTRIBUTES))
    assert features.dtype == np.float32
    np.testing.assert_allclose(attribute(features, "envelope"), 3, rtol=1e-3)
    np.testing.assert_allclose(attribute(features, "frequency"), frequency, rtol=1e-3)
    cosine = attribute(features, "cosine of phase")[0, 0]
    np.testing.assert_allclose(cosine, trace[16:-16] / 3, atol=1e-3)
    np.testing.assert_allclose(attribute(features, "RMS amplitude").mean(), 3 / np.sqrt(2), rtol=0.02)
    np.testing.assert_allclose(attribute(features, "coherence"), 1, rtol=1e-4)
    np.testing.assert_allclose(attribute(features, "horizontal gradient"), 0, atol=1e-6)
    assert attribute(features, "vertical gradient").min() > 1


def test_chaos_has_little_coherence_and_a_stripe_across_has_none_of_the_vertical_gradient() -> None:
    noise = np.random.default_rng(0).normal(size=(20, 20, 60)).astype(np.float32)
    assert attribute(seismic_attributes(noise, 2), "coherence").mean() < 0.2
    across = np.broadcast_to(np.sin(np.arange(20))[:, None, None], (20, 20, 60)).astype(np.float32)
    features = seismic_attributes(across, 2)
    np.testing.assert_allclose(attribute(features, "vertical gradient"), 0, atol=1e-6)
    assert attribute(features, "horizontal gradient").min() > 0.1


def test_attributes_follow_the_vertical_axis_and_read_no_data_as_zero() -> None:
    data = np.random.default_rng(1).normal(size=(9, 10, 30)).astype(np.float32)
    data[2, 3] = np.nan
    features = seismic_attributes(data, 2)
    turned = seismic_attributes(np.moveaxis(data, 2, 0), 0)
    np.testing.assert_allclose(np.moveaxis(turned, 0, 2), features, rtol=1e-3, atol=1e-4)
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features, seismic_attributes(np.nan_to_num(data), 2))


def test_a_cell_holds_its_series_filled_and_a_bit_for_what_may_be_missing() -> None:
    raw = np.arange(2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)  # channel, time, y, x
    raw[0, 1, 0, 0] = np.nan
    features = cell_features(raw, [1, 2])
    assert features.shape == (3, 4, 3)
    np.testing.assert_array_equal(features[..., 0], raw[0, 0])
    np.testing.assert_array_equal(features[1:, :, 1], raw[0, 1, 1:])
    assert features[0, 0, 1] == pytest.approx(np.nanmean(raw[0, 1]))
    assert features[0, 0, 2] == 0
    assert (features[1:, :, 2] == 1).all()
    everywhere = cell_features(np.full((2, 3, 4), np.nan, np.float32), [0, 1])
    np.testing.assert_array_equal(everywhere, 0)


def test_the_forest_learns_the_same_from_the_same_seed_and_never_sees_the_test_labels(
    recipe: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(recipe("forest"))
    first = forest(run, trees=20)
    assert forest_scores(run).oa > 0.8
    assert np.array_equal(first, forest(run, trees=20))
    train = run.volume.read_labels(run.split, "train")
    asked = []

    def only_training(volume: Volume, split: xr.DataArray, part: str) -> np.ndarray:
        asked.append(part)
        return train

    monkeypatch.setattr(Volume, "read_labels", only_training)
    assert np.array_equal(first, forest(run, trees=20))
    assert asked == ["train"]


def test_more_cells_than_the_bound_are_thinned_out(
    recipe: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(recipe("thin"))
    seen = []

    class Forest(baseline.RandomForestClassifier):  # type: ignore[misc]
        def fit(self, x_MF: np.ndarray, y_M: np.ndarray) -> object:
            seen.append(len(y_M))
            return super().fit(x_MF, y_M)

    monkeypatch.setattr(baseline, "RandomForestClassifier", Forest)
    monkeypatch.setattr(baseline, "MOST_CELLS", 17)
    forest(run, trees=2)
    assert seen == [17]


def test_a_cube_labelled_in_depth_is_seen_by_its_attributes(recipe: Callable[..., RunConfig], tmp_path) -> None:
    draw = np.random.default_rng(0)
    dims = ("inline", "crossline", "depth")
    attrs = {"class_names": ["rock", "salt"], "class_values": [0, 1], "unlabelled": 255}
    dataset = xr.Dataset(
        {
            "data": (dims, draw.normal(size=(12, 12, 16)).astype(np.float32)),
            "labels": (dims, draw.integers(0, 2, (12, 12, 16)).astype(np.uint8), attrs),
        },
        attrs={"title": "cube", "source_sha256": "0" * 64, "format": "telegrapher-volume", "format_version": 1},
    )
    config = replace(
        recipe("cube"),
        network=NetworkConfig(layers="4", repeat=2),
        data=DataConfig(source=str(write_volume(dataset, tmp_path / "cube.zarr")), space=list(dims)),
        split=SplitConfig(block=4, buffer=0, fractions=[0.5, 0.2, 0.3]),
    )
    run = prepare(config)
    np.testing.assert_array_equal(features_of(run), seismic_attributes(run.volume.read()[0], 2))

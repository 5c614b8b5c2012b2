import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.config import DataConfig, SplitConfig, SynthesisConfig
from datasets.errors import InputError
from datasets.samples.split import label_counts, make_split
from datasets.store import open_volume
from datasets.synthetic.geology import draw_earth
from datasets.synthetic.random_fields import smooth_noise, white_noise
from datasets.synthetic.stratigraphy import Column
from datasets.synthetic.survey import noise, place_wells, ricker, signal, survey, synthesize
from datasets.volume import Volume

small = SynthesisConfig(shape=[40, 36, 50], wells=4, radius=2, chunks=[40, 36, 50])


def axes_of(config):
    return [np.arange(size) * step for size, step in zip(config.shape, config.spacing, strict=True)]


@pytest.mark.parametrize("chunks", [[16, 20, 13], [7, 36, 50]])
def test_blocks_of_any_size_make_the_same_survey_bit_for_bit(chunks):
    whole, pieces = (survey(replace(small, chunks=sizes)) for sizes in (small.chunks, chunks))
    assert pieces.data.data.numblocks != whole.data.data.numblocks
    for name in ("data", "truth", "labels", "wells"):
        assert np.array_equal(whole[name].values, pieces[name].values), name
    assert whole.attrs == pieces.attrs


def test_the_seed_decides():
    one, same, other = (survey(replace(small, seed=seed)) for seed in (3, 3, 4))
    assert np.array_equal(one.data, same.data)
    assert not np.array_equal(one.data, other.data)
    assert not np.array_equal(one.truth, other.truth)
    assert one.attrs["source_sha256"] != other.attrs["source_sha256"]


@pytest.mark.parametrize("snr", [1.0, 4.0])
def test_the_signal_to_noise_ratio_is_as_stated(snr):
    config = replace(small, shape=[64, 48, 96])
    clean = survey(replace(config, snr=float("inf"))).data.values
    noisy = survey(replace(config, snr=snr)).data.values
    assert noisy.dtype == np.float32
    assert clean.std() / (noisy - clean).std() == pytest.approx(snr, rel=0.05)
    assert clean.std() == pytest.approx(1, rel=0.01)


def test_the_signal_of_a_large_survey_is_gauged_on_patches():
    config = SynthesisConfig(shape=[160, 136, 48], snr=float("inf"), peak_frequency=25)
    assert survey(config).data.values.std() == pytest.approx(1, rel=0.05)


def peak_frequency(traces, config):
    """Peak of the power spectrum averaged over traces [..., Z], in hertz of two-way time, found by a parabola."""
    power = (np.abs(np.fft.rfft(traces * np.hanning(traces.shape[-1]), 1024)) ** 2).reshape(-1, 513).mean(0)
    power = np.convolve(power, np.hanning(41) / 20, mode="same")
    top = int(power.argmax())
    left, middle, right = power[top - 1 : top + 2]
    return (top + 0.5 * (left - right) / (left - 2 * middle + right)) / (1024 * config.spacing[2]) * config.velocity / 2


@pytest.mark.parametrize("frequency", [15.0, 25.0])
def test_the_spectrum_peaks_at_the_configured_frequency(frequency):
    config = replace(small, shape=[64, 64, 256], peak_frequency=frequency)
    block = (slice(0, 64), slice(0, 64), slice(0, 256))
    assert peak_frequency(noise(config, block), config) == pytest.approx(frequency, rel=0.05)
    # The layers' own spectrum is not quite white, and one survey has few of them: average a few earths.
    images = [signal(draw_earth(replace(config, seed=seed)), block) for seed in range(4)]
    assert peak_frequency(np.stack(images), config) == pytest.approx(frequency, rel=0.15)


def test_ricker_peaks_at_its_frequency_and_has_no_mean():
    offsets = (np.arange(4096) - 2048) * 0.001
    wavelet = ricker(25.0, offsets)
    assert np.fft.rfftfreq(4096, 0.001)[np.abs(np.fft.rfft(wavelet)).argmax()] == pytest.approx(25, abs=0.25)
    assert wavelet[2048] == 1
    assert abs(wavelet.sum()) < 1e-9


class Step:
    """Two half-spaces whose border lies between cells 29 and 30."""

    def __init__(self, config, contrast):
        self.config, self.contrast = config, contrast

    def log_impedance(self, x, y, z):
        below = np.broadcast_to(z > 29.5 * self.config.spacing[2], (len(x), len(y), len(z)))
        return 15.0 + self.contrast * below

    def gain(self, x, y, z):
        return np.ones((len(x), len(y), len(z)))


def test_one_reflector_gives_one_wavelet_at_its_depth_with_its_coefficient():
    config = replace(small, spacing=[25.0, 25.0, 5.0])
    image = signal(Step(config, np.log(1.5)), (slice(0, 2), slice(0, 3), slice(0, 60)))
    depth = np.arange(60) * 5.0
    expected = (1.5 - 1) / (1.5 + 1) * ricker(1 / 60, depth - 29.5 * 5.0)
    assert image.shape == (2, 3, 60)
    assert np.allclose(image[1, 2], expected, atol=1e-4)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 500),
    fold=st.floats(0, 0.2),
    throw=st.floats(0, 0.2),
    faults=st.integers(0, 6),
    salt=st.floats(0.05, 0.4),
    side=st.sampled_from([10.0, 50.0]),
)
def test_layers_never_turn_over_and_the_column_reaches_everywhere(seed, fold, throw, faults, salt, side):
    config = SynthesisConfig(
        shape=[24, 24, 80], spacing=[side, side, 8.0], seed=seed, fold=fold, throw=throw, faults=faults, salt=salt
    )
    earth = draw_earth(config)
    axes = axes_of(config)
    u = earth.stratigraphic_depth(*axes, earth.salt_depth(*axes))
    assert np.diff(u, axis=2).min() > 0
    assert earth.column.tops[0] < u.min()
    assert earth.column.tops[-1] > u.max()
    assert np.isfinite(earth.log_impedance(*axes)).all()


def test_a_fault_offsets_its_hanging_wall_by_its_throw():
    config = SynthesisConfig(faults=1, fold=0.0)
    broken = draw_earth(config)
    whole = replace(broken, faults=())
    axes = axes_of(config)
    salt = np.full(config.shape, -1e9)  # no salt anywhere near
    slip = whole.stratigraphic_depth(*axes, salt) - broken.stratigraphic_depth(*axes, salt)
    fault = broken.faults[0]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    above = np.cos(fault.azimuth) * (x - fault.x) + np.sin(fault.azimuth) * (y - fault.y) - z / fault.slope
    assert slip.max() == pytest.approx(fault.throw, rel=0.1)
    assert abs(slip[above < -25]).max() < 1e-9
    assert slip[(above > 25) & (z > 300)].min() > 0


def test_layers_rise_towards_the_salt_and_the_salt_is_its_own_rock():
    config = SynthesisConfig(faults=0, fold=0.0)
    earth = draw_earth(config)
    axes = axes_of(config)
    salt = earth.salt_depth(*axes)
    rise = earth.stratigraphic_depth(*axes, salt) - axes[2]
    beside = (salt < 0) & (salt > -50)
    assert rise[beside].min() > rise[salt < -500].max()
    impedance = earth.log_impedance(*axes)
    assert np.median(impedance[salt > 30]) == pytest.approx(np.log(4500 * 2160), abs=0.02)
    assert impedance[salt > 30].std() > 0.01  # not told by silence
    assert np.median(impedance[salt < -30]) < np.log(4500 * 2160) - 0.2


def test_a_column_averages_its_layers_exactly():
    column = Column(np.array([0.0, 10.0, 30.0]), np.array([0.0, 20.0, 120.0]), np.zeros(3), ())
    means = column.mean(column.integral, np.array([2.0, 8.0, 12.0, 20.0]))
    assert means == pytest.approx([2.0, 3.5, 5.0])


@pytest.mark.parametrize("seed", range(6))
def test_half_of_the_wells_meet_the_salt_and_labels_lie_around_wells_only(seed):
    config = replace(small, shape=[64, 64, 40], wells=7, radius=3, seed=seed)
    ds = survey(config).compute()
    wells, truth, labels = ds.wells.values, ds.truth.values, ds.labels.values
    meets = truth[tuple(wells.T)].any(1)
    assert meets.sum() == 4
    near = np.zeros(truth.shape[:2], bool)
    for x, y in wells:
        near[max(0, x - 3) : x + 4, max(0, y - 3) : y + 4] = True
    assert np.array_equal(labels[near], truth[near])
    assert (labels[~near] == 255).all()
    assert 0.03 < truth.mean() < 0.4
    assert not truth[:, :, :3].any()  # covered


def test_the_written_volume_opens_and_splits(tmp_path, monkeypatch, capsys):
    out = tmp_path / "surveys" / "small.zarr"
    assert synthesize(replace(small, out=str(out))) == out
    volume = Volume.open(DataConfig(source=str(out), space=["inline", "crossline", "depth"]))
    assert volume.shape == (40, 36, 50)
    assert volume.classes == ["rest", "salt"]
    assert volume.dataset["depth"].attrs["units"] == "m"
    assert volume.dataset["inline"].attrs["spacing"] == 25.0
    assert np.array_equal(volume.dataset["data"].values, survey(small).data.values)
    split = make_split(volume, SplitConfig(method="wells", radius=2, validation_wells=1))
    counts = label_counts(volume, split)
    assert counts["train"].all()
    assert counts["test"].sum() > 0.5 * np.prod(small.shape)
    assert volume.dataset.attrs["program"].startswith("telegrapher ")
    monkeypatch.setattr("datasets.provenance.code_version", lambda: "another commit")
    assert synthesize(replace(small, out=str(out))) == out
    assert "small.zarr is there already, of the same settings: nothing to do" in capsys.readouterr().out
    with pytest.raises(InputError, match="pass --overwrite to replace it"):
        synthesize(replace(small, out=str(out), seed=1))
    synthesize(replace(small, out=str(out), seed=1, overwrite=True))
    assert not np.array_equal(open_volume(out)["data"], survey(small).data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [64, 64]}, r"shape is \[64, 64\]; give three sizes"),
        ({"shape": [64, 8, 64]}, r"shape is \[64, 8, 64\]; a survey needs at least 16"),
        ({"chunks": [64, 0, 64]}, r"chunks is \[64, 0, 64\]"),
        ({"snr": 0.0}, "snr is 0.0; it must be above 0"),
        ({"peak_frequency": 60.0}, "wavelength of 25 m, less than 4 cells of 10 m; take a lower peak_frequency"),
        ({"salt": 0.7}, "salt 0.7, .*take salt from 0.05 to 0.4"),
        ({"wells": 1}, "wells 1, .*take 2 wells or more"),
    ],
)
def test_senseless_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        SynthesisConfig(**change)


def test_a_place_is_needed_and_room_for_the_wells():
    with pytest.raises(InputError, match="out is empty; name the folder"):
        synthesize(SynthesisConfig())
    with pytest.raises(InputError, match=r"no room for 300 wells.*take fewer wells"):
        place_wells(draw_earth(SynthesisConfig(shape=[20, 20, 20], wells=300)))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(start=st.tuples(*[st.integers(-70, 70)] * 3), size=st.tuples(*[st.integers(1, 40)] * 3))
def test_white_noise_is_a_function_of_place(start, size):
    stop = tuple(a + n for a, n in zip(start, size, strict=True))
    block = white_noise((5, 1), start, stop)
    wide = white_noise((5, 1), [a - 3 for a in start], [b + 9 for b in stop])
    assert np.array_equal(block, wide[3:-9, 3:-9, 3:-9])


def test_noise_fields_have_the_stated_deviation_and_streams_are_independent():
    white = white_noise((0, 1), (-40, -40, -40), (40, 40, 40))
    assert white.std() == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef(white.ravel(), white_noise((0, 2), (-40,) * 3, (40,) * 3).ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(white[:-1].ravel(), white[1:].ravel())[0, 1]) < 0.01
    axes = [np.arange(60) * 10.0] * 3
    smooth = smooth_noise((0, 1), axes, (50.0, 30.0, 20.0))
    assert smooth.std() == pytest.approx(1, abs=0.1)
    assert np.corrcoef(smooth[:-1].ravel(), smooth[1:].ravel())[0, 1] > 0.9
    assert np.array_equal(
        smooth[7:20, 3:9, 40:],
        smooth_noise((0, 1), [a[s] for a, s in zip(axes, np.s_[7:20, 3:9, 40:], strict=True)], (50.0, 30.0, 20.0)),
    )


@pytest.mark.slow
def test_a_survey_is_made_in_less_memory_than_it_takes(tmp_path):
    script = (
        "import os, resource, sys\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # each core holds a shard of its own\n"
        "from datasets.storage import layout\n"
        "from datasets.config import SynthesisConfig\n"
        "from datasets.synthetic.survey import synthesize\n"
        "layout.SHARD_BYTES = 2**21  # of 64 MiB, two shards at work take more than a survey made in a minute\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "synthesize(SynthesisConfig(out=sys.argv[1], shape=[320, 320, 384]))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "large.zarr")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(run.stdout.split()[-1]) < 210  # MiB; amplitudes, truth and labels are 225

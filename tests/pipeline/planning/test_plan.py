"""`plan` as a user meets it, and recipes that are refused because they cannot fit."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.volume import Volume
from models.config import NetworkConfig
from models.peak import training_peak
from pipeline import cli
from pipeline.amount import parse_amount, show_bytes
from pipeline.config import PredictConfig
from pipeline.mapping.predict import predict
from pipeline.planning import machine, memory
from pipeline.planning.machine import Memory
from pipeline.recipe import dump_recipe
from pipeline.training.train import train

pytestmark = pytest.mark.usefixtures("blank_pictures")

SEISMIC = str(Path(__file__).parents[3] / "pipeline" / "recipes" / "paper" / "seismic.yaml")


def test_the_papers_seismic_recipe_is_planned_without_its_volume(capsys):
    assert cli.main(["plan", SEISMIC, "--memory", "80GB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "plan of paper-seismic",
        "no volume at 'surveys/f3.zarr' yet: channels 1, classes 2",
        "  network             30 layers, 12 to 6144 channels",
        "  parameters          57.3 M (229 MB)",
        "  one state           732 MB (248 x 248 x 248 cells)",
    ]
    found = {line[2:20].strip(): line[22:] for line in lines if line.startswith("  ")}
    assert found["full kernels"] == "10.3 G (41.2 GB)"
    assert found["training step"].endswith("(4 samples of 248 x 248 x 248, 1 at once)")
    assert found["memory"] == "80 GB as given"
    edge, *others = map(int, found["largest block"].split(" x "))
    assert edge % 8 == 0
    assert edge > 500
    assert others == [edge, edge]
    assert int(found["most layers"].split()[0]) > 1000
    assert lines[-1].startswith("counted beyond the process itself: weights, gradients, optimiser states")


def test_json_holds_the_same_and_overrides_count(recipe, tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(recipe()))
    plans = []
    for layers in ("4 d4 u4", "4 d4*60 u4"):
        assert cli.main(["plan", str(path), "--json", "--network.layers", layers, "--memory", "2 GB"]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    shallow, deep = plans
    assert (shallow["layers"], deep["layers"], shallow["shape"]) == (3, 62, [24, 24])
    assert deep["stored_bytes"] > 5 * shallow["stored_bytes"]
    grown = deep["training_bytes"] - shallow["training_bytes"]
    assert grown < 6.2 * (deep["parameter_bytes"] - shallow["parameter_bytes"])
    assert shallow["memory"] == 2 * 10**9
    assert shallow["largest_volume"] > shallow["largest_block"] > [24, 24]


@pytest.mark.parametrize(
    ("words", "said"), [("--channels=0", "channels is 0, c"), ("--classes=-2", ", classes -2; give")]
)
def test_a_plan_for_nothing_is_refused(words, said, capsys):
    assert cli.main(["plan", SEISMIC, words]) == 2
    assert said in capsys.readouterr().err


def test_slabs_plan_the_part_of_a_worker(capsys):
    plans = []
    for slabs in ("1", "4"):
        words = ["--json", "--memory", "8GB", "--cluster.workers", slabs, "--cluster.slabs", slabs]
        assert cli.main(["plan", SEISMIC, *words]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    whole, part = plans
    for kind in ("training", "prediction"):
        assert part[f"{kind}_flops"] == pytest.approx(whole[f"{kind}_flops"] / 4, rel=0.05)
        assert whole[f"{kind}_bytes"] / 4 < part[f"{kind}_bytes"] < whole[f"{kind}_bytes"] / 2
    assert 3 < math.prod(part["largest_volume"]) / math.prod(whole["largest_volume"]) < 5  # no padded copy of a slab


def test_a_plan_needs_sizes_from_somewhere(capsys):
    assert cli.main(["plan", "--data.source", "nowhere.zarr", "--data.space", "[y, x]"]) == 2
    assert "to plan without the volume, give data.space and --shape" in capsys.readouterr().err
    assert cli.main(["plan", "--data.space", "[y, x]", "--shape", "[64]"]) == 2
    assert "shape is [64]; give one size above 0 for each of data.space ['y', 'x']" in capsys.readouterr().err
    assert cli.main(["plan", "--data.space", "[y, x]", "--shape", "[]"]) == 2
    assert "shape is []; give one size above 0 for each of data.space ['y', 'x']" in capsys.readouterr().err
    for shape in ("[]", "[64, 64]"):
        assert cli.main(["plan", "--shape", shape]) == 2
        sentence = f"error: shape is {shape}, but data.space is empty; name the dimensions that it is along\n"
        assert capsys.readouterr().err == sentence
    assert cli.main(["plan", "--data.space", "[y, x]", "--shape", "[64, 64]", "--channels", "8"]) == 0


@pytest.mark.parametrize("text", ["16", "GB", "16 potatoes", "-3GB", "0GB", ""])
def test_an_amount_without_number_or_unit_is_refused(text):
    with pytest.raises(InputError, match=r"training.memory is '.*'; give a number above 0 with its unit, such as 80GB"):
        parse_amount(text, "training.memory")


def test_amounts_are_read_and_written():
    assert parse_amount("80GB", "memory") == 80 * 10**9
    assert parse_amount(" 1.5 gib", "memory") == 3 * 2**29
    assert [show_bytes(size) for size in (2.19e9, 999e6, 1.2e5, 0)] == ["2.19 GB", "999 MB", "0.12 MB", "0 MB"]


def unread(*_arguments, **_options):
    raise AssertionError("data was read")


def test_training_refuses_what_cannot_fit_before_reading_data(recipe, monkeypatch):
    for method in ("read", "read_labels", "digest"):
        monkeypatch.setattr(Volume, method, unread)
    config = recipe(memory="0.2MB", micro_batch=2)
    with pytest.raises(InputError) as refused:
        train(config)
    message = str(refused.value)
    assert message.startswith("a training step on 2 x [24, 24] cells needs 0.")
    assert "but there are 0.2 MB by training.memory; " in message
    assert "set training.micro_batch to 1 or set data.block to [" in message
    assert message.endswith(", or set network.states to exact and network.state_bits to 16")
    assert not (Path(config.runs) / "tiny").exists()


def test_the_advice_of_a_refusal_is_good(recipe):
    config = recipe("advised", memory="0.2MB", micro_batch=2, steps=2, validate_every=2)
    with pytest.raises(InputError) as refused:
        train(config)
    block = json.loads(str(refused.value).split("data.block to ")[1].split(" or less")[0])
    memory.check_training(replace(config, data=replace(config.data, block=block)), Volume.open(config.data))


def test_the_advice_to_keep_less_is_given_where_that_is_enough(recipe):
    config = recipe("keeping")
    config = replace(config, network=NetworkConfig(layers="16p*24", kept_hidden=100))
    volume = Volume.open(config.data)
    segmenter, work = memory.planned_step(config, volume)
    lean = replace(config, network=replace(config.network, kept_hidden=0))
    least = training_peak(*memory.planned_step(lean, volume))
    assert least < 0.5 * training_peak(segmenter, work)
    tight = replace(config.training, memory=f"{(least + 1000) / 1e6:.3f}MB")
    with pytest.raises(InputError, match=r"by training.memory; set network.kept_hidden to 0 or set data.block to \["):
        memory.check_training(replace(config, training=tight), volume)
    memory.check_training(replace(lean, training=tight), volume)
    less = replace(config.training, memory=f"{(least - 1000) / 1e6:.3f}MB")
    with pytest.raises(InputError, match=r"by training.memory; set data.block to \["):
        memory.check_training(replace(config, training=less), volume)


def test_the_halo_of_a_block_is_counted(recipe):
    config = recipe(memory="0.09MB")
    config = replace(config, data=replace(config.data, block=[8, 8]))
    memory.check_training(config, Volume.open(config.data))
    with pytest.raises(InputError, match=r"a training step on 1 x \[24, 24\] cells needs 0\."):
        train(replace(config, data=replace(config.data, halo=[8, 8])))


def test_little_memory_on_the_machine_is_shared_by_workers(recipe, monkeypatch):
    monkeypatch.setattr(memory, "memory_here", lambda cuda: Memory(200_000, "available on this machine"))
    with pytest.raises(InputError, match=r"there are 0.1 MB available on this machine for each of 2 workers; "):
        train(recipe(workers=2))
    far = recipe(workers=2)
    far = replace(far, cluster=replace(far.cluster, address="ray://elsewhere"))
    assert memory.memory_of_worker(far) is None


def test_samples_of_a_step_that_the_host_does_not_hold_are_refused(recipe):
    config = recipe("many", batch=10**9)
    config = replace(config, data=replace(config.data, block=[12, 12]))
    with pytest.raises(
        InputError, match=r"^the samples of a step, 1000000000 x \[12, 12\] cells, take .* lower training"
    ):
        train(config)
    assert not (Path(config.runs) / "many").exists()


def test_what_fits_is_not_refused_and_memory_may_change_on_resume(recipe):
    run = train(recipe("fits", steps=2, validate_every=2, memory="1GB"))
    assert run.config.training.memory == "1GB"
    again = recipe("fits", steps=2, validate_every=2, memory="0.1MB")
    with pytest.raises(InputError, match="a training step on 1 x"):
        train(again, resume=True)


def test_predict_refuses_a_volume_that_cannot_fit(recipe, tmp_path, monkeypatch):
    config = recipe("mapper", steps=2, validate_every=2)
    run = train(config)
    monkeypatch.setattr("pipeline.scoring.scorer.memory_here", lambda cuda: Memory(60_000, "available on this machine"))
    monkeypatch.setattr(Volume, "read", unread)
    wanted = PredictConfig(str(run.folder), config.data.source, str(tmp_path / "map.zarr"), runs=config.runs)
    with pytest.raises(
        InputError,
        match=r"mapping \[24, 24\] cells in one piece needs 0.*too far for blocks of its size; cut the volume",
    ):
        predict(wanted)


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({"memory.max": "max", "memory.current": "7", "memory.stat": "inactive_file 1"}, None),
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 600\ninactive_file 50"}, 350),
        ({"memory.max": "1000", "memory.current": "1200", "memory.stat": "anon 1200"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "700",
                "memory/memory.stat": "inactive_file 10\ntotal_inactive_file 40",
            },
            340,
        ),
        ({}, None),
    ],
)
def test_a_container_has_the_memory_of_its_limit(tmp_path, files, room):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert machine._room_in_group(tmp_path) == room

import errno
import resource
import threading
import time
from pathlib import Path

import pytest
import torch

from datasets.errors import InputError
from pipeline.checkpoints import storage
from pipeline.checkpoints.checkpoint import (
    Meta,
    Snapshot,
    all_checkpoints,
    best_checkpoint,
    copied,
    fault,
    latest_checkpoint,
    load_segmenter,
)
from pipeline.checkpoints.storage import Behind, directory_storage, stored_behind
from pipeline.training.train import train

pytestmark = pytest.mark.usefixtures("blank_pictures")

FILES = ("model.pt", "training.pt", "segmenter.json", "meta.json", "SHA256SUMS")


def snapshot(step: int, score: float = 0.5) -> Snapshot:
    return Snapshot(Meta(step, score), {"weight": torch.arange(100.0)}, {"progress": step}, {"layers": "4"})


def steps_in(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in all_checkpoints(folder)]


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    store = directory_storage(folder)
    for step, score in ((4, 0.7), (8, 0.5), (12, 0.6)):
        store(snapshot(step, score), Meta(step, score))
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [flip, truncate, remove])
@pytest.mark.parametrize("name", FILES)
def test_a_broken_newest_checkpoint_is_passed_over_aloud(checkpoints, name, harm, capsys):
    assert latest_checkpoint(checkpoints).name == "step-000012"
    assert capsys.readouterr().out == ""
    harm(checkpoints / "step-000012" / name)
    assert latest_checkpoint(checkpoints).name == "step-000008"
    shown = capsys.readouterr().out
    assert shown.startswith("a checkpoint is broken and passed over (step-000012: ")
    assert name in shown


def test_a_half_written_checkpoint_does_not_count(checkpoints):
    (checkpoints / "step-000012" / "SHA256SUMS").unlink()
    (checkpoints / "step-000012" / "meta.json").unlink()
    (checkpoints / ".step-000016").mkdir()
    assert latest_checkpoint(checkpoints).name == "step-000008"


def test_a_broken_best_checkpoint_leaves_the_best_of_the_whole_ones(checkpoints):
    assert best_checkpoint(checkpoints.parent).name == "step-000004"
    flip(checkpoints / "step-000004" / "model.pt")
    assert best_checkpoint(checkpoints.parent).name == "step-000012"


def test_no_whole_checkpoint_is_one_clear_error(checkpoints):
    for path in all_checkpoints(checkpoints):
        flip(path / "model.pt")
    message = r"no checkpoint in .* is whole \(step-000004: model.pt does not match SHA256SUMS; .*--overwrite"
    with pytest.raises(InputError, match=message):
        latest_checkpoint(checkpoints)


def test_the_sums_are_those_of_sha256sum(checkpoints):
    import hashlib

    for line in (checkpoints / "step-000012" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((checkpoints / "step-000012" / name).read_bytes()).hexdigest() == digest


def test_the_best_the_newest_and_the_one_before_are_kept_and_what_lies_ahead_goes(checkpoints):
    store = directory_storage(checkpoints)
    store(snapshot(16, 0.1), Meta(16, 0.1))
    assert steps_in(checkpoints) == [4, 12, 16]
    flip(checkpoints / "step-000016" / "meta.json")
    store(snapshot(14, 0.2), Meta(14, 0.2))  # training went back behind 16
    assert steps_in(checkpoints) == [4, 12, 14]


def test_a_snapshot_keeps_the_weights_of_its_step():
    weights = {"layer": [torch.zeros(3)], "rate": 0.1, "betas": (0.9, torch.ones(1))}
    kept = copied(weights)
    weights["layer"][0] += 1
    assert kept["layer"][0].tolist() == [0, 0, 0]
    assert kept["betas"] == (0.9, torch.ones(1))


def test_a_full_disk_is_the_system_s_own_error(tmp_path):
    (tmp_path / "model.pt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        Snapshot(Meta(1, 0.5), {"weight": torch.zeros(10**6)}, {}, {}).write(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert fault(tmp_path) == "SHA256SUMS is missing"


def test_so_is_a_disk_that_fills_up_halfway(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**22, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            Snapshot(Meta(1, 0.5), {"weight": torch.zeros(2**21)}, {}, {}).write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "model.pt").stat().st_size == 2**22


class FullDisk(Snapshot):
    def write(self, folder: Path) -> None:
        (folder / "model.pt").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")


def full(step: int) -> FullDisk:
    return FullDisk(Meta(step, 0.5), {}, {}, {})


def test_training_goes_on_after_a_failed_write_and_keeps_the_last_good_one(checkpoints, capsys):
    with stored_behind(checkpoints) as store:
        store(full(16), Meta(16, 0.5))
        store(full(20), Meta(20, 0.5))
        store(snapshot(24), Meta(24, 0.5))
    shown = capsys.readouterr().out
    assert "the checkpoint of step 16 could not be written to" in shown
    assert "(No space left on device); earlier ones are kept, training goes on" in shown
    assert steps_in(checkpoints) == [4, 12, 24]
    assert not list(checkpoints.glob(".step-*"))


def test_a_disk_that_keeps_failing_stops_the_run(checkpoints):
    behind = Behind(checkpoints, directory_storage(checkpoints))
    for step in (16, 20, 24):
        behind(full(step), Meta(step, 0.5))
    with pytest.raises(InputError, match=r"step 24 could not be written .*No space left.*earlier ones are kept: give"):
        behind(snapshot(28), Meta(28, 0.5))
    assert steps_in(checkpoints) == [4, 8, 12]


def test_the_last_checkpoint_of_a_run_may_not_fail(checkpoints):
    with (
        pytest.raises(InputError, match=r"step 16 could not be written .* go on with the same command and --resume"),
        stored_behind(checkpoints) as store,
    ):
        store(full(16), Meta(16, 0.5))
    assert latest_checkpoint(checkpoints).name == "step-000012"


def test_training_does_not_wait_for_one_checkpoint_but_for_the_one_before(checkpoints, monkeypatch, capsys):
    monkeypatch.setattr(storage, "_SLOW_S", 0.0)
    gate, held = threading.Event(), []

    def slow(snapshot: Snapshot | None, meta: Meta) -> None:
        assert gate.wait(60)
        held.append(meta.step)

    behind = Behind(checkpoints, slow)
    behind(snapshot(1), Meta(1, 0.5))
    assert held == [], "the first call waited for the disk"
    second = threading.Thread(target=lambda: behind(snapshot(2), Meta(2, 0.5)))
    second.start()
    while behind._pending is not None and second.is_alive():  # until it waits for the first
        time.sleep(0.01)
    assert held == []
    gate.set()
    second.join(60)
    behind.close()
    assert held == [1, 2]
    shown = capsys.readouterr().out
    assert shown.count("took longer to write than the steps up to 2; raise training.validate_every") == 1


def test_a_run_whose_newest_checkpoint_broke_ends_with_the_same_weights(recipe, capsys):
    run = train(recipe("cracked"))
    before = load_segmenter(latest_checkpoint(run.checkpoints)).state_dict()
    for name in ("model.pt", "training.pt"):
        flip(run.checkpoints / "step-000012" / name)
    capsys.readouterr()
    train(recipe("cracked"), resume=True)
    assert "passed over (step-000012: model.pt does not match SHA256SUMS)" in capsys.readouterr().out
    assert latest_checkpoint(run.checkpoints).name == "step-000012"
    after = load_segmenter(latest_checkpoint(run.checkpoints)).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)

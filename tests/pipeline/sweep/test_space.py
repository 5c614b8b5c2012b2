"""Search space, refusals, shares of a machine, and TPE's draws: all without a trial."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets.errors import InputError
from datasets.volume import Volume
from models.config import NetworkConfig
from pipeline.config import RunConfig
from pipeline.config_sweep import Range, SweepConfig
from pipeline.planning import memory
from pipeline.planning.machine import Memory
from pipeline.recipe import dump_recipe, load_recipe
from pipeline.sweep import shares
from pipeline.sweep.searcher import Search
from pipeline.sweep.shares import DRIVER, check_shares, memory_of_trial, trial_share, trials_at_once, worker_share
from pipeline.sweep.space import check_space, smallest, trial_config, trial_cost, why_not
from pipeline.trials import turned_away

Make = Callable[..., RunConfig]
RECIPES = Path(__file__).parents[3] / "pipeline" / "recipes"


def searching(config: RunConfig, **sweep: Any) -> RunConfig:
    return replace(config, sweep=SweepConfig(**{"depth": [3, 5], "rank": [2, 4], "levels": [1], **sweep}))


def on_cluster(config: RunConfig, **cluster: Any) -> RunConfig:
    return replace(config, cluster=replace(config.cluster, **cluster))


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ({"depth": [0]}, "sweep.depth is [0]; no value may be below 1"),
        ({"batch": [0, 2]}, "sweep.batch is [0, 2]; no value may be below 1"),
        ({"levels": [-1]}, "sweep.levels is [-1]; no value may be below 0"),
        ({"rate": [0.0]}, "sweep.rate is [0.0]; every value must be above 0"),
        ({"rate": Range(0.1, 0.01)}, "sweep.rate goes from low 0.1 to high 0.01; it must be 0 < low < high"),
        ({"trials": 0}, "sweep.trials is 0; it must be 1 or more"),
        ({"reduction": 1}, "sweep.reduction is 1; ASHA keeps one of 2 or more"),
        ({"concurrent": -1}, "sweep.concurrent is -1; it must be 1 or more, or 0 for as many as fit"),
        (
            {"objectives": ["time"]},
            "sweep.objectives is ['time']; name score, and beside it any of parameters, memory",
        ),
        ({"objectives": ["score", "score"]}, "sweep.objectives is ['score', 'score']; name score, and beside it"),
        (
            {"rank": []},
            "sweep.rank is empty, but depth, levels and rank make an hourglass together; give each at least",
        ),
        ({"levels": [0, 2]}, "sweep.depth holds 3, but 2 levels and back take at least 5 layers; raise the depth or"),
        (
            {"depth": [], "rank": [], "levels": []},
            "sweep holds nothing to search; list values for one of depth, levels",
        ),
    ],
)
def test_an_impossible_space_is_refused(recipe: Make, sweep: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        check_space(searching(recipe(), **sweep))
    assert str(refused.value).startswith(sentence)


def test_what_does_not_suit_the_rest_of_the_recipe_is_refused(recipe: Make) -> None:
    with pytest.raises(InputError, match=r"sweep.batch 2 in micro-batches of 1 makes 2, fewer than .*workers 3"):
        check_space(searching(recipe(workers=3), batch=[2, 4]))
    with pytest.raises(InputError, match=r"training.batch 1 in micro-batches of 1 makes 1, fewer than .*workers 2"):
        check_space(searching(recipe(workers=2, batch=1)))
    config = replace(recipe(), network=NetworkConfig(layers="4 d4 u4", step=[0.1, 0.2, 0.3]))
    with pytest.raises(
        InputError, match=r"network.step lists a step for each layer, but sweep.depth makes other layers"
    ):
        check_space(searching(config))
    check_space(searching(config, step=[0.2]))
    check_space(searching(config, depth=[], rank=[], levels=[], rate=Range(1e-3, 1e-2)))
    assert trial_config(searching(config, step=[0.2]), {"depth": 5, "rank": 2, "levels": 1, "step": 0.2}, "t", "r")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_searched(path: Path) -> None:
    check_space(load_recipe(path))


def test_a_space_is_written_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("sweep: {rate: {low: 1.0e-3, high: 1.0e-2}, step: [0.1, 1], coarsening: [haar, learned]}")
    sweep = load_recipe(path).sweep
    assert sweep.rate == Range(0.001, 0.01, log=True)
    assert (sweep.step, sweep.coarsening) == ([0.1, 1.0], ["haar", "learned"])
    (tmp_path / "again.yaml").write_text(dump_recipe(load_recipe(path)))
    assert load_recipe(tmp_path / "again.yaml").sweep == sweep
    assert load_recipe(path, ["--sweep.rate", "[0.5]"]).sweep.rate == [0.5]
    for text, sentence in (
        ("{coarsening: [db4]}", "sweep.coarsening"),
        ("{objectives: [speed]}", "sweep.objectives"),
        ("{rate: fast}", "sweep.rate is 'fast', expected a list such as [fast] or a range such as {low"),
    ):
        path.write_text(f"sweep: {text}")
        with pytest.raises(InputError) as refused:
            load_recipe(path)
        assert sentence in str(refused.value)


def test_the_recipe_of_a_trial(recipe: Make) -> None:
    config = on_cluster(searching(recipe("base", workers=1)), cpus_per_worker=0)
    choice = {"depth": 5, "rank": 2, "levels": 1, "coarsening": "learned", "step": 0.4, "rate": 0.1, "batch": 7}
    made = trial_config(config, choice, "trial-1", "elsewhere")
    assert (made.name, made.runs, made.network.layers) == ("trial-1", "elsewhere", "2*1 d2*3 u2*1")
    assert (made.network.coarsening, made.network.step) == ("learned", 0.4)
    assert (made.training.rate, made.training.batch, made.training.steps) == (0.1, 7, config.training.steps)
    assert (made.cluster.workers, made.cluster.cpus_per_worker) == (0, 1), "one worker is the trial's own process"
    assert trial_config(on_cluster(config, workers=3), choice, "t", "r").cluster.workers == 3
    assert trial_config(config, {"rate": 0.1}, "t", "r").network == config.network


def test_the_planner_turns_away_what_cannot_fit(recipe: Make, tiny_volume: Path) -> None:
    config = searching(recipe(), depth=[3, 5], rank=[2, 2000])
    volume = Volume.open(config.data)
    costs = {
        rank: trial_cost(trial_config(config, {"depth": 3, "rank": rank, "levels": 1}, "t", "r"), volume)
        for rank in (2, 2000)
    }
    assert costs[2].parameters < costs[2000].parameters
    between = (costs[2].memory + costs[2000].memory) / 2e6
    config = replace(config, training=replace(config.training, memory=f"{between:.3f}MB"))
    assert why_not(config, volume, {"depth": 3, "rank": 2, "levels": 1}) is None
    reason = why_not(config, volume, {"depth": 3, "rank": 2000, "levels": 1})
    assert reason is not None
    assert reason.startswith("a training step on 1 x [24, 24] cells needs ")
    assert "by training.memory" in reason
    assert smallest(config, volume) == {"depth": 3, "rank": 2, "levels": 1}
    config = replace(config, training=replace(config.training, memory="0.001MB"))
    with pytest.raises(InputError, match=r"no configuration of the sweep can run; of a small one the planner says: a "):
        smallest(config, volume)


def test_a_grid_that_the_levels_do_not_divide_is_turned_away(recipe: Make) -> None:
    config = searching(recipe(), levels=[1, 4], depth=[9])
    config = replace(config, network=replace(config.network, padding="refuse"))
    volume = Volume.open(config.data)
    assert why_not(config, volume, {"depth": 9, "rank": 2, "levels": 1}) is None
    assert "24" in str(why_not(config, volume, {"depth": 9, "rank": 2, "levels": 4}))
    assert smallest(config, volume)["levels"] == 1


@pytest.mark.parametrize(
    ("cluster", "gpus", "worker", "trial", "at_once"),
    [
        ({"workers": 0}, 1.0, {"CPU": 1}, {"CPU": 1}, 8),
        ({"workers": 1, "cpus_per_worker": 3}, 1.0, {"CPU": 3}, {"CPU": 3}, 2),
        ({"workers": 1, "gpu": True}, 1.0, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}, 2),
        ({"workers": 0, "gpu": True}, 0.5, {"CPU": 1, "GPU": 0.5}, {"CPU": 1, "GPU": 0.5}, 4),
        ({"workers": 0, "gpu": True}, 0.4, {"CPU": 1, "GPU": 0.4}, {"CPU": 1, "GPU": 0.4}, 4),
        ({"workers": 0, "gpu": True}, 0.7, {"CPU": 1, "GPU": 0.7}, {"CPU": 1, "GPU": 0.7}, 2),
        ({"workers": 2, "gpu": True, "cpus_per_worker": 4}, 1.0, {"CPU": 4, "GPU": 1}, DRIVER, 1),
        ({"workers": 3, "cpus_per_worker": 1}, 1.0, {"CPU": 1}, DRIVER, 2),
    ],
)
def test_shares_of_a_machine(
    recipe: Make, cluster: dict[str, Any], gpus: float, worker: dict, trial: dict, at_once: int
) -> None:
    config = on_cluster(searching(recipe(), gpus=gpus, trials=50), **cluster)
    check_shares(config)
    assert worker_share(config) == worker
    assert trial_share(config) == trial
    assert trials_at_once(config, {"CPU": 8.0, "GPU": 2.0}) == at_once
    asked = replace(config, sweep=replace(config.sweep, concurrent=20))
    assert trials_at_once(asked, {"CPU": 8.0, "GPU": 2.0}) == 20, "what is asked for waits its turn"


@pytest.mark.parametrize(
    ("cluster", "gpus", "sentence"),
    [
        (
            {"gpu": True},
            2.0,
            "sweep.gpus is 2; a worker computes on one GPU or a share of it, so take a number above 0",
        ),
        ({"gpu": True}, 0.0, "sweep.gpus is 0; "),
        ({"workers": 2, "min_workers": 1}, 1.0, "cluster.min_workers is 1, but every trial of a sweep has "),
        ({}, 0.5, "sweep.gpus is 0.5, but cluster.gpu is false; set that to true"),
        ({"gpu": True, "workers": 2}, 0.5, "sweep.gpus is 0.5, but the workers of one trial cannot share a GPU"),
    ],
)
def test_shares_that_nobody_can_have(recipe: Make, cluster: dict[str, Any], gpus: float, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        check_shares(on_cluster(searching(recipe(), gpus=gpus), **cluster))
    assert str(refused.value).startswith(sentence)


def test_a_trial_larger_than_the_machine_is_refused(recipe: Make) -> None:
    with pytest.raises(
        InputError, match=r"a trial takes 8 CPU, but there are 2; take fewer cluster.workers or a lower"
    ):
        trials_at_once(on_cluster(searching(recipe()), workers=2, cpus_per_worker=4), {"CPU": 2.0})
    with pytest.raises(InputError, match=r"a trial takes 1 GPU, but there are 0; .* or set cluster.gpu to false"):
        trials_at_once(on_cluster(searching(recipe()), gpu=True), {"CPU": 2.0})
    growing = on_cluster(searching(recipe()), gpu=True, address="auto")
    assert trials_at_once(growing, {"CPU": 2.0}) == 1, "a cluster that was joined may grow"


def test_memory_is_shared_by_the_trials_of_a_machine(recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_here", lambda cuda: Memory(8000, "here"))
    config = searching(recipe())
    assert memory_of_trial(config, 4) == Memory(2000, "here, for each of 4 trials at once")
    shared = on_cluster(searching(recipe(), gpus=0.5), gpu=True)
    assert memory_of_trial(shared, 4).size == 4000
    assert memory_of_trial(on_cluster(config, address="auto"), 4) is None
    stated = replace(config, training=replace(config.training, memory="1GB"))
    assert memory_of_trial(stated, 4) == Memory(10**9, "by training.memory")
    assert shares.DRIVER.get("CPU", 0) == 0, "a driver with a core starves its own workers"


def search(tmp_path: Path, refusal: Callable[..., str | None] = lambda choice: None, **domains: Any) -> Search:
    domains = domains or {"depth": [3, 5, 7], "rank": [2, 4, 8]}
    return Search(domains, {"score": "max"}, 0, refusal, tmp_path / "turned-away.jsonl")


def test_no_choice_is_tried_twice_and_an_exhausted_space_ends(tmp_path: Path) -> None:
    asked = search(tmp_path)
    seen = []
    for number in range(9):
        choice = asked.suggest(str(number))
        seen.append(json.dumps(choice))
        asked.on_trial_complete(str(number), {"score": choice["depth"] * choice["rank"]})
    assert len(set(seen)) == 9
    assert asked.suggest("9") == Search.FINISHED


def test_what_is_turned_away_is_counted_once_and_never_tried(tmp_path: Path) -> None:
    asked = search(tmp_path, lambda choice: "too large" if choice["depth"] == 7 else None)
    tried = [asked.suggest(str(number)) for number in range(7)]
    assert tried.pop() == Search.FINISHED
    assert {choice["depth"] for choice in tried} == {3, 5}
    refused = turned_away(tmp_path)
    assert sorted(row["choice"]["rank"] for row in refused) == [2, 4, 8]
    assert {row["reason"] for row in refused} == {"too large"}


def test_a_search_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    def play(asked: Search, numbers: range) -> list[Any]:
        choices = []
        for number in numbers:
            choices.append(asked.suggest(str(number)))
            asked.on_trial_complete(str(number), {"score": -abs(choices[-1]["rate"] - 0.01)})
        return choices

    domains = {"rate": Range(1e-4, 1.0), "batch": [1, 2]}
    whole = play(search(tmp_path, **domains), range(30))
    first, second = search(tmp_path, **domains), search(tmp_path, **domains)
    play(first, range(15))
    first.save(str(tmp_path / "state"))
    second.restore(str(tmp_path / "state"))
    assert play(second, range(15, 30)) == whole[15:]
    late = [abs(choice["rate"] - 0.01) for choice in whole[20:]]
    early = [abs(choice["rate"] - 0.01) for choice in whole[:10]]
    assert sum(late) < sum(early), "TPE learns"
    assert all(1e-4 <= choice["rate"] <= 1.0 for choice in whole)


def test_several_objectives_and_trials_that_fail(tmp_path: Path) -> None:
    asked = Search({"depth": [1, 2]}, {"score": "max", "time": "min"}, 0, lambda choice: None, tmp_path / "log")
    asked.suggest("a")
    asked.suggest("b")
    asked.on_trial_complete("a", {"score": 0.5, "time": 2.0, "other": 1})
    asked.on_trial_complete("b", None, error=True)
    asked.on_trial_complete("unknown", {"score": 1.0, "time": 1.0})
    assert [trial.state.name for trial in asked.study.trials] == ["COMPLETE", "FAIL"]
    assert asked.study.trials[0].values == [0.5, 2.0]
    assert [direction.name for direction in asked.study.directions] == ["MAXIMIZE", "MINIMIZE"]

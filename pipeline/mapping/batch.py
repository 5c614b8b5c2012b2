"""Map many volumes with one model: a table of inputs and outputs, one task a volume, resumed where it was stopped."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from datasets.errors import InputError, UnfinishedError
from datasets.prediction import FORMAT
from datasets.store import open_node
from pipeline.config import BatchConfig, ClusterConfig
from pipeline.mapping.predict import check_model, check_place
from pipeline.mapping.table import Row, read_table
from pipeline.mapping.volume_map import map_to
from pipeline.mapping.workers import cores_taken, loaded, share_of_machine
from pipeline.masking import without_secrets
from pipeline.planning.turns import stream_of
from pipeline.refusal import refusal
from pipeline.registry.load import load_model
from pipeline.scoring.scorer import Scorer
from pipeline.tracking.store import store_uri

State = Literal["mapped", "finished before", "failed"]
Result = tuple[State, float, str]


@dataclass(frozen=True)
class Task:
    """One volume to map, by a model of that `digest`, and the place; `cores` as of `pipeline.mapping.workers.Order`.

    `cluster` says in which turns.
    """

    model: str
    tracking_uri: str
    digest: str
    source: str
    out: str
    cores: int = 0
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(workers=0))


@dataclass(frozen=True)
class Outcome:
    """What became of the volume of one line: how long it took, and in words the classes' shares or why it failed."""

    row: Row
    state: State
    seconds: float = 0.0
    words: str = ""

    def __str__(self) -> str:
        what = f"{self.row.source} -> {self.row.out}"
        if self.state == "finished before":
            return f"{what}: finished before"
        return f"{what}: {self.state} in {self.seconds:.1f} s: {self.words}"


def batch(config: BatchConfig, *, overwrite: bool = False) -> list[Outcome]:
    """Map every volume of a table, each whole or not at all; prints a line a volume and a summary.

    Maps of the same model and volume that are there already are not made again, so the same command goes on where it
    was stopped. With `overwrite`, maps of other models or volumes are replaced. Returns what became of each line.

    Raises
    ------
    InputError
        Before any work, where the table, the model or the places cannot be used.
    UnfinishedError
        At the end, where a volume failed; the others are mapped.
    """
    if not (config.model and config.table):
        raise InputError(
            "batch needs a model and a table: python -m pipeline batch models:/NAME@champion VOLUMES.csv, "
            "with the columns input and output"
        )
    if config.cluster.address == "local":
        stream_of(config.cluster)
    rows = read_table(config.table)
    uri = store_uri(config.tracking_uri, config.runs)
    scorer = load_model(config.model, tracking_uri=uri)
    check_model(scorer)
    outcomes: dict[Row, Outcome] = {}
    for row in rows:
        found = find_map(row, scorer)
        if found == "finished":
            outcomes[row] = Outcome(row, "finished before")
        elif found == "other":
            try:
                check_place(row.out, overwrite)
            except InputError as error:
                raise InputError(f"{row.where}: {error}") from error
    print(f"{scorer.version}: {len(rows)} volumes, {len(outcomes)} of them finished before", flush=True)
    todo = [row for row in rows if row not in outcomes]
    cores, alone = cores_taken(config.cluster), replace(config.cluster, workers=0, slabs=1, min_workers=0)
    tasks = [Task(scorer.fixed, uri, scorer.digest, row.source, row.out, cores, alone) for row in todo]
    for index, result in _results(tasks, scorer, config.cluster):
        outcomes[todo[index]] = outcome = Outcome(todo[index], *result)
        print(f"[{len(outcomes)}/{len(rows)}] {outcome}", flush=True)
    ordered = [outcomes[row] for row in rows]
    print(summary(ordered))
    if failed := sum(outcome.state == "failed" for outcome in ordered):
        raise UnfinishedError(
            f"{failed} of {len(rows)} volumes failed, for the reasons above; the same command tries them again"
        )
    return ordered


def find_map(row: Row, scorer: Scorer) -> Literal["finished", "other", "unknown"]:
    """Tell whether the place of a line holds the map of its volume, as it is now, by this model.

    Unknown where the volume does not open: its task will say so.
    """
    try:
        attrs = dict(open_node(row.out).attrs)
    except InputError:
        return "other"
    wanted = {"format": FORMAT, "volume": without_secrets(row.source), "model_digest": scorer.digest}
    if not wanted.items() <= attrs.items():
        return "other"
    try:
        volume = scorer.open(row.source)
    except InputError:
        return "unknown"
    return "finished" if scorer.identity(volume).items() <= attrs.items() else "other"


def map_task(task: Task, threads: int) -> Result:
    """Map one volume in a process of its own; what goes wrong is told, not raised.

    Others may work beside it: it fills as much of the machine's memory as its threads are of the machine's cores.
    """
    share = share_of_machine(threads, task.cores)
    return _map(lambda: loaded(task.model, task.tracking_uri, task.digest), task, threads, share=share)


def _map(
    model: Callable[[], Scorer], task: Task, threads: int, *, share: float = 1.0, cluster: ClusterConfig | None = None
) -> Result:
    began = time.perf_counter()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    state: State = "failed"
    try:
        words = map_to(
            model(), task.source, task.out, share=share, cluster=cluster or task.cluster, tracking_uri=task.tracking_uri
        ).shares
        state = "mapped"
    except Exception as error:
        words = refusal(error) or f"{type(error).__name__}: {error}"
    finally:
        torch.set_num_threads(before)
    return state, time.perf_counter() - began, " ".join(words.split())


def _results(tasks: Sequence[Task], scorer: Scorer, config: ClusterConfig) -> Iterator[tuple[int, Result]]:
    if not (config.workers and tasks):
        for index, task in enumerate(tasks):
            yield index, _map(lambda: scorer, task, config.cpus_per_worker or torch.get_num_threads())
        return
    from pipeline.mapping.spread import spread  # Ray is imported only where it is wanted
    from pipeline.training.worker import cluster

    if config.slabs > 1:
        with cluster(config):
            for index, task in enumerate(tasks):
                yield index, _map(lambda: scorer, task, torch.get_num_threads(), cluster=config)
        return
    for index, result in spread(map_task, tasks, config):
        if isinstance(result, Exception):
            result = "failed", 0.0, f"its process was lost ({' '.join(str(result).split())[:300]})"
        yield index, result


def summary(outcomes: Sequence[Outcome]) -> str:
    """Lay out what became of each volume, and how many of each there are."""
    width = max(len(outcome.state) for outcome in outcomes)
    lines = [f"{'state':<{width}}  {'seconds':>7}  volume"]
    lines += [f"{one.state:<{width}}  {one.seconds:>7.1f}  {one.row.source}" for one in outcomes]
    counts = Counter(outcome.state for outcome in outcomes)
    lines.append(f"{len(outcomes)} volumes: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    return "\n".join(lines)

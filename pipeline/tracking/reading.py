"""What reading costs a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from datasets.samples.loader import Loader
from datasets.storage.traffic import Traffic
from pipeline.ranks.gradient_sum import sum_over_ranks

_SUMMED = ("samples", "read_mib", "fetched_mib", "used_mib", "requests", "waited_s", "step_s")


class ReadingMeter:
    """Measures this rank's loader between two reports, and its store's traffic, also for the validation."""

    def __init__(self, loader: Loader, traffic: Traffic | None = None) -> None:
        self._loader, self._traffic = loader, traffic
        self._worked = 0.0
        self._began = self._now()

    def step(self, seconds: float) -> None:
        """Add what a step took once it had its samples."""
        self._worked += seconds

    @property
    def waiting_share(self) -> float:
        """Share of this rank's step time since the last report that it waited for samples."""
        now = self._now()
        return (now["waited_s"] - self._began["waited_s"]) / max(now["step_s"] - self._began["step_s"], 1e-9)

    def _now(self) -> dict[str, float]:
        loader, traffic = self._loader, self._traffic
        now = {"samples": float(loader.samples_read), "read_mib": loader.bytes_read / 2**20}
        now |= {"waited_s": loader.waited, "step_s": loader.waited + self._worked}
        if traffic is not None:
            now |= {"fetched_mib": traffic.fetched / 2**20, "used_mib": traffic.used / 2**20}
            now["requests"] = float(traffic.requests)
        return now

    def report(self, device: torch.device) -> dict[str, float]:
        """Return the numbers since the last report, summed over the ranks, and start anew; all take part.

        They are ``reading/samples``, ``read_mib``, ``waited_s``, ``step_s`` (all ranks' seconds), ``waiting_share`` and
        with `traffic` ``fetched_mib``, ``used_mib``, ``requests`` and ``amplification``. NCCL sums on `device`.
        """
        now = self._now()
        own = {key: value - self._began[key] for key, value in now.items()}
        total = dict(zip(own, sum_over_ranks(list(own.values()), device), strict=True))
        self._began = now
        return {f"reading/{key}": value for key, value in _with_ratios(total).items()}


def _with_ratios(total: Mapping[str, float]) -> dict[str, float]:
    found = {**total, "waiting_share": total["waited_s"] / max(total["step_s"], 1e-9)}
    if total.get("used_mib"):
        found["amplification"] = total["fetched_mib"] / total["used_mib"]
    return found


def summarise_reading(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Sum the reports in a run's history, also those before a restart; empty where there is none.

    Keys as in `ReadingMeter.report`, without the prefix, and ``warm_waiting_share``: without the first report, whose
    first sample nobody could read ahead.
    """
    reports = [row for row in history if "reading/samples" in row]
    if not reports:
        return {}

    def total(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
        present = [key for key in _SUMMED if f"reading/{key}" in rows[0]]
        return _with_ratios({key: sum(row.get(f"reading/{key}", 0.0) for row in rows) for key in present})

    summary: dict[str, Any] = total(reports)
    if len(reports) > 1:
        summary["warm_waiting_share"] = total(reports[1:])["waiting_share"]
    return summary


def reading_in_words(summary: Mapping[str, float]) -> str:
    """Say a summary in one line."""
    warm = f" ({summary['warm_waiting_share']:.1%} once warm)" if "warm_waiting_share" in summary else ""
    words = [
        f"waited {summary['waiting_share']:.1%} of the step time{warm}",
        f"{summary['samples']:,.0f} samples",
        f"{summary['read_mib']:,.1f} MiB",
    ]
    if "amplification" in summary:
        words.append(f"{summary['amplification']:.2f} bytes fetched for each one used")
    return ", ".join(words)

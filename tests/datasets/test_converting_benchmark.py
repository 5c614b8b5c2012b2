"""The benchmark of converting runs, tiny: bounded memory, and a kill that costs only what was not finished."""

from pathlib import Path

import pytest

from tests.benchmarks.converting import LIMIT, measure


@pytest.mark.slow
def test_memory_is_bounded_and_a_kill_costs_little(tmp_path: Path) -> None:
    figures = measure(tmp_path, 3e8, kill=True)
    assert figures["source_gigabytes"] == pytest.approx(0.3, rel=0.05)
    assert 0 < figures["peak_gigabytes"] * 1e9 < LIMIT
    assert 0 < figures["kept_pieces"] < figures["pieces"]

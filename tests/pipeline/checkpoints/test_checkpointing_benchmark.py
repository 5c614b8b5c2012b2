"""The benchmark of checkpointing runs, tiny."""

from tests.benchmarks.checkpointing import Case, measure, table


def test_what_a_checkpoint_costs_is_measured(tmp_path):
    row = measure(Case("tiny", "4 d4 u4", 1, 2, (16, 16)), tmp_path, 2)
    assert row["checkpoint_bytes"] > 3 * 4 * row["parameters"]
    assert min(row["held_up_s"], row["behind_s"], row["write_s"], row["step_s"]) > 0
    assert "| tiny |" in table([row])

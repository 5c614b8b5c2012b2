"""Which commit made a thing: read from the checkout, or told by whoever sent the code somewhere else."""

import pytest

from datasets import provenance


def test_a_checkout_knows_its_commit(monkeypatch):
    monkeypatch.setenv("TELEGRAPHER_COMMIT", "told")
    assert len(provenance.code_version().removesuffix("-dirty")) == 40


@pytest.mark.parametrize(("told", "known"), [("0123abcd", "0123abcd"), ("", "unknown"), (None, "unknown")])
def test_an_upload_is_told_its_commit(monkeypatch, tmp_path, told, known):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if told is None:
        monkeypatch.delenv("TELEGRAPHER_COMMIT", raising=False)
    else:
        monkeypatch.setenv("TELEGRAPHER_COMMIT", told)
    assert provenance.code_version() == known

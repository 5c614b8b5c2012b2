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


def test_an_image_knows_its_commit_but_does_not_pass_it_for_that_of_an_upload(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("TELEGRAPHER_COMMIT", raising=False)
    (tmp_path / "COMMIT").write_text("4567cdef\n")
    assert provenance.code_version() == "4567cdef"
    monkeypatch.setenv("TELEGRAPHER_COMMIT", "89ab0123")
    assert provenance.code_version() == "89ab0123"

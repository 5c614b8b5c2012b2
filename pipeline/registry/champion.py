"""Which version of a model is the champion: only scores on the same cells compare."""

from dataclasses import dataclass

_SAME = {"volume_digest": "volume", "split_digest": "split", "factor": "grid"}
"""What two versions must have in common for their scores to compare."""


@dataclass(frozen=True)
class Standing:
    """How a version did on the test part of a split of a volume."""

    version: str  # ``NAME/3``
    miou: float
    volume_digest: str
    split_digest: str
    factor: str  # by which the grid of the scored cells is coarser than the volume's

    def tags(self) -> dict[str, str]:
        """Return the tags from which `of` reads a standing."""
        return {"test_miou": repr(self.miou)} | {key: getattr(self, key) for key in _SAME}

    @classmethod
    def of(cls, version: str, tags: dict[str, str]) -> "Standing":
        """Read a version's standing; what its tags lack stays empty and compares with nothing."""
        return cls(version, float(tags.get("test_miou", "nan")), *(tags.get(key, "") for key in _SAME))


def difference(new: Standing, champion: Standing) -> str:
    """Say what differs in what two versions were tested on; empty where they compare."""
    for key, thing in _SAME.items():
        mine, theirs = getattr(new, key), getattr(champion, key)
        if mine != theirs or not mine:
            return f"different {thing}s ({mine[:12] or 'unknown'} against {theirs[:12] or 'unknown'})"
    return ""


def compare(new: Standing, champion: Standing | None) -> tuple[bool, str]:
    """Decide whether a new version becomes champion, and say why."""
    if champion is None:
        return True, f"{new.version} becomes champion: there was none."
    stays = f"{champion.version} stays champion, not {new.version}"
    if found := difference(new, champion):
        return False, f"{stays}: they were tested on {found}, so they do not compare; pass --force if you know better."
    scores = f"{new.miou:.4f} against {champion.miou:.4f} on the same test split"
    if new.miou > champion.miou:
        return True, f"{new.version} becomes champion in place of {champion.version}: test mIoU {scores}."
    return False, f"{stays}: its test mIoU is not better, {scores}."

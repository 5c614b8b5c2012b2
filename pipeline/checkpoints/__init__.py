"""The checkpoints of a run: written behind the training, checked, and found again."""

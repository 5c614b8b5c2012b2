"""One run, from the refusal of what cannot work to the last checkpoint."""

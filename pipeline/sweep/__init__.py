"""The search over depth, rank and more."""

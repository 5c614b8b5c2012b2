"""Volumes: open, convert, describe, split and cut them. Never imports models or pipeline."""

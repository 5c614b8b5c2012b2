"""Surveys of a drawn earth, with labels that are known everywhere."""

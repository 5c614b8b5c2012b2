"""A volume examined, alone or before a recipe."""

"""Registered models: what a version carries, and which is champion."""

"""The network: telegraph layers, their reversible chain, the read-out. Imports torch and nothing else of ours.

The configuration (`models.config`) imports no torch, so that a command line built from it answers at once.
"""

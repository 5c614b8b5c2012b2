"""The network: telegraph layers, their reversible chain, the read-out. Imports torch and nothing else of ours."""

"""Many runs at once: the search over depth, rank and more."""

"""The work: train, tune, evaluate, predict, register, and the command line over them."""

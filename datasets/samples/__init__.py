"""What a run trains on: split, blocks, the order of samples, and their loading."""

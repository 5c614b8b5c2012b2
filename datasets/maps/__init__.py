"""Places on the map: coordinate systems, grids, readings in tables and between flight lines."""

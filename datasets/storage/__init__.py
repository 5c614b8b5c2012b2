"""Zarr stores in folders and clouds: objects, shards, chunks; read in parts, written so that killed writers go on."""

"""Labels that come as things on a map or in a section, one file a kind: horizons, polygons, wells.

Each has ``place(ds, config)`` for the class indices, uint8 with 255 for unlabelled, over the map of a volume and (then
lazy) its vertical dimension, and, in words, how much of the source these are. `InputError` says where a file cannot be
read, lies outside the volume, or has a class without a name. `datasets.label_sources.place` chooses.
"""

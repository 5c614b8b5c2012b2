"""Labels that come as things on a map or in a section, one file a kind: horizons, polygons, wells.

Each has ``place(ds, config) -> xarray.DataArray`` of class indices on the volume's own cells, lazy where they have a
vertical dimension; `datasets.label_sources.place` chooses.
"""

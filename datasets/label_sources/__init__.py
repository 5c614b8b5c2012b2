"""Labels that come as things on a map or in a section, one file a kind: horizons, polygons, wells.

Each has ``place(ds, config) -> xarray.DataArray`` of class indices, uint8 with 255 for unlabelled, on the cells of the
map of a chunked volume, and of its vertical dimension where the labels have one: then they are lazy. It raises
`InputError` where a file cannot be read, lies outside the volume, or has a class without a name.
`datasets.label_sources.place` chooses.
"""

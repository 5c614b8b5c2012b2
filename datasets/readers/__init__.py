"""One file a source format.

Each has ``read(config) -> xarray.Dataset`` with ``data``, lazy where the format allows, and as far as the source knows
them ``valid``, ``labels`` (the source's values), coordinates and the attributes title and licence, ``crs`` (in any form
that pyproj reads) and ``nodata`` (values that mark no data); the attribute ``files`` lists what was read. `InputError`
says where a file is missing, of another format, cut short, contradicts itself, or needs a setting that is empty.
"""

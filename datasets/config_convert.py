"""Configuration of a conversion. Imports nothing heavy."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from datasets.errors import InputError

Format = Literal[
    "auto", "matlab", "numpy", "segy", "geotiff", "tensorly", "envi", "geosoft", "surfer", "netcdf", "lines"
]
Gridding = Literal["nearest", "linear", "cubic"]
_OF_FURTHER = [
    "source", "crs", "format", "key", "dims", "nodata", "columns", "xy_columns", "table_columns", "gridding",
    "blank_distance",
]  # fmt: skip
_WANTED = {
    str: "text", bool: "true or false", int: "a whole number", float | None: "a number",
    list[str]: "a list such as [mag]",
}  # fmt: skip


@dataclass
class ConvertConfig:
    """How a source becomes a labelled Zarr volume.

    Attributes
    ----------
    source
        File to convert, or ``tensorly:indian_pines`` (an AVIRIS scene that TensorLy ships).
    more_sources
        Further sources of the area, whose bands follow those of `source` as channels: files, or settings of one such as
        ``{source: tmi.grd, crs: EPSG:28354}``. GeoTIFF, Geosoft or Surfer grids, netCDF, ENVI, or flight lines or
        stations, which are gridded onto the cells of the first. Of the settings below, each has its own `crs`,
        `format`, `key`, `dims`, `columns`, `xy_columns`, `table_columns`, `gridding`, `blank_distance` and `nodata`
        (default: the conversion's). `crs` is needed where the file lacks it, as Geosoft's, Surfer's and tables do;
        ``local`` where the first source's is.
    resample
        How `more_sources` on other cells or in another system are brought to those of `source`: ``nearest``,
        ``bilinear`` (of the nearest four) or ``average``, for finer grids. Empty refuses them.
    out
        Zarr store to write, as ``surveys/NAME.zarr`` or ``s3://bucket/NAME.zarr``.
    format
        Format of the source; ``auto`` goes by suffix, and for .grd by the first bytes.
    key
        Name of the array in a .mat, .npz or netCDF file that holds several.
    shape
        Shape that the array is brought to first: ``[156, 95, 95]`` for a scene flattened to (156, 9025).
    order
        How a flattened array runs through its cells: ``C`` (last index first) or ``F`` (column-major, as in MATLAB).
    dims
        Names of the array's dimensions; left-over axes of length 1 are dropped.
    transpose
        Order of the stored dimensions. Default: the source's.
    labels
        File of the labels; empty with `labels_key` set means the source. Polygons (.geojson, .gpkg) and wells (.csv
        with x, y, and z or from and to) are placed on the cells of the map.
    labels_key
        Their name in a .mat, .npz or netCDF file; attribute or column with the class of polygons and wells.
    horizons
        Files of picked surfaces, by rising vertical coordinate: tables with that and x and y or the map's dimensions,
        or .npy grids. Class 0 lies before the first, 1 after it, and so on, where both sides are picked.
    label_columns
        Columns of horizons and wells, where the file does not name them rightly.
    label_radius
        How far around a well its class holds, in map units; the nearest well wins, of equals the first in the file.
    label_touched
        Whether a polygon labels all cells it touches, not only those whose centre it covers.
    labels_crs
        Coordinate system of the labels, where their file does not say it and it is not the volume's.
    label_shape
        As `shape`, for the labels.
    label_dims
        As `dims`, for the labels; needed where they have fewer dimensions than the data.
    labels_dominant
        For labels that are shares, class first: a cell's class (from 0) is that of its largest share, if at least this.
    class_names
        Value of the labels -> name of the class. Any other value is unlabelled.
    valid
        File of the no-data mask, true or non-zero where there is data; as for `labels`.
    valid_key
        Its name in a .mat, .npz or netCDF file.
    valid_dims
        As `dims`, for the mask. Default: those of the data.
    nodata
        Value that marks no data, besides NaN and what the format itself says.
    constant_pieces
        Dimensions of pieces that are no data where they hold one value: ``[inline, crossline]`` for missing slices.
    coordinates
        Dimension -> its coordinates: a list of values, ``"start:step"``, a .json or .npy file, or a key of the source.
        Text becomes dates where it can, else names.
    coordinate_units
        Dimension -> units of its coordinates.
    extent
        GeoJSON file whose bounds are the outer edges of the cells along x and y (y falls with the row); its CRS counts
        where `crs` is not set.
    crs
        Coordinate reference system, such as ``EPSG:32633``; ``local`` where nobody knows it. Default: the source's.
    name
        What the data are, in words.
    units
        Units of the data.
    title
        Title of the volume. Default: the source's name.
    licence
        Licence and origin of the data and the labels.
    endian
        Byte order of a SEG-Y file; ``auto`` finds out.
    inline_byte
        Byte of a SEG-Y trace header, from 1, at which the inline number starts.
    crossline_byte
        The same for the crossline number.
    x_byte
        The same for the easting.
    y_byte
        The same for the northing.
    vertical
        Vertical dimension of a SEG-Y cube: ``twt`` (two-way time in ms) or ``depth``.
    columns
        Readings of a table of flight lines or stations (CSV, XYZ, ASEG-GDF2) to grid, each to a band; a single one of
        several values, NAME[0], NAME[1], ..., to layers.
    xy_columns
        Columns of its positions. Default: easting and northing, x and y, or longitude and latitude.
    table_columns
        Names of its columns where the file does not name them.
    lines_crs
        Coordinate system of its positions, where it is not `crs`, in which they are gridded.
    cell_size
        Edge of a cell of the grid, in the units of `crs`.
    gridding
        How cells between the medians of readings are filled: ``nearest``, ``linear`` or ``cubic``.
    blank_distance
        Cells farther than that from any reading are no data, in the units of `crs`.
    chunks
        Dimension -> edge of a stored chunk, in cells. Default: chunks of 1 to 2 MiB, or fitted to `block`.
    block
        Dimension -> edge of the blocks that training will read, in cells; others are read whole.
    overviews
        Whether a volume of more than 64 MiB gets coarser copies, for viewing.
    overwrite
        Whether an existing `out` is replaced.
    """

    source: str = ""
    more_sources: list[str | dict[str, Any]] = field(default_factory=list)
    resample: Literal["", "nearest", "bilinear", "average"] = ""
    out: str = ""
    format: Format = "auto"
    key: str = ""
    shape: list[int] = field(default_factory=list)
    order: Literal["C", "F"] = "C"
    dims: list[str] = field(default_factory=list)
    transpose: list[str] = field(default_factory=list)
    labels: str = ""
    labels_key: str = ""
    horizons: list[str] = field(default_factory=list)
    label_columns: list[str] = field(default_factory=list)
    label_radius: float | None = None
    label_touched: bool = False
    labels_crs: str = ""
    label_shape: list[int] = field(default_factory=list)
    label_dims: list[str] = field(default_factory=list)
    labels_dominant: float | None = None
    class_names: dict[int, str] = field(default_factory=dict)
    valid: str = ""
    valid_key: str = ""
    valid_dims: list[str] = field(default_factory=list)
    nodata: float | None = None
    constant_pieces: list[str] = field(default_factory=list)
    coordinates: dict[str, list[int] | list[float] | list[str] | str] = field(default_factory=dict)
    coordinate_units: dict[str, str] = field(default_factory=dict)
    extent: str = ""
    crs: str = ""
    name: str = ""
    units: str = ""
    title: str = ""
    licence: str = ""
    endian: Literal["auto", "big", "little"] = "auto"
    inline_byte: int = 189
    crossline_byte: int = 193
    x_byte: int = 181
    y_byte: int = 185
    vertical: Literal["twt", "depth"] = "twt"
    columns: list[str] = field(default_factory=list)
    xy_columns: list[str] = field(default_factory=list)
    table_columns: list[str] = field(default_factory=list)
    lines_crs: str = ""
    cell_size: float | None = None
    gridding: Gridding = "linear"
    blank_distance: float | None = None
    chunks: dict[str, int] = field(default_factory=dict)
    block: dict[str, int] = field(default_factory=dict)
    overviews: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        for given in self.more_sources:
            _further(given)
        if len(set(self.dims)) != len(self.dims):
            raise InputError(f"dims is {self.dims}; every dimension needs a name of its own")
        if len(self.class_names) > 255:
            raise InputError(f"class_names holds {len(self.class_names)} classes; a volume can have up to 255")
        values: dict[str, int] = {}
        for value, name in self.class_names.items():
            if (other := values.setdefault(name, value)) != value:
                raise InputError(f"class_names calls both {other} and {value} {name!r}; give each a name of its own")
        for name in ("chunks", "block"):
            if any(edge < 1 for edge in getattr(self, name).values()):
                raise InputError(f"{name} is {getattr(self, name)}; every edge must be 1 cell or more")

    @property
    def others(self) -> list["ConvertConfig"]:
        """`more_sources` with all of their settings."""
        return [_further(given) for given in self.more_sources]


def _further(given: Any) -> ConvertConfig:
    if isinstance(given, str):
        return ConvertConfig(given)
    if not isinstance(given, dict) or not set(given) <= set(_OF_FURTHER):
        raise InputError(
            f"more_sources holds {given!r}; an entry is a file, or a mapping of the settings {_OF_FURTHER}"
        )
    if not given.get("source"):
        raise InputError(f"more_sources holds {given!r}, which names no source; write {{source: FILE, ...}}")
    refuse_types(given, "more_sources", f" for {given['source']}")
    return ConvertConfig(**given)


def refuse_types(settings: Mapping[str, Any], where: str, whose: str = "") -> None:
    """Refuse settings of a source, read from YAML, that are not of their types; others are passed over."""
    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(ConvertConfig)
    for name, value in settings.items():
        hint = hints.get(name, Any)
        try:
            TypeAdapter(hint).validate_python(value, strict=True)
        except ValidationError as error:
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            wanted = f"one of {', '.join(choices)}" if choices else _WANTED.get(hint, f"of the type {hint}")
            raise InputError(f"{where} has {name} = {value!r}{whose}; it must be {wanted}") from error


def changed(config: ConvertConfig, without: Collection[str] = ()) -> dict[str, Any]:
    """Take the settings that are not at their defaults, without some."""
    plain = asdict(type(config)())
    return {name: value for name, value in asdict(config).items() if name not in without and value != plain[name]}


def read_settings(path: Path) -> Any:
    """Read what a YAML file holds, where it is settings with paths that start at the file's own folder."""
    import yaml

    def place(where: str) -> str:
        return where if not where or "://" in where else str(path.parent / where)

    try:
        settings = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        return settings
    refuse_types(settings, str(path))
    for name, given in settings.items():
        if name in ("source", "labels", "valid", "extent"):
            settings[name] = place(given)
        elif name == "horizons":
            settings[name] = [place(where) for where in given]
        elif name == "coordinates":
            for dim, at in given.items():
                if isinstance(at, str) and at.endswith((".json", ".npy")):
                    given[dim] = place(at)
    return settings

"""Who may import whom: read from the source, so that a slip fails here and not on a machine without the dependency."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSES = ("models", "datasets", "pipeline", "cluster")
SOURCES = sorted(path for house in (*HOUSES, "tests") for path in (ROOT / house).rglob("*.py"))
OURS = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
DOORS = {
    "ray": "pipeline/mapping/spread pipeline/sweep/halving pipeline/sweep/searcher pipeline/sweep/trial "
    "pipeline/sweep/tune pipeline/tracking/gauges pipeline/training/rank pipeline/training/worker",
    "optuna": "pipeline/sweep/searcher",
    "mlflow": "pipeline/registry/register pipeline/registry/versions pipeline/tracking/tracker",
    "zarr": "datasets/prediction datasets/sources/foreign datasets/sources/foreign_layouts "
    "datasets/storage/metadata datasets/storage/overviews datasets/storage/upload "
    "datasets/storage/writing datasets/store",
    "obstore": "datasets/storage/aws_profiles datasets/storage/objects",
    "boto3": "datasets/storage/aws_profiles",
    "numcodecs": "datasets/storage/codecs",
    "zstandard": "datasets/storage/codecs",
    "google_crc32c": "datasets/storage/codecs",
    "dask": "datasets/prediction datasets/sources/masking datasets/statistics datasets/storage/lazy "
    "datasets/storage/overviews datasets/storage/writing datasets/synthetic/survey",
    "sklearn": "pipeline/scoring/baseline",
    "matplotlib": "pipeline/pictures/curves pipeline/pictures/leaks pipeline/pictures/maps "
    "pipeline/pictures/style pipeline/pictures/sweep",
    "jinja2": "pipeline/report/page",
    "segyio": "datasets/export datasets/readers/segy",
    "rasterio": "datasets/label_sources/polygons datasets/maps/geotiff datasets/readers/geotiff "
    "datasets/readers/resample",
    "rioxarray": "datasets/maps/coordinates datasets/maps/geotiff datasets/readers/geotiff datasets/readers/netcdf",
    "h5py": "datasets/readers/matlab",
    "h5netcdf": "",  # only through xarray
    "pyproj": "datasets/label_sources/polygons datasets/maps/map_grid",
    "pyogrio": "datasets/label_sources/polygons",
    "tensorly": "datasets/readers/tensorly",
    "jsonargparse": "pipeline/recipe",
    "monai": "",  # only in the benchmark
}
LIGHT = (
    "pipeline.cli",
    "pipeline.config",
    "pipeline.config_sweep",
    "models.config",
    "datasets.config",
    "datasets.config_export",
)
HEAVY = {"torch", "xarray", "dask", "zarr", "mlflow", "ray", "sklearn", "matplotlib", "scipy", "numpy", "rasterio"}


@cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Names of all modules that a file imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name if name in OURS else str(node.module), id(node) not in late) for name in names]
    return tuple(found)


def tops(house: str) -> dict[str, set[str]]:
    """Top-level names that each file of a folder imports anywhere, functions included."""
    files = (path for path in SOURCES if path.is_relative_to(ROOT / house))
    return {str(path.relative_to(ROOT)): {name.split(".")[0] for name, _ in imports(path)} for path in files}


def test_models_import_torch_and_themselves_only() -> None:
    allowed = {"torch", "models", *sys.stdlib_module_names}
    assert {file: names - allowed for file, names in tops("models").items() if names - allowed} == {}


@pytest.mark.parametrize(
    ("house", "barred"),
    [("datasets", {"models", "pipeline", "cluster", "tests", "torch"}), ("pipeline", {"cluster", "tests"}),
     ("cluster", {*HOUSES, "tests"} - {"cluster"})],
)  # fmt: skip
def test_layers_point_one_way(house: str, barred: set[str]) -> None:
    assert {file: names & barred for file, names in tops(house).items() if names & barred} == {}


@pytest.mark.parametrize("dependency", DOORS)
def test_a_heavy_dependency_enters_by_its_doors(dependency: str) -> None:
    found = {file for house in HOUSES for file, names in tops(house).items() if dependency in names}
    assert found == {f"{door}.py" for door in DOORS[dependency].split()}


def test_no_import_cycles() -> None:
    graph = {name: {used for used, early in imports(path) if early and used in OURS} for name, path in OURS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("house", ["datasets", "pipeline"])
def test_folders_point_one_way(house: str) -> None:
    """Storage knows nothing of samples, nor a checkpoint of training: a folder is understood without those above it."""
    graph: dict[str, set[str]] = {}
    for name, path in OURS.items():
        own, used = name.split(".")[:2], [used.split(".")[:2] for used, _ in imports(path) if used in OURS]
        if own[0] == house and len(own) == 2:
            graph.setdefault(own[1], set()).update(
                one[1] for one in used if one[0] == house and len(one) > 1 and one != own
            )
    assert {"storage", "training"} & set(graph)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("house", HOUSES)
def test_the_names_are_ours_and_not_some_installed_package(house: str) -> None:
    module = importlib.import_module(house)
    assert {Path(place) for place in module.__path__} == {ROOT / house}


def test_no_file_outgrows_its_one_reason_to_exist() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {file: length for file, length in lengths.items() if length > 350} == {}


def test_what_help_needs_imports_nothing_heavy() -> None:
    code = f"import sys, {', '.join(LIGHT)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == set()


def test_rays_controller_reads_no_network():
    """It is a process of its own, which a run waits for before its workers are started."""
    code = "import sys, pipeline.training.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    read = set(done.stdout.split())
    assert {"ray.train", "pipeline.config"} <= read
    assert not read & {"models.network", "mlflow", "dask", "rioxarray", "matplotlib"}

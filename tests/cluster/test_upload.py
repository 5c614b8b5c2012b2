"""What a job uploads: all that it runs, and less than 1 MB; checked by Ray's own packaging."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from cluster.submit import pack

ROOT = Path(__file__).parents[2]
LIMIT = 2**20
"""Bytes of the plain upload, which Ray counts in MiB."""
AT_THE_DESK = {
    "datasets/export.py", "datasets/config_export.py", "pipeline/registry/onnx.py", "pipeline/planning/plan.py",
    "pipeline/quickstart.py", "datasets/readers/tensorly.py",
}  # fmt: skip
"""What is done where a survey's own file lies, before there is a job, or for programs of others."""
MADE = ("timelapse", "parihaka", "indian-pines")
"""Volumes that recipes which stay behind convert."""


def tracked(*folders: str) -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that Ray makes of a clean checkout, in which somebody has already trained."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    folder = tmp_path_factory.mktemp("upload")
    for name in tracked():
        (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "checkout" / name)
    for place in ("runs/one/model.pt", "surveys/one.zarr/c/0", "maps/one.zarr/c/0", ".git/config", ".venv/bin/python"):
        (folder / "checkout" / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "checkout" / place).write_bytes(bytes(LIMIT))
    create_package(
        str(folder / "checkout"), folder / "package.zip", include_gitignore=True,
        excludes=get_runtime_env_default_excludes(),
    )  # fmt: skip
    return folder / "package.zip"


def test_the_helper_uploads_the_same_files_in_half_of_that(package, tmp_path):
    packed = pack(tmp_path / "checkout.zip")
    assert packed.stat().st_size < LIMIT / 2
    with ZipFile(package) as rays, ZipFile(packed) as ours:
        assert set(ours.namelist()) == {name for name in rays.namelist() if not name.endswith("/")}
        assert ours.testzip() is None


def test_ray_uploads_less_than_a_megabyte_though_uncompressed(package):
    assert package.stat().st_size < LIMIT


def test_the_upload_holds_all_that_a_job_runs_and_little_else(package):
    names = {name for name in ZipFile(package).namelist() if not name.endswith("/")}
    needed = tracked("models", "datasets", "pipeline")
    assert "pipeline/recipes/quickstart.yaml" in names
    assert names - needed <= {".gitignore", ".rayignore"}
    words = {name for name in needed - names if name.endswith("__init__.py")}
    for name in words:  # in which there is nothing to run
        (only,) = ast.parse((ROOT / name).read_text()).body
        assert isinstance(only, ast.Expr)
        assert len(Path(name).parts) > 2, f"{name} makes one of our names a package"
    left = needed - names - words
    assert left >= AT_THE_DESK
    recipes = {name: yaml.safe_load((ROOT / name).read_text()) for name in left - AT_THE_DESK}
    sources = {name: recipe.get("source") or recipe["data"]["source"] for name, recipe in recipes.items()}
    developers = ("../shared/", "tensorly:", "survey.zarr", *(f"surveys/{name}.zarr" for name in MADE))
    assert all(source.startswith(developers) for source in sources.values()), "a job may want these"


@pytest.mark.parametrize("words", [
    ["export", "map.zarr", "survey.sgy", "salt.sgy"], ["plan", "pipeline/recipes/quickstart.yaml"], ["quickstart"],
])  # fmt: skip
def test_a_job_that_asks_for_what_stayed_behind_is_told_so(words, package, tmp_path):
    ZipFile(package).extractall(tmp_path)
    asked = [sys.executable, "-m", "pipeline", *words]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the code of {words[0]} is not here, as in a job")
    assert done.stderr.count("\n") == 1


def test_a_job_that_converts_what_only_developers_have_is_told_so(package, tmp_path):
    ZipFile(package).extractall(tmp_path)
    asked = [sys.executable, "-m", "pipeline", "convert", "--source", "tensorly:indian_pines", "--out", "pines.zarr"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: tensorly:indian_pines needs datasets.readers.tensorly, which is not here")


def test_nothing_that_is_sent_imports_what_stays_behind(package):
    wanted = set()
    for name in ZipFile(package).namelist():
        for node in ast.walk(ast.parse((ROOT / name).read_text())) if name.endswith(".py") else ():
            if isinstance(node, ast.ImportFrom):
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
    assert "pipeline.registry.export" in wanted
    assert not wanted & {name.removesuffix(".py").replace("/", ".") for name in AT_THE_DESK}

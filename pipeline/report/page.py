"""A page as one self-contained HTML file, written whole or not at all."""

import base64
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from datasets.provenance import code_version, now


def write_page(template: str, content: Mapping[str, object], out: Path) -> Path:
    """Lay content out by a template of this folder, in place of an earlier page; texts are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = f"{now()}, commit {code_version()}"
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(environment.get_template(template).render(**content, made=made), encoding="utf-8")
    return partial.replace(out)


def data_uri(path: Path) -> str:
    """Return a picture as text that a page can hold."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()

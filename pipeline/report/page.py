"""A page as one self-contained HTML file, written whole or not at all."""

import base64
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from datasets.provenance import code_version


def render(template: str, content: Mapping[str, object]) -> str:
    """Lay content out as HTML by one of the templates beside this file; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = f"{datetime.now(UTC).isoformat(timespec='seconds')}, commit {code_version()}"
    return environment.get_template(template).render(**content, made=made)


def write_page(text: str, out: Path) -> Path:
    """Write a page in the place of an earlier one."""
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, out)
    return out


def data_uri(path: Path) -> str:
    """Return a picture as text that a page can hold."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()

"""Configuration of an export. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class ExportConfig:
    """Which map becomes a SEG-Y file, and after which file.

    Attributes
    ----------
    map
        Path or URI of a map that ``predict`` wrote.
    like
        SEG-Y file of the same survey: its trace headers, its traces and their order are taken over.
    out
        SEG-Y file to write, of IEEE floats.
    value
        ``class``: the number of the most probable class; or the name of a class: its probability.
    inline_byte
        Byte at which the trace headers of `like` hold the inline, as 189 or 9.
    crossline_byte
        Byte of the crossline, as 193 or 21.
    endian
        Byte order of `like`, and so of `out`.
    """

    map: str = ""
    like: str = ""
    out: str = ""
    value: str = "class"
    inline_byte: int = 189
    crossline_byte: int = 193
    endian: Literal["auto", "big", "little"] = "auto"

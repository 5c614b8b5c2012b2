"""Tables of text: names of columns that cannot be told apart, and Geosoft's markers of lines."""

from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.maps.tables import read_table


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "x,y,mag,mag\n1,2,3,4\n",
            r"several columns named \['mag'\]; give each of its 4 a name of its own with columns",
        ),
        ("x,y,mag,,\n1,2,3,,\n", r"table\.csv has several columns named \[''\]; give each of its 5 a name of its own"),
        ("x x y y\n1 2 3 4\n", r"has several columns named \['x', 'y'\]; give each of its 4"),
    ],
)
def test_columns_of_one_name_are_refused_until_each_has_its_own(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_table(path, [], "columns")
    own = ["x", "y", "a", "b", "c"][: len(text.split("\n")[1].replace(",", " ,").split())]
    with pytest.raises(InputError, match=r"several columns named \['a'\]"):
        read_table(path, ["a"] * len(own), "columns")
    assert read_table(path, own, "columns").columns.tolist() == own


@pytest.mark.parametrize("mark", ["\t", "  ", ",", ";"])
def test_a_first_column_called_line_is_no_marker(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(mark.join(row) for row in (["LINE", "X", "Y", "MAG"], "1234", "5678")))
    assert read_table(path, [], "columns").to_dict("list") == {"LINE": [1, 5], "X": [2, 6], "Y": [3, 7], "MAG": [4, 8]}


@pytest.mark.parametrize("marker", ["LINE 1001", "Tie L7:2", "random", "LINE 1001 Flight 3"])
def test_markers_of_lines_are_passed_over(tmp_path: Path, marker: str) -> None:
    path = tmp_path / "lines.xyz"
    path.write_text(f"/ X Y MAG\n{marker}\n 1 2 3\n{marker}\n 4 5 6\n")
    assert read_table(path, [], "columns").to_dict("list") == {"X": [1, 4], "Y": [2, 5], "MAG": [3, 6]}

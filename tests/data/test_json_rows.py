import json

import pytest

from prune2deploy.data.json_rows import CHUNK, place_of_row, read_json
from prune2deploy.errors import InputError

ROWS = [{"text": "a\u2028b", "label": 1}, {"text": "c\x85d\re", "label": 0}, {"text": "", "label": 1}]


def read(path):
    return [row for table in read_json(path) for row in table.to_pylist()]


def save(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path):
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LINES), "\r\n".join(LINES) + "\r\n", "\n\n".join(LINES), "\ufeff" + "\n".join(LINES),
        json.dumps(ROWS), json.dumps(ROWS, indent=1), "\n" + json.dumps(ROWS), "[" + ",\n".join(LINES) + "]",
    ],
)  # fmt: skip
def test_every_form_of_the_same_rows(tmp_path, name, text):
    assert read(save(tmp_path / name, text)) == ROWS


CONTAINERS = [{"version": "1.0", "data": ROWS}, {"data": ROWS}, COLUMNS, {"train": ROWS}]


@pytest.mark.parametrize("value", CONTAINERS)
@pytest.mark.parametrize("indent", [None, 2])
def test_object_that_holds_the_rows(tmp_path, value, indent):
    assert read(save(tmp_path / "x.json", json.dumps(value, indent=indent))) == ROWS
    # where every object is a row, this is one as well
    assert read(save(tmp_path / "x.jsonl", json.dumps(value, indent=indent))) == [value]


@pytest.mark.parametrize("end", ["", "\n"])
def test_row_that_holds_objects_is_a_row(tmp_path, end):
    row = {"text": "foo bar", "label": "pos", "entities": [{"text": "foo", "label": "neg"}]}
    for suffix in ("jsonl", "ndjson"):
        path = save(tmp_path / f"x.{suffix}", json.dumps(row) + end)
        assert read(path) == [row]
        assert place_of_row(path, 0) == "line 1"


def test_one_object_is_one_row(tmp_path):
    assert read(save(tmp_path / "x.jsonl", LINES[0])) == ROWS[:1]
    assert read(save(tmp_path / "x.json", json.dumps(ROWS[0], indent=1))) == ROWS[:1]


def test_list_of_texts(tmp_path):
    assert read(save(tmp_path / "x.json", '["a", "b"]')) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize("gap", [0, CHUNK])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, "neg"], ["1", "neg"]),
        (["neg", 1.0], ["neg", "1"]),
        ([True, "x"], ["True", "x"]),
        ([True, 1], ["True", "1"]),
        ([1.0, True], ["1", "True"]),
        ([1, 2.5], [1.0, 2.5]),
        ([2**70, 1], [str(2**70), "1"]),
        (["a", ["b"]], [b'"a"', b'["b"]']),  # bytes: nobody takes them for a text
        ([{"a": 1}, {"a": "b"}], [b'{"a": 1}', b'{"a": "b"}']),
        ([{"a": 1}, {"b": 2}], [{"a": 1, "b": None}, {"a": None, "b": 2}]),
    ],
)
def test_values_of_several_kinds(tmp_path, values, expected, gap):
    rows = [{"label": values[0]}] + [{"label": None}] * gap + [{"label": values[1]}]
    found = read(save(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))
    assert [found[0]["label"], found[-1]["label"]] == expected
    assert all(row["label"] is None for row in found[1:-1])


def test_what_a_row_lacks_is_null(tmp_path):
    rows = [{"text": "a"}] + [{"text": "b"}] * CHUNK + [{"text": "c", "label": 1}]
    found = read(save(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows))))
    assert found[0] == {"text": "a", "label": None}
    assert found[-1] == rows[-1]
    assert len(found) == len(rows)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2: cannot be read as JSON: Expecting value"),
        ('{"text": "a"\n{"text": "b"}\n', "line 1: cannot be read as JSON: Expecting ',' delimiter"),
        ('{"text": "a", "label": 1\n\n{"text": "b"}\n', "line 1: cannot be read as JSON"),
        ('{\n "text": "a"\n}\n{\n "text": "b"\n}\n', "line 4: cannot be read as JSON: Extra data; expected one object"),
        ('{"text": "a"}\n{"te\\ud800xt": "b"}\n', "line 2: the name 'te\\ud800xt' holds half a surrogate pair; mend it"),
        ('{"text": "a"}\n\n{"text": "b"} x\n', "line 3: cannot be read as JSON: Extra data"),
        ('{"text": "a"}\n["b"]\n', "line 2: cannot be read: a list in place of an object"),
        ('{"text": "a"}\nnull\n', "line 2: cannot be read: a null in place of an object"),
        ("[1, 2", "line 1: cannot be read as JSON"),
        ('[{"text": "a"}, 3]', "row 1 (counted from 0): cannot be read: a number in place of an object"),
        ('["a", "b"]\n["c", "d"]\n', "line 2: cannot be read as JSON: Extra data; expected one object a line"),
        ("3", "holds one number; expected one object a line"),
        ('{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: 'text' holds half a surrogate pair"),
        ('{"text": "a"}\n{"text": "é"}\n'.encode("latin-1"), "line 2: cannot be read: byte 0xe9 is no UTF-8"),
        ('{"text": "é"}'.encode("utf-16"), "cannot be read: it is UTF-16, and only UTF-8 is read; save"),
        ("[" * 100_000, "cannot be read as JSON"),
        (" \n\n", "no lines but blank ones"),
    ],
)
def test_files_that_are_no_rows(tmp_path, text, problem):
    assert problem in refusal(save(tmp_path / "x.jsonl", text))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"train": [{"a": 1}], "test": [{"a": 1}], "n": 2}, "holds several splits (train, test), and a file is one; write"),
        ({"train": [], "test": [{"a": 1}]}, "holds several splits (train, test)"),
        ({"train": {"a": [1]}, "validation": {"a": [2]}}, "holds several splits (train, validation)"),
        ({"rows": [{"a": 1}], "features": [{"b": 1}]}, "holds one object; expected one object a line"),
        ({"text": {"0": "a", "1": "b"}, "label": {"0": 0, "1": 1}}, "as pandas writes it by default; write it with to_json"),
        ({"0": {"text": "a", "label": 1}, "1": {"text": "b", "label": 0}}, "as pandas writes it by default"),
        ({"columns": ["text"], "index": [0], "data": [["a"]]}, "as pandas writes it by default"),
    ],
)
def test_objects_that_hold_something_else(tmp_path, value, problem):
    assert problem in refusal(save(tmp_path / "x.json", json.dumps(value)))


def test_places(tmp_path):
    path = save(tmp_path / "x.jsonl", "\n\n".join(LINES))
    assert [place_of_row(path, row) for row in range(3)] == ["line 1", "line 3", "line 5"]
    assert place_of_row(save(tmp_path / "x.json", json.dumps(ROWS)), 2) == "row 2 (counted from 0)"

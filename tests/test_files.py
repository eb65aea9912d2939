import json
import os
import shutil

import pytest
from pydantic import Field

from prune2deploy.errors import InputError
from prune2deploy.files import (
    Record,
    made_directory,
    pretty_json,
    read_record,
    refuse_existing,
    replacing,
    sha256_of,
    staged_directory,
    write_record,
    write_text,
)


class Sample(Record):
    name: str
    values: list[float] = Field(default_factory=list)
    inner: dict[str, list[list[int]]] = Field(default_factory=dict)
    note: str | None = None


class Stop(Exception):  # noqa: N818
    pass


def test_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "one")
    write_text(path, "zwölf\n")
    assert path.read_text(encoding="utf-8") == "zwölf\n"
    assert list(path.parent.iterdir()) == [path]


def test_old_file_stands_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("half of the n")
        assert path.read_text() == "old"
    assert path.read_text() == "half of the n"


@pytest.mark.parametrize("written", [True, False])
def test_failing_write_leaves_the_old_file_and_no_part_of_the_new(tmp_path, written):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as partial:
            if written:
                partial.write_text("half")
            raise Stop

    with pytest.raises(Stop):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_directory_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "out"
    with staged_directory(target) as partial:
        (partial / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert list(target.parent.iterdir()) == [target]


def test_failing_block_leaves_no_directory(tmp_path):
    def fail():
        with staged_directory(tmp_path / "out") as partial:
            (partial / "file").write_text("half")
            raise Stop

    with pytest.raises(Stop):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_does_not_get_into_the_directory(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "stale").write_text("x")
    with staged_directory(tmp_path / "out") as partial:
        (partial / "file").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_directory_that_is_removed_while_it_is_filled(tmp_path):
    def fail(gone):
        with staged_directory(tmp_path / "out") as partial:
            shutil.rmtree(partial)
            if gone:
                (partial / "file").write_text("new")

    for gone in (True, False):
        with pytest.raises(InputError, match="was removed while something was being made in it; run this again"):
            fail(gone)
    assert list(tmp_path.iterdir()) == []


def test_file_where_the_directory_should_be_filled(tmp_path):
    (tmp_path / ".out.partial").write_text("mine")
    with pytest.raises(InputError, match=r"\.out\.partial: .*; remove it"), staged_directory(tmp_path / "out"):
        pass
    assert (tmp_path / ".out.partial").read_text() == "mine"


def test_directory_that_somebody_else_makes_meanwhile(tmp_path):
    def fail():
        with staged_directory(tmp_path / "out"):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "work").write_text("theirs")

    with pytest.raises(InputError, match="already exists"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_place_that_another_process_takes_away(tmp_path):
    target = tmp_path / "other" / "deep" / "out"
    with made_directory(target):
        shutil.rmtree(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_existing_directory_is_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "work").write_text("mine")
    with pytest.raises(InputError, match="already exists"), staged_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "work").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_place_that_is_not_ours_to_write_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(InputError, match=f"{tmp_path} cannot be written to; name another place with --out"):
        refuse_existing(tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_record_comes_back_as_it_was_written(tmp_path):
    record = Sample(name='Ünïcode "quoted"', values=[0.1, 1e-9, -3.0], inner={"a": [[1, 2], []], "b": []})
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json", Sample, "sample", "make one") == record


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"name": "x", "extra": 1}', "extra: Extra inputs are not permitted"),
        ('{"name": "x", "values": [1.0, NaN]}', "values.1"),
        ('{"name": "x", "values": [Infinity]}', "values.0"),
        ('{"values": []}', "name: Field required"),
        ('{"name": 3}', "name: "),
        ('{"name": "x"', "Invalid JSON"),
        ("", "Invalid JSON"),
        ("[]", "object"),
    ],
)
def test_foreign_record_is_refused_in_one_line(tmp_path, text, problem):
    path = tmp_path / "record.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_record(path, Sample, "sample record", "make one")
    message = str(caught.value)
    assert message.startswith(f"{path}: not a valid sample record: ")
    assert problem in message
    assert message.endswith("; make one")
    assert "\n" not in message


def test_missing_and_unreadable_records_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="no such sample record; make one"):
        read_record(tmp_path / "nowhere.json", Sample, "sample record", "make one")
    with pytest.raises(InputError, match=r"cannot be read: .*; make one"):
        read_record(tmp_path, Sample, "sample record", "make one")
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xfc"}')
    with pytest.raises(InputError, match=r"cannot be read: .*; make one"):
        read_record(tmp_path / "latin.json", Sample, "sample record", "make one")


@pytest.mark.parametrize(
    "value",
    [
        {}, [], {"a": {}}, {"a": []}, [[]], [1, 2.5, None, True, "é\n"],
        {"a": [{"b": [1, [2]]}, {}], "c": {"d": "x"}},
        "text", 0, {"quote\"d": "\\"},
    ],
)  # fmt: skip
def test_pretty_json_says_what_json_says(value):
    assert json.loads(pretty_json(value)) == value


def test_pretty_json_keeps_a_row_of_numbers_on_a_line():
    assert pretty_json({"widths": [0, 16, 32], "rows": [[1, 2], [3]]}).splitlines() == [
        "{", '  "widths": [0, 16, 32],', '  "rows": [', "    [1, 2],", "    [3]", "  ]", "}",
    ]  # fmt: skip


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        pretty_json({"a": float("nan")})
    path = tmp_path / "record.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        write_record(path, Sample.model_construct(name="x", values=[float("inf")]))
    assert path.read_text() == "old"


def test_directory_hash_depends_on_names_and_contents_only(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "a").write_text("1")
        (tmp_path / name / "sub" / "b").write_text("2")
    same = sha256_of(tmp_path / "one")
    assert sha256_of(tmp_path / "two") == same
    (tmp_path / "two" / "sub" / "b").write_text("3")
    assert sha256_of(tmp_path / "two") != same
    (tmp_path / "two" / "sub" / "b").write_text("2")
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "c")
    assert sha256_of(tmp_path / "two") != same

"""Rows that a stray quotation mark swallows, and texts of several lines that only look so."""

import csv
import random

import pytest
from test_delimited import as_rows, read, refusal, save, written

from prune2deploy.errors import InputError

OTHERS = "x,a\ny,b\n" * 5


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('text,label\n"foo,a\n\nbar",a\n' + OTHERS, 2),  # blank lines between do not count
        ('text,label\n"foo,a\nfoo,rare\nbar,b\nbaz",a\n' + OTHERS, 3),  # a label that is nowhere else
        ('text,label\n"foo,a\nfoo and bar\nbar,b\nbaz",a\n' + OTHERS, 3),  # a line that is no row
        ('text,label\n"foo, a\nbar", b\nx, a\ny, b\n', 1),
        ('text,label\n"foo,2\nbar",1\nx,1\ny,2\nz,3\n', 1),  # a row or two of each class
        ('label,text\na,"foo\nb,bar"\n' + "a,x\nb,y\n" * 5, 1),
        ('text,label\nfoo,"a\nbar,b"\n' + OTHERS, 1),
        ('id,text,label\n1,"foo,rare\n2,bar",a\n3,x,a\n4,y,b\n5,z,b\n', 1),  # the numbers of rows
        ('text,label\n5" disk,c\n"foo,d\nbar",e\nx,f\n', 1),  # who leaves the first mark alone quotes nothing
        ('text,label\n"foo,l0\n' + "".join(f"t,l{index}\n" for index in range(1, 9)) + 'bar",l9\nx,y\n', 9),  # no others
        ('text\n"foo\n' + "bar\n" * 30 + 'baz"\nqux\n', 31),
        ('text\n5" disk\n"foo\nbar"\n', 1),
    ],
)
def test_swallowed_rows(tmp_path, text, lines):
    assert f"swallows {lines} lines, which look like rows" in refusal(save(tmp_path / "x.csv", text))


@pytest.mark.parametrize(
    "text",
    [
        "Hello, you\nbye", "Yes,\nno", "Dear all,\nthe a,\nand b\n", "a\n\nb", "one\ntwo\nthree",
        "\n".join(f"a line {index}" for index in range(20)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("marks", ["", ' "so to speak"'])
def test_honest_texts(tmp_path, text, marks):
    rows = [(f"text {index}{marks}", "ab"[index % 2]) for index in range(10)] + [(text, "a"), ("Yes", "b")]
    assert read(save(tmp_path / "x.csv", written(rows))) == as_rows(rows)


def test_text_whose_lines_have_commas_is_one_where_a_writer_shows(tmp_path):
    text = "\n".join(f"line {index}, with more" for index in range(20))
    rows = [("so, to speak", "a"), (text, "b"), ("x", "a")]
    assert read(save(tmp_path / "x.csv", written(rows))) == as_rows(rows)


def test_poem_in_a_file_of_one_column_that_a_writer_wrote(tmp_path):
    poem = "\n".join(f"line {index}" for index in range(20))
    path = save(tmp_path / "x.csv", f'text\n"{poem}"\n"with, a comma"\nplain\n')
    assert [row["text"] for row in read(path)] == [poem, "with, a comma", "plain"]


WORDS = ["the", "film", "was", "good", "bad", "a", "is", "it", "I", "love", "hate", "never", "saw", "again"]
NAMES = {"tl": "text,label", "lt": "label,text", "itl": "id,text,label", "ttl": "first,second,label"}


def careless(rng, order, rows, classes):
    """A table of which nobody quoted anything, and the columns of its texts."""

    def text():
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))

    make = {"t": lambda _: text(), "l": lambda _: f"l{rng.randrange(classes)}", "i": lambda row: str(row + 1)}
    return [[make[kind](row) for kind in order] for row in range(rows)], [i for i, kind in enumerate(order) if kind == "t"]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize("between", ["", "\n", "just words\n"])
def test_two_stray_marks_never_cost_a_row(tmp_path, suffix, order, between):
    rng = random.Random(f"{suffix} {order} {between}")
    delimiter = {"csv": ",", "tsv": "\t"}[suffix]
    for _ in range(60):
        table, texts = careless(rng, order, rows=rng.randint(4, 40), classes=rng.choice([2, 5, 20]))
        first = rng.randrange(len(table) - 1)
        last = min(len(table) - 1, first + rng.choice([1, 2, 5, 20]))
        column = rng.choice(texts)
        table[first][column] = '"' + table[first][column]
        table[last][column] += '"'
        lines = [delimiter.join(row) + "\n" for row in table]
        lines.insert(rng.randint(first + 1, last), between)
        path = save(tmp_path / f"x.{suffix}", NAMES[order].replace(",", delimiter) + "\n" + "".join(lines))
        try:
            found = read(path)
        except InputError:
            continue
        assert found == [dict(zip(NAMES[order].split(","), row, strict=True)) for row in table]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_texts_of_people_are_read(tmp_path, suffix):
    rng = random.Random(suffix)
    marks = [". ", "! ", "\n", ", ", "\n\n", ' "so to speak" ', ": ", *[" "] * 9]
    for _ in range(200):
        rows = [
            ("".join(rng.choice(WORDS) + rng.choice(marks) for _ in range(rng.randint(1, 30))), f"l{rng.randrange(4)}")
            for _ in range(rng.randint(4, 40))
        ]
        text = written(rows, {"csv": ",", "tsv": "\t"}[suffix], quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        assert read(save(tmp_path / f"x.{suffix}", text)) == as_rows(rows)

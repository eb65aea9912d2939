import csv
import io
import random

import pytest

from prune2deploy.data.delimited import line_of_record, read_delimited
from prune2deploy.errors import InputError

HEADER = ("text", "label")


def read(path):
    return [row for table in read_delimited(path) for row in table.to_pylist()]


def written(rows, delimiter=",", **options):
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, **options).writerows([HEADER, *rows])
    return stream.getvalue()


def save(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path):
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def as_rows(rows):
    return [dict(zip(HEADER, row, strict=True)) for row in rows]


ODD = ["None", "null", "NA", "nan", "N/A", "True", "1.50", "007", "", "#N/A", "-inf", "1e5", " padded ", "a,b", "a\tb",
       'say "hi"', '"', '""', "two\nlines", "win\r\nlines", "日本", "\u2028", "x" * 200_000, "'", "\\"]  # fmt: skip


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_what_a_csv_writer_wrote_comes_back_as_text(tmp_path, quoting, suffix, delimiter):
    rows = [(text, "neg") for text in ODD]
    path = save(tmp_path / f"x.{suffix}", written(rows, delimiter, quoting=quoting))
    assert read(path) == as_rows(rows)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_random_tables_come_back(tmp_path, seed, suffix, delimiter):
    rng = random.Random(seed)
    pieces = ["a", "bc", '"', ",", "\t", "\n", " ", "'", "\r\n", ""]
    rows = [("".join(rng.choices(pieces, k=rng.randint(0, 9))), rng.choice(["neg", "pos"])) for _ in range(60)]
    rows[0] = ('a "quoted"\nfirst', "neg")
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    path = save(tmp_path / f"x.{suffix}", written(rows, delimiter, quoting=quoting))
    assert read(path) == as_rows(rows)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_ends_of_lines_and_the_mark_of_utf8(tmp_path, end, mark):
    text = end.join(["text,label", "é,neg", "", '"a, b",pos', ""])
    assert read(save(tmp_path / "x.csv", mark + text.encode())) == as_rows([("é", "neg"), ("a, b", "pos")])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tsv_without_quoting_keeps_its_quotation_marks(tmp_path, end):
    rows = [('"never closed', "neg"), ('5" of "it"', "pos"), ('"all of it"', "neg"), ("a, b", "pos"), ('closed"', "neg")]
    rows += [(f"text {index}", "pos") for index in range(300)] + [('"', "neg")]
    path = save(tmp_path / "x.tsv", "".join("\t".join(row) + end for row in [HEADER, *rows]))
    assert read(path) == as_rows(rows)


def test_tsv_of_a_csv_writer_is_known_by_its_doubled_marks(tmp_path):
    rows = [('He said "hi".', "neg"), ("plain", "pos")]
    text = written(rows, "\t")
    assert '"He said ""hi""."' in text
    assert read(save(tmp_path / "x.tsv", text)) == as_rows(rows)
    every = written([("plain", "pos")], "\t", quoting=csv.QUOTE_ALL)
    assert read(save(tmp_path / "y.tsv", every)) == as_rows([("plain", "pos")])


def test_row_that_swallows_others_is_refused_by_its_line(tmp_path):
    lines = [f"text {index},{('neg', 'pos')[index % 2]}" for index in range(400)]
    lines[9], lines[389] = '"a stray mark,neg', 'of 5",pos'
    path = save(tmp_path / "x.csv", "\n".join(["text,label", *lines]) + "\n")
    assert len(list(csv.reader(path.open(), strict=True))) < 30  # what the module of Python makes of it
    assert f"{path}, line 11: a quotation mark opens a field that swallows 380 lines" in refusal(path)


@pytest.mark.parametrize("swallowed", [1, 2, 9])
def test_few_swallowed_rows_are_refused_as_well(tmp_path, swallowed):
    lines = [f"text {index},{('neg', 'pos')[index % 2]}" for index in range(30)]
    lines[9], lines[9 + swallowed] = '"a stray mark,neg', 'of 5",pos'
    path = save(tmp_path / "x.csv", "\n".join(["text,label", *lines]))
    assert f"line 11: a quotation mark opens a field that swallows {swallowed} lines" in refusal(path)


def test_nearly_all_rows_swallowed(tmp_path):
    lines = [f"text {index},{('neg', 'pos')[index % 2]}" for index in range(30)]
    lines[0], lines[29] = '"a stray mark,neg', 'of 5",pos'
    assert "swallows 29 lines" in refusal(save(tmp_path / "x.csv", "\n".join(["text,label", *lines])))


@pytest.mark.parametrize(
    "text",
    [
        "Dear all,\nthe film was good,\nI think,\nthank you", "one\ntwo\nthree", "a,b\nc,d\ne,f", "\n\n\n",
        "x,\ny,\nz,",
        "first line, neg or not\nsecond line, pos perhaps",
        "1,2\n" * 5,
    ],
)  # fmt: skip
def test_honest_texts_of_several_lines_are_read(tmp_path, text):
    rows = [(f"text {index}", ("neg", "pos")[index % 2]) for index in range(30)]
    rows[7:9] = [(text, "neg"), (text[::-1], "pos")]
    assert read(save(tmp_path / "x.csv", written(rows))) == as_rows(rows)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("x.csv", 'text,label\na,1\n"b" c,2\n', "line 3: cannot be read: text follows a closing quotation mark"),
        ("x.csv", 'text,label\na,1\n"b,2\nc,1\n', "line 3: cannot be read: a quotation mark opens a field that is never"),
        ("x.csv", 'text,label\n"a\nb" c,1\n', "line 3: cannot be read: text follows a closing quotation mark, in a"),
        ("x.csv", 'text,label\n"He said \\"hi\\"",1\n', "line 2: cannot be read: text follows a closing quotation mark"),
        ("x.csv", "text,label\na,1\n\nb,c,2\n", "line 4: 3 fields where the header has 2 (text, label)"),
        ("x.csv", "text,label\na\n", "line 2: 1 field where the header has 2"),
        ("x.csv", "text;label\na, b;1\n", "line 1: semicolons and no commas between the names of the columns (text;label)"),
        ("x.csv", "text|label\na|1\n", "line 1: bars and no commas between the names of the columns (text|label); save it"),
        ("x.csv", "text\tlabel\na\t1\n", "line 1: tabs and no commas between the names of the columns (text label); rename"),
        ("x.csv", "te\0xt,label\na,1\n", "line 1: the name of column 'te\\x00xt' holds a NUL; rename the column"),
        ("x.csv", "text,label\na,1\n".encode("utf-16-le"), "line 1: cannot be read: it is UTF-16, and only UTF-8"),
        ("x.tsv", "text\tlabel\na\t1\n".encode("utf-16-be"), "line 1: cannot be read: it is UTF-16, and only UTF-8"),
        ("x.tsv", 'text\tlabel\n"a\t1\nb\tc\t2\n', "line 3: 3 fields where the header has 2"),
        ("x.csv", "text,text\na,1\n", "line 1: two columns are called 'text'; is the first line a header?"),
        ("x.csv", "text,label\né,1\n".encode("latin-1"), "line 2: cannot be read: byte 0xe9 is no UTF-8"),
        ("x.csv", "text,label\na,1\n".encode("utf-16"), "line 1: cannot be read: it is UTF-16, and only UTF-8"),
        ("x.csv", "\n\n", "no lines but blank ones"),
    ],
)
def test_tables_that_are_none(tmp_path, name, text, problem):
    assert problem in refusal(save(tmp_path / name, text))


def test_column_without_a_name_is_called_by_its_number(tmp_path):
    path = save(tmp_path / "x.csv", ",text,label\n0,a,neg\n")
    assert read(path) == [{"Unnamed: 0": "0", "text": "a", "label": "neg"}]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_blanks_around_names_and_lines_of_blanks_mean_nothing(tmp_path, suffix):
    text = "text, label \n  \na,neg\n   \n\n b,pos\n\u3000\n".replace(",", {"csv": ",", "tsv": "\t"}[suffix])
    assert read(save(tmp_path / f"x.{suffix}", text)) == as_rows([("a", "neg"), (" b", "pos")])


def test_many_rows_are_read_in_chunks(tmp_path):
    rows = [(f"text {index}", "neg") for index in range(25_000)]
    path = save(tmp_path / "x.csv", written(rows))
    assert len(list(read_delimited(path))) == 3
    assert read(path) == as_rows(rows)


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_line_of_a_row_is_where_it_begins(tmp_path, suffix, delimiter):
    rows = [("a", "1"), ("b\nc\nd", "1"), ("e", "1"), ('f\n"g"', "1"), ("h", "1")]
    path = save(tmp_path / f"x.{suffix}", written(rows, delimiter))
    assert [line_of_record(path, row) for row in range(5)] == [2, 3, 6, 7, 9]
    lines = path.read_text().split("\n")
    assert lines[6 - 1].startswith("e")
    assert lines[9 - 1].startswith("h")

"""Whether quotation marks in TSV files are letters."""

import pytest
from test_delimited import as_rows, read, refusal, save

HEAD = "text\tlabel\n"
DOUBT = "nothing tells whether the quotation marks in this file are letters or stand around fields"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        # spreadsheets quote fields with commas
        ('"Hello, you"\t1\nfoo bar\t0\n"fine, thanks"\t1\n', [("Hello, you", "1"), ("foo bar", "0"), ("fine, thanks", "1")]),
        ('"a\rb"\t1\nfoo\t0\n', [("a\rb", "1"), ("foo", "0")]),
        ('"a\tb"\t1\nfoo\t0\n', [("a\tb", "1"), ("foo", "0")]),
        ('"a\nb"\t1\nfoo\t0\n', [("a\nb", "1"), ("foo", "0")]),
        ('"foo"\t1\n"bar"\t0\n', [("foo", "1"), ("bar", "0")]),  # all of the column
        ('"say ""hi"""\t1\nfoo\t0\n', [('say "hi"', "1"), ("foo", "0")]),
    ],
)
def test_fields_that_a_writer_had_a_reason_to_quote(tmp_path, text, rows):
    assert read(save(tmp_path / "x.tsv", HEAD + text)) == as_rows(rows)


@pytest.mark.parametrize(
    "lines",
    [
        ['"all of it"\t1', "foo\t0"],
        ['"Hello, you"\t1', "well, no\t0"],  # a writer that quotes commas would have quoted the second, too
        ['"Hello, you"\t1', '5" of it\t0'],
        ['"foo\t1', "bar\t0", 'baz"\t0', "x\t1", "y\t0"],
    ],
)
def test_marks_that_are_letters(tmp_path, lines):
    found = read(save(tmp_path / "x.tsv", HEAD + "\n".join(lines) + "\n"))
    assert found == as_rows([line.split("\t") for line in lines])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"say ""hi"""\t1\n"all of it"\t0\n"x"\t1\nfoo\t1\n', 3),
        ('foo\t1\n"a\tb\nc"\t0\n"d\te f\ng"\t1\n', 3),  # two rows with labels of their own each, or one
    ],
)
def test_what_nothing_tells_is_refused(tmp_path, text, line):
    message = refusal(save(tmp_path / "x.tsv", HEAD + text))
    assert f"line {line}: {DOUBT}; save the rows as jsonl, or as .csv" in message


def test_one_column_of_several_lines_is_refused(tmp_path):
    assert f"line 2: {DOUBT}" in refusal(save(tmp_path / "x.tsv", 'text\n"foo\nbar"\nbaz\n'))


def test_ragged_line_is_no_reason_to_swallow_rows(tmp_path):
    lines = [f"text {index}\t{('neg', 'pos')[index % 2]}" for index in range(60)]
    lines[10], lines[30], lines[20] = '"text 10\tneg', 'text 30"\tneg', "text\t20\tneg"
    message = refusal(save(tmp_path / "x.tsv", HEAD + "\n".join(lines)))
    assert "line 22: 3 fields where the header has 2" in message


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_ends_of_lines(tmp_path, end):
    rows = [("foo", "1"), ('"bar', "0"), ("baz", "1")]
    text = end.join("\t".join(row) for row in [("text", "label"), *rows]) + end
    assert read(save(tmp_path / "x.tsv", text)) == as_rows(rows)


def test_line_of_blanks_is_blank_and_one_of_tabs_a_row(tmp_path):
    assert read(save(tmp_path / "x.tsv", HEAD + "a\t1\n   \n\t\nb\t0\n \n")) == as_rows([("a", "1"), ("", ""), ("b", "0")])

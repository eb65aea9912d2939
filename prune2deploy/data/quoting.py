"""Whether quotation marks in a TSV file are letters, as in GLUE's tables, or stand around fields, as csv writers put them.

A writer quotes for a reason: a field holds a tab, a line break or a quotation mark, which it doubles; or, as spreadsheets
do, a comma; or all fields of a column are quoted. Where all quoted fields have a reason, they are quoted; where none has,
the marks are letters; and where some have, nobody can tell.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prune2deploy.data.records import QUOTED, Record, plain_records, quoted_records
from prune2deploy.errors import InputError

TAB = "\t"
Checked = Callable[[Iterator[Record], Path, str], Iterator[Record]]  # which raises for records that are no table


class _Marks:
    """What the quoted fields of a file have in common, column by column: why they may be quoted, and where."""

    def __init__(self) -> None:
        self.rows = 0
        self.first: dict[tuple[int, str], int] = {}  # the line of the first field in a column that has a certain reason
        self.counts: Counter[int] = Counter()  # quoted fields of each column
        self.commas = False  # whether fields with commas go without, or such with marks
        self.lines = 0  # the line of the first field with a line break

    def see(self, record: Record) -> None:
        """Remember the fields of `record`, which is not the header."""
        self.rows += 1
        if not any('"' in line or "," in line for line in record.lines):
            return
        for column, raw in enumerate(record.raw(TAB)):
            inside = QUOTED.fullmatch(raw)
            if inside is None:
                self.commas = self.commas or "," in raw or '"' in raw
                continue
            self.counts[column] += 1
            self.first.setdefault((column, _reason(inside[1])), record.line)
            if "\n" in raw and not self.lines:
                self.lines = record.line

    def split(self) -> tuple[list[int], list[int]]:
        """The lines of quoted fields with a reason, and of those without: the first of each kind."""
        with_one: list[int] = []
        without: list[int] = []
        for (column, reason), line in self.first.items():
            whole = self.rows > 1 and self.counts[column] == self.rows
            good = whole or reason in ("mark", "break") or (reason == "comma" and not self.commas)
            (with_one if good else without).append(line)
        return sorted(with_one), sorted(without)

    @property
    def evident(self) -> bool:
        """Whether fields of one line show a writer's hand."""
        whole = self.rows > 1 and any(count == self.rows for count in self.counts.values())
        return whole or any(reason == "mark" for _, reason in self.first)


def _reason(inside: str) -> str:
    if '"' in inside:
        return "mark"
    return "break" if any(letter in inside for letter in "\t\r\n") else "comma" if "," in inside else "none"


def tsv_records(path: Path, checked: Checked) -> Iterator[Record]:
    """The header and the rows of a TSV file; raises InputError, naming a line, where nothing tells what marks are."""
    if _header_is_quoted(path):
        return checked(quoted_records(path, TAB), path, TAB)
    if not any(value.startswith('"') for record in plain_records(path) for value in record.fields):
        return checked(plain_records(path), path, TAB)
    marks = _Marks()
    try:
        records = checked(quoted_records(path, TAB), path, TAB)
        next(records, None)
        for record in records:
            marks.see(record)
    except InputError:
        # of the two readings, neither of which may be whole, lines that are rows are what people can mend
        return checked(plain_records(path), path, TAB)
    with_reason, without = marks.split()
    if not with_reason:
        return checked(plain_records(path), path, TAB)
    if without:
        raise _doubtful(path, without[0])
    if marks.lines and not marks.evident and _has_one_width(plain_records(path)):
        raise _doubtful(path, marks.lines)
    return checked(quoted_records(path, TAB), path, TAB)


def _doubtful(path: Path, line: int) -> InputError:
    return InputError(
        f"{path}, line {line}: nothing tells whether the quotation marks in this file are letters or stand around fields; "
        "save the rows as jsonl, or as .csv"
    )


def _has_one_width(records: Iterable[Record]) -> bool:
    return len({len(record.fields) for record in records}) == 1


def _header_is_quoted(path: Path) -> bool:
    header = next(plain_records(path), None)
    return header is not None and all(QUOTED.fullmatch(name) for name in header.fields)

"""Rows that a stray quotation mark has made the text of another row.

A text may well hold line breaks and delimiters. But where most of its lines have as many fields as the header, and in one
column what other rows have there, such as labels, they were rows; and so they were where no writer put marks around anything
else and they have single words there. What cannot be told: in a file that quotes other fields as well, rows whose labels no
other row has, and in a file of one column, a few rows.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from prune2deploy.data.records import QUOTED, Record

FEW = 1000  # distinct values, at most, of a column whose values can be told from text
MANY = 8  # lines, at least, that tell something by themselves


@dataclass
class _Column:
    """What one column holds in rows of which nothing is in doubt."""

    counts: dict[str, int] | None = field(default_factory=dict)  # None: too many to be anything but texts
    numbers: bool = True

    def add(self, value: str) -> None:
        self.numbers = self.numbers and value.isdecimal()
        if self.counts is not None:
            self.counts[value] = self.counts.get(value, 0) + 1
            if len(self.counts) > FEW:
                self.counts = None

    @property
    def is_classes(self) -> bool:
        """Whether it says again and again the same."""
        return self.counts is not None and 4 * len(self.counts) <= sum(self.counts.values())

    @property
    def is_index(self) -> bool:
        """Whether it numbers the rows."""
        return self.numbers and (self.counts is None or 2 < len(self.counts) == sum(self.counts.values()))

    def knows(self, value: str, own: str | None) -> bool:
        """Whether rows have `value`, other than the one that has `own`."""
        return self.counts is not None and self.counts.get(value, 0) > (value == own)


class Watch:
    """Looks through the rows of a table of `width` columns for one that has swallowed others."""

    def __init__(self, header: Record, delimiter: str):
        self.width = len(header.fields)
        self.delimiter = delimiter
        self.columns = [_Column() for _ in header.fields]
        self.marked = int(any('"' in line for line in header.lines))  # rows with quotation marks
        self.unquoted = False  # whether there are marks that a csv writer would have put between others
        self.suspects: list[Record] = []

    def see(self, record: Record) -> None:
        """Remember what `record` tells."""
        if any('"' in line for line in record.lines):
            self.marked += 1
            if not self.unquoted and any('"' in value and value in line for line in record.lines for value in record.fields):
                self.unquoted = any('"' in raw and not QUOTED.fullmatch(raw) for raw in record.raw(self.delimiter))
        for column, value in zip(self.columns, record.fields, strict=True):
            if not _breaks(value):
                column.add(value.strip())
        if len(record.lines) > 1 and self._is_suspect(record):
            self.suspects.append(record)

    def swallowing(self) -> Record | None:
        """The first row that has swallowed others."""
        return next((record for record in self.suspects if self._is_swallowing(record)), None)

    def _is_suspect(self, record: Record) -> bool:
        if self.width == 1:  # any line could be a row; of many such texts none is in doubt, and all would be kept
            return len(self.suspects) < 2
        shaped = [row for row in self._apart(record) if len(row) == self.width]
        return 2 * len(shaped) >= len(self._apart(record)) - 1

    def _is_swallowing(self, record: Record) -> bool:
        apart = self._apart(record)
        alone = self.marked == 1 and sum(line.count('"') for line in record.lines) == 2
        shaped = sum(len(row) == self.width for row in apart)
        if alone and len(apart) >= MANY and 2 * shaped > len(apart):
            return True
        if self.width == 1:
            return self.unquoted
        bare = alone or self.unquoted
        return any(self._tells(record, apart, place, bare) for place in range(self.width))

    def _tells(self, record: Record, apart: list[list[str]], place: int, bare: bool) -> bool:
        """Whether column `place` shows that most lines of `record` were rows; `bare`: no writer quoted anything else."""
        column, own = self.columns[place], record.fields[place].strip()
        broken = [index for index, value in enumerate(record.fields) if _breaks(value)]
        if broken and place > broken[-1]:
            apart = apart[:-1]  # the row's own value ends its last line, as it should
        elif broken and place < broken[0]:
            apart = apart[1:]
        cells = [row[place] for row in apart if len(row) == self.width]
        found = [value for cell in cells if (value := cell.strip().strip('"').strip())]
        if place in broken:  # it would be a column of labels, in which the marks are: all lines have to show it
            return column.is_classes and len(found) == len(apart) and all(column.knows(value, own) for value in found)
        fitting = [
            value for value in found
            if column.knows(value, own) or value == own
            or (column.is_index and value.isdecimal() and int(value) > int(own))
        ]  # fmt: skip
        if fitting:  # one such line may be chance, and if it is not, its neighbours have labels of their own
            fitting = [value for value in found if value in fitting or found.count(value) > 1]
        if bare:
            fitting = max(fitting, [cell for cell in cells if cell and not re.search(r"\s", cell)], key=len)
        return bool(fitting) and 2 * len(fitting) >= len(apart)

    def _apart(self, record: Record) -> list[list[str]]:
        return [line.rstrip("\r\n").split(self.delimiter) for line in _filled(record.lines)]


def _filled(lines: list[str]) -> Iterator[str]:
    return (line for line in lines if line.strip())


def _breaks(value: str) -> bool:
    return "\n" in value or "\r" in value

"""The tables in `profiles/` that the repository ships."""

from pathlib import Path

import pytest

from prune2deploy.models.table import read_table, refuse_noisy, table_path

SHIPPED = Path(__file__).parents[2] / "profiles"


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.json")), ids=lambda path: path.stem)
def test_shipped_tables_are_sound_and_lie_where_they_are_looked_for(path):
    table = read_table(path)
    refuse_noisy(table)
    assert path == table_path(SHIPPED, table.device, table.signature, table.runtime, table.precision)
    assert table.checks
    assert table.versions
    assert table.measured_at

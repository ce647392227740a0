"""Where ids may stand is said of every table of the lake."""

from jobs.lake.tables import TABLES
from jobs.stages.purge.places import HOLD_IDS, ROWS_OF_IDS

# No column of these takes a word of the source.
_WITHOUT_IDS = {"indexes", "index_shards", "index_marks", "evaluations", "ablations"}


def test_of_every_table_it_is_said_which_columns_may_hold_ids() -> None:
    assert HOLD_IDS.keys() | _WITHOUT_IDS == {table.name for table in TABLES}
    assert not HOLD_IDS.keys() & _WITHOUT_IDS
    columns = {table.name: table.comments for table in TABLES}
    for table, names in HOLD_IDS.items():
        assert set(names) <= columns[table].keys()
        assert table not in ROWS_OF_IDS or ROWS_OF_IDS[table] in names

"""What commits of a Delta table did, read from its log: a few small files, where Spark would compare all rows."""

from __future__ import annotations

import json

from udfs import storage

_MOST_COMMITS = 200  # more are not worth reading
_MOST_BYTES = 1 << 26  # of one commit
_OF_FILES = {"add", "remove"}
_NO_ROWS = {"commitInfo", "txn", "cdc", "metaData"}  # the metadata has the identity column's mark


def changed_values(table: str, *, column: str, after: str, until: str) -> set[str | None] | None:
    """Values of a partition column in the files that the commits `after` one (the name of its file), `until` another,
    have added or removed. None where the log does not tell: commits are missing, or did anything else.
    """
    first, last = (int(name.partition(".")[0]) for name in (after, until))
    if not 0 <= last - first <= _MOST_COMMITS:
        return None
    found: set[str | None] = set()
    for version in range(first + 1, last + 1):
        uri = storage.join(storage.join(table, "_delta_log"), f"{version:020d}.json")
        try:
            lines = storage.read_bytes(uri, max_bytes=_MOST_BYTES).splitlines()
        except OSError:  # cleaned up, or too large
            return None
        for action in (json.loads(line) for line in lines if line.strip()):
            of_files = action.keys() & _OF_FILES
            if action.keys() - _OF_FILES - _NO_ROWS:
                return None
            values = [action[kind].get("partitionValues", {}) for kind in of_files]
            if any(column not in value for value in values):
                return None
            found |= {value[column] for value in values}
    return found

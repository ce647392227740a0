"""The guard on rejected rows: all statuses together, those with a share of their own by that alone."""

from types import SimpleNamespace

import pytest

from jobs.settings.load import load_settings
from jobs.stages.embed.accounts import require_few_rejected
from udfs.errors import RowsError


def require(allowed, *, rows=200, **rejected):
    settings = load_settings(sets=[f"embed.max_rejected={allowed}"], env={}).embed
    job = SimpleNamespace(settings=settings)
    require_few_rejected(job, rejected=rejected, rows=rows, said="of products")


def test_a_status_with_a_share_of_its_own_counts_by_that_alone():
    require("0.05", empty=5, too_slow=5)
    with pytest.raises(
        RowsError, match=r"11 of 200 rows of products .*\(5.5%\).*max_rejected=0.05"
    ):
        require("0.05", empty=5, too_slow=6)
    require("0.05,empty=0.5", empty=100, too_slow=10)
    with pytest.raises(RowsError, match=r"11 of 200 rows .*max_rejected=0.05 allows"):
        require("0.05,empty=0.5", empty=1, too_slow=11)
    with pytest.raises(
        RowsError, match=r"101 of 200 .*\(empty: 50.5%\).*max_rejected=empty=0.5 allows"
    ):
        require("1,empty=0.5", empty=101)
    require("0", rows=100, empty=100)  # so few say nothing

"""join-similar gives each row of a table its nearest rows of another by cosine, as numpy does; bad vectors have a reason."""

import numpy as np
import pytest

from jobs.lake.runs import Run, record_end
from jobs.settings.load import load_settings
from jobs.stages.join.job import join_similar
from tests.spark.index_vectors import unit
from udfs.errors import LakeError, SettingsError

pytestmark = pytest.mark.spark

DIM, K = 16, 3
NAN, INF = float("nan"), float("inf")
BAD = {
    "null": (None, "no_vector"),
    "short": ([1.0] * 3, "wrong_width"),
    "empty": ([], "wrong_width"),
    "nan": ([NAN] * DIM, "not_finite"),
    "inf": ([INF] * DIM, "not_finite"),
    "hole": ([None, *[1.0] * (DIM - 1)], "not_finite"),
    "zero": ([0.0] * DIM, "zero_norm"),
}


@pytest.fixture
def sides(spark, tmp_path):
    """50 rows of left and 400 of right, of any length, and every kind of bad vector on both; (left, right) unit vectors."""
    left, right = unit(50, DIM, seed=1), unit(400, DIM, seed=2)
    rng = np.random.default_rng(0)
    for name, x, kind in (("left", left, "float"), ("right", right, "double")):
        lengths = rng.uniform(0.01, 1000, len(x))
        rows = [(n, v.tolist()) for n, v in enumerate(x * lengths[:, None])]
        rows += [(-n, vector) for n, (vector, _) in enumerate(BAD.values(), 1)]
        frame = spark.createDataFrame(rows, f"`the-key` long, `a.vec` array<{kind}>")
        frame.write.format("delta").save(str(tmp_path / name))
    return left, right


def joined(lake, folder, *sets: str):
    """Rows of the output, by left_id and rank, and the report."""
    columns = [f"join.{side}_id=the-key" for side in ("left", "right")]
    columns += [f"join.{side}_vector=a.vec" for side in ("left", "right")]
    tables = [f"join.{name}={folder / name}" for name in ("left", "right", "output")]
    settings = load_settings(sets=[*columns, *tables, f"join.k={K}", *sets], env={})
    with record_end(Run(lake, "join_similar", "{}")) as run:
        report = join_similar(lake, run, settings=settings.join)
    rows = lake.spark.read.format("delta").load(report.output).collect()
    return {(row.left_id, row.rank): row for row in rows}, report


def test_each_row_gets_its_nearest_by_cosine_or_a_reason(open_lake, sides, tmp_path, monkeypatch):
    lake, (left, right) = open_lake(published=False), sides
    scores = left @ right.T
    best = np.argsort(-scores, axis=1)[:, :K]
    rows, report = joined(lake, tmp_path)
    hits = {key: row for key, row in rows.items() if row.rank is not None}
    assert {(left_id, rank): row.right_id for (left_id, rank), row in hits.items()} == {
        (str(n), rank): str(best[n, rank - 1]) for n in range(50) for rank in range(1, K + 1)
    }
    for (left_id, _), row in hits.items():
        assert row.score == pytest.approx(scores[int(left_id), int(row.right_id)], abs=1e-6)
        assert (row.status, row.error) == ("ok", None)
    refused = {key[0]: row for key, row in rows.items() if row.rank is None}
    assert {name: row.status for name, row in refused.items()} == {
        str(-n): status for n, (_, status) in enumerate(BAD.values(), 1)
    }
    assert refused["-2"].error == "the vector has 3 values, those it is joined with have 16"
    lost = {"no_vector": 1, "wrong_width": 2, "not_finite": 3, "zero_norm": 1}
    assert report.not_joined == lost and "3 not_finite" in str(report)
    assert report.counts == {
        "left": 57, **{f"left_{reason}": n for reason, n in lost.items()}, "hits": 150, "right": 400
    }  # fmt: skip

    # A right table that no task can open at once gives the same; a lowest score leaves fewer, or none with a reason.
    monkeypatch.setattr("jobs.stages.join.job.SHARD_BYTES", 4 * DIM * 150)
    least = float(np.sort(scores.max(axis=1))[4:6].mean())
    rows, report = joined(lake, tmp_path, "join.executor_bytes=1", f"join.min_score={least}")
    kept = {key: row for key, row in rows.items() if row.rank is not None}
    assert kept.keys() == {key for key, row in hits.items() if row.score >= least}
    assert all(row.right_id == hits[key].right_id for key, row in kept.items())
    assert report.counts["left_without_hits"] == 5
    assert sum(row.status == "no_rows" for row in rows.values()) == 5


def test_what_cannot_be_joined_is_said_and_nothing_is_replaced(open_lake, sides, spark, tmp_path):
    lake = open_lake(published=False)
    bad = spark.createDataFrame([("a", [0.0]), ("a", [0.0])], "id string, v array<float>")
    bad.write.format("delta").save(str(tmp_path / "bad"))
    of_bad = ("join.right_id=id", "join.right_vector=v", f"join.right={tmp_path / 'bad'}")
    for sets, said in (
        (("join.right=",), r"join\.right is not set"),
        (("join.left_id=sku",), r"join\.left_id=sku is no column of .*the-key bigint"),
        (("join.left_vector=the-key",), r"is bigint: expected array<float>"),
        (of_bad, r"has no vector to be found: 2 zero_norm"),
        (
            (f"join.left={tmp_path / 'bad'}", "join.left_id=id", "join.left_vector=v"),
            r"join\.left_id must name each row once.*'a' \(2 rows\)",
        ),
        (("join.output=",), r"join\.output is not set"),
    ):
        with pytest.raises(LakeError, match=said):
            joined(lake, tmp_path, *sets)
    with pytest.raises(SettingsError, match=r"join\.k"):
        joined(lake, tmp_path, "join.k=0")
    assert not (tmp_path / "output").exists()

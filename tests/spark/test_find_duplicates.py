"""find-duplicates gives the pairs that exact search gives, from an index that is asked with every list and code."""

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F

from jobs.lake.lake import now
from jobs.lake.releases import Release
from jobs.lake.runs import Run, record_end
from jobs.settings.load import load_settings
from jobs.stages.duplicates.job import find_duplicates
from jobs.stages.search.target import find_target
from tests.spark.index_vectors import model_of, unit
from udfs.errors import LakeError, SettingsError

pytestmark = pytest.mark.spark

THRESHOLD, K = 0.59, 2
HALVES = 3e-4  # what the index's float16 vectors make of a cosine far from 1, in 32 dimensions
WHOLE = ("duplicates.nprobe=8", "duplicates.k_factor=500")


def found(lake, *sets: str):
    """What find_duplicates writes: (score by pair, cluster by id, report)."""
    settings = load_settings(sets=sets, env={})
    target = find_target(lake)
    with record_end(Run(lake, "find_duplicates", "{}")) as run:
        report = find_duplicates(lake, run, target=target, settings=settings)
    read = lake.spark.read.format("delta")
    rows = [read.load(table).collect() for table in (report.pairs, report.clusters)]
    pairs = {(row.id_a, row.id_b): row.score for row in rows[0]}
    clusters = {row.id: (row.cluster_id, row.size) for row in rows[1]}
    assert report.counts["pairs"] == len(rows[0]) == len(pairs)
    assert report.counts["rows_in_clusters"] == len(rows[1]) == len(clusters)
    return pairs, clusters, report


def brute_force(names: list[str], x: np.ndarray) -> dict[tuple[str, str], float]:
    """Pairs of different contents of which one is among the other's K nearest, in order of vector_id."""
    scores = x @ x.T
    np.fill_diagonal(scores, -np.inf)
    near = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    pairs = {}
    for row, column in zip(np.repeat(np.arange(len(x)), K), near.ravel(), strict=True):
        if scores[row, column] >= THRESHOLD:
            one, other = sorted((names[row], names[column]))
            pairs[one, other] = float(scores[row, column])
    # Nothing stands so near the threshold that halves and floats could differ about it.
    assert np.abs(scores - THRESHOLD).min() > HALVES
    return pairs


def release_index(lake) -> None:
    index = lake.read("indexes").first()
    release = Release(1, "model-a", index.vectors_version, index.index_id)
    lake.append("releases", [{**vars(release), "released_at": now(), "by_run": ""}])


def copy_row(lake, row_id: str, copies: list[str]) -> None:
    """Append rows of other ids with the content and the vector of one."""
    first = lake.read("vectors").where(F.col("id") == row_id).drop("vector_id")
    named = first.drop("id").withColumn("id", F.explode(F.array(*map(F.lit, copies))))
    named.select(first.columns).writeTo(lake.name("vectors")).append()


def test_pairs_are_those_of_brute_force_and_clusters_what_they_connect(lakes, open_lake, tmp_path):
    lakes.copy(lakes.sharded, tmp_path / "lake")
    outputs = [f"duplicates.{name}={tmp_path / name}" for name in ("pairs", "clusters")]
    sets = [*outputs, *WHOLE, f"duplicates.k={K}", f"duplicates.threshold={THRESHOLD}"]
    lake = open_lake(published=False)
    with pytest.raises(LakeError, match=r"no release.*gme-lake release promote"):
        found(lake, *sets)
    release_index(lake)
    pairs, clusters, report = found(lake, *sets, "duplicates.threshold=1")
    assert (pairs, clusters, report.largest_id) == ({}, {}, None)

    # Since then: one row is gone, and exact copies have come, more of them than neighbours are looked at.
    x, copies = unit(1500, 32), ["a-copy", *(f"model-a-7-copy-{n}" for n in range(5))]
    vectors = lake.name("vectors")
    lake.spark.sql(f"DELETE FROM {vectors} WHERE id = 'model-a-3'")
    copy_row(lake, "model-a-7", copies)

    names = [f"model-a-{n}" for n in range(1500)]
    names[7] = "a-copy"  # the smallest id of the content stands for it
    kept = [n for n in range(1500) if n != 3]
    expected = brute_force([names[n] for n in kept], x[kept])
    assert len(expected) > 150
    expected |= {("a-copy", copy): 1.0 for copy in ("model-a-7", *copies[1:])}
    pairs, clusters, report = found(lake, *sets)
    assert pairs.keys() == expected.keys()
    assert all(abs(score - expected[pair]) <= HALVES for pair, score in pairs.items())
    assert clusters.keys() == {name for pair in pairs for name in pair}
    assert all(clusters[a] == clusters[b] for a, b in pairs)
    members = {}
    for name, (first_id, size) in clusters.items():
        members.setdefault((first_id, size), []).append(name)
    assert all(min(ids) == first and len(ids) == size for (first, size), ids in members.items())
    assert report.counts["clusters"] == len(members)
    assert report.counts["largest_cluster"] == max(size for _, size in members) >= 7

    # Shards that no task can open together give the same, in place of the tables before; a bound is reported.
    bounds = ("duplicates.executor_bytes=1", "duplicates.max_cluster=6")
    page = f"duplicates.report={tmp_path / 'page.html'}"
    pairs_again, clusters_again, report = found(lake, *sets, *bounds, page)
    assert (pairs_again, clusters_again) == (pairs, clusters)
    assert report.counts["clusters_too_large"] >= 1
    html = Path(report.page).read_text("utf-8")
    assert "a-copy" in html and "more than 6 rows" in html

    with pytest.raises(LakeError, match=r"pairs score .*max_pairs=5; raise the threshold"):
        found(lake, *sets, "duplicates.max_pairs=5")
    with pytest.raises(SettingsError, match="give two tables"):
        found(lake, *sets, f"duplicates.clusters={tmp_path / 'pairs'}")
    with pytest.raises(LakeError, match=r"duplicates\.clusters is not set"):
        found(lake, *sets, "duplicates.clusters=")
    with pytest.raises(LakeError, match=r"no table of results \(it has no column cluster_id"):
        found(lake, *sets, f"duplicates.clusters={tmp_path / 'lake/tables/vectors'}")
    assert lake.spark.read.format("delta").load(str(tmp_path / "pairs")).count() == len(pairs)


# Of the content of model-a-7, by id; the row itself is of shop "c", and "gone" is no row of the source.
COPIES = {"a-copy": "a", "b-copy": "a", "c-copy": "b", "d-copy": None, "e-copy": None, "gone": None}


def grouped_brute_force(
    shops: dict[str, str | None], pairing: str
) -> tuple[dict[tuple[str, str], float], int]:
    """Pairs within or across shops, row by row as the README says it, and how many of them are copies."""
    names = [f"model-a-{n}" for n in range(1500)] + list(COPIES)
    x = unit(1500, 32)
    x = np.concatenate([x, np.repeat(x[7:8], len(COPIES), axis=0)])
    content = [*range(1500), *[7] * len(COPIES)]

    def may_pair(a: int, b: int) -> bool:
        same = shops.get(names[a]) is not None and shops.get(names[a]) == shops.get(names[b])
        return a != b and same == (pairing == "within")

    pairs, stand = {}, []
    for rows in (np.flatnonzero(np.equal(content, n)).tolist() for n in range(1500)):
        rows.sort(key=lambda row: names[row])
        if pairing == "across":
            stand += rows[:1] + [row for row in rows if may_pair(rows[0], row)][:1]
        else:
            stand += [
                row for at, row in enumerate(rows) if not any(may_pair(row, r) for r in rows[:at])
            ]
        for row in rows:
            mates = [names[mate] for mate in rows if may_pair(row, mate)]
            if mates and (pairing == "across" or mates[0] < names[row]):
                pairs[tuple(sorted((names[row], mates[0])))] = 1.0
    copies, scores = len(pairs), x @ x.T
    for row in sorted(stand):
        mine = np.array([other for other in sorted(stand) if may_pair(row, other)], dtype=int)
        for other in mine[np.argsort(-scores[row, mine], kind="stable")[:K]]:
            if scores[row, other] >= THRESHOLD:
                pair = tuple(sorted((names[row], names[other])))
                pairs.setdefault(pair, float(scores[row, other]))
    return pairs, copies


@pytest.mark.long
def test_pairs_within_and_across_groups_are_those_of_brute_force(lakes, open_lake, tmp_path):
    lakes.copy(lakes.sharded, tmp_path / "lake")
    lake = open_lake(published=False)
    release_index(lake)
    copy_row(lake, "model-a-7", list(COPIES))
    shops = {f"model-a-{n}": "abc"[n % 3] if n % 10 else None for n in range(1500)} | COPIES
    shops["model-a-7"] = "c"
    table = lake.spark.createDataFrame(
        [row for row in shops.items() if row[0] != "gone"], "sku string, shop string"
    )
    table.write.format("delta").save(str(tmp_path / "products"))
    outputs = [f"duplicates.{name}={tmp_path / name}" for name in ("pairs", "clusters")]
    sets = [*outputs, *WHOLE, f"duplicates.k={K}", f"duplicates.threshold={THRESHOLD}"]
    sets.append("duplicates.group_by=shop")
    with pytest.raises(SettingsError, match=r"are both .* give two tables"):
        found(lake, *sets, f"duplicates.clusters={tmp_path}/other/../pairs/")
    with pytest.raises(LakeError, match=r"duplicates\.group_by is about the source table"):
        found(lake, *sets)
    source = load_settings(sets=["source.id=sku", "source.text={shop}"], env={}).to_json()
    model = model_of("model-a", 32)
    with record_end(Run(lake, "embed_table", source, model=model)) as run:
        run.source_table = str(tmp_path / "products")
    with pytest.raises(LakeError, match=r"duplicates\.group_by=stock must be .* sku, shop"):
        found(lake, *sets, "duplicates.group_by=stock")
    for pairing, parts in (("within", ()), ("across", ("duplicates.executor_bytes=1",))):
        pairs, _, _ = found(lake, *sets, *parts, f"duplicates.group_pairs={pairing}")
        expected, copies = grouped_brute_force(shops, pairing)
        assert len(expected) > 50 and pairs.keys() == expected.keys()
        assert all(abs(score - expected[pair]) <= HALVES for pair, score in pairs.items())
        assert sum(score == 1 for score in pairs.values()) == copies > 0


@pytest.mark.parametrize(
    "wrong", ["k=0", "k=-1", "threshold=0", "threshold=1.5", "max_cluster=1", "group_pairs=all"]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingsError, match=f"duplicates.{wrong.partition('=')[0]}"):
        load_settings(sets=[f"duplicates.{wrong}"], env={})

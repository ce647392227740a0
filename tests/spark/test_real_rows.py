"""The same jobs over 1,305 real photos and texts, with queries of every task's kind."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lake_settings import settings_of
from tests.shared import shared
from tests.spark.index_vectors import release
from tests.spark.test_search import search

pytestmark = [pytest.mark.spark, pytest.mark.long]

PER_KIND = 12


def test_real_catalogue_is_embedded_indexed_and_searched(shop, tmp_path):
    from pyspark.sql import functions as F

    folder = shared("retrieval")
    catalogue = shop.spark.read.parquet(str(folder / "catalog.parquet"))
    catalogue.repartition(4).write.format("delta").save(shop.table)
    asked = queries(shop.spark, folder, catalogue)
    asked.write.format("delta").save(str(tmp_path / "queries"))
    shop.sets += [
        f"search.queries={tmp_path / 'queries'}",
        f"search.output={tmp_path / 'results'}",
        "index.nlist=16",
        "index.shards=3",
    ]

    lake, report = shop.embed("embed.files_per_batch=2")
    assert report.counts["embedded"] + report.counts["copied"] == 1305
    assert report.counts["rejected"] == 0
    release(lake)
    found, report, _ = search(lake)

    kinds = asked.groupBy("task").agg(F.collect_list("query_id").alias("ids")).collect()
    assert len(kinds) == 10
    assert all(len(found[query_id]) == 10 for kind in kinds for query_id in kind.ids)
    # History pictures are catalogue rows; asked without text they are not the same content as their row, but every
    # score is the exact inner product, so the best hit is as good as exact search finds.
    vectors = lake.read("vectors").where("status = 'ok'").select("id", "embedding").collect()
    xb = np.array([row.embedding for row in vectors], np.float32)
    assert xb.shape == (1305, 64) and np.abs(np.linalg.norm(xb, axis=1) - 1).max() < 1e-4
    assert recall_against_exact(lake, found, asked, xb, [row.id for row in vectors]) > 0.95


def queries(spark, folder, catalogue):
    """A dozen queries of each of the ten tasks, the picture of an image_ref filled in."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    every = spark.read.parquet(str(folder / "queries.parquet"))
    qrels = spark.read.parquet(str(folder / "qrels.parquet")).select("task", "query_id").distinct()
    order = Window.partitionBy("task").orderBy("query_id")
    some = qrels.withColumn("n", F.row_number().over(order)).where(f"n <= {PER_KIND}")
    pictures = catalogue.select(F.col("id").alias("image_ref"), F.col("image").alias("shown"))
    return (
        some.join(every, "query_id")
        .join(pictures, "image_ref", "left")
        .select(
            F.concat_ws("/", "task", "query_id").alias("query_id"),
            "text",
            F.coalesce("image", "shown").alias("image"),
            "instruction",
            "task",
        )
    )


def recall_against_exact(lake, found, asked, xb, ids) -> float:
    """Share of the exact ten best that the index gave, over all queries."""
    from jobs.settings.conf import profile_named
    from udfs.gme import Encoder, Row

    rows = asked.collect()
    encoder = Encoder.load(settings_of(lake).model.checkpoint, profile=profile_named("tiny"))
    image = [bytes(row.image) if row.image is not None else None for row in rows]
    batch = encoder.encode(
        [
            Row(text=r.text, image=i, instruction=r.instruction, is_query=True)
            for r, i in zip(rows, image, strict=True)
        ]
    )
    best = np.argsort(-(batch.vectors @ xb.T), axis=1)[:, :10]
    hits = [
        len({ids[j] for j in line} & {hit.id for hit in found[row.query_id]})
        for row, line in zip(rows, best, strict=True)
    ]
    return sum(hits) / (10 * len(rows))

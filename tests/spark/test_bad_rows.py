"""A table in which every odd row that users reported stands beside good ones: embedded, indexed, searched."""

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.spark.conftest import picture
from tests.spark.index_vectors import release
from tests.spark.test_search import search

pytestmark = pytest.mark.spark


@pytest.fixture
def silent_server():
    """An http server that tells a picture's size and never sends it."""
    stop = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()

        def do_GET(self):
            stop.wait()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.long
def test_bad_rows_get_their_reasons_and_good_ones_their_vectors(shop, tmp_path, silent_server):
    from pyspark.sql import functions as F

    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "page.jpg").write_bytes(b"SECRET")
    inside = str(tmp_path / "a.png")
    coded = base64.b64encode(picture(1)).decode()
    rows = {
        "good": ("a red mug", inside, "ok"),
        "data": ("a red mug", f"data:image/png;base64,{coded}", "ok"),
        "badtext": ("41FF42", None, "not_utf8"),
        "badpath": ("a red mug", "2FFF2E6A7067", "not_utf8"),
        "badid": ("a blue kite", None, "ok"),
        "passwd": ("x", "file:///etc/passwd", "image_refused"),
        "s3": ("x", "s3:/b/k", "image_refused"),
        "ipfs": ("x", "ipfs://bafy", "image_refused"),
        "nul": ("x", "/a\x00b", "image_unreachable"),
        "gone": ("x", f"{tmp_path}/gone.jpg", "image_missing"),
        "page": ("x", f"{tmp_path}/page.jpg", "image_unsupported_format"),
        "hangs": ("x", f"{silent_server}/a.jpg", "too_slow"),
        "long": ("x" * 2_000_000, None, "ok"),
        "twin": ("a red mug", inside, "ok"),
    }
    frame = shop.spark.createDataFrame(
        [(name, text, uri) for name, (text, uri, _) in rows.items()],
        "id string, title string, image string",
    )

    def raw(column, name):
        """The column with one row's value as bytes that are not UTF-8, as Spark's own cast makes them."""
        return F.when(F.col("id") == name, F.unhex(column).cast("string")).otherwise(F.col(column))

    frame = frame.withColumns({"title": raw("title", "badtext"), "image": raw("image", "badpath")})
    odd = F.concat(F.unhex(F.lit("FF")).cast("string"), F.lit("é"))
    frame = frame.withColumn("id", F.when(F.col("id") == "badid", odd).otherwise(F.col("id")))
    frame.repartition(2).write.format("delta").save(shop.table)
    settings = [
        "source.text={title}",
        f"source.roots={tmp_path},{silent_server}",
        "source.schemes=file,http,data",
        "embed.max_task_seconds_per_row=6",
        "source.first_byte_seconds=50",
    ]
    lake, _ = shop.embed(*settings)

    found = {}
    for row in lake.read("vectors").withColumn("raw", F.hex("id")).collect():
        found["badid" if row.raw == "FFC3A9" else row.id] = row
    assert {name: found[name].status for name in rows} == {n: r[2] for n, r in rows.items()}
    assert len(found) == len(rows)
    for name, row in found.items():
        assert (row.embedding is None) == (row.status != "ok")
        assert "SECRET" not in (row.error or ""), name
    assert found["good"].embedding == found["twin"].embedding
    np.testing.assert_allclose(found["good"].embedding, found["data"].embedding, atol=1e-6)

    # The second time nothing is looked at, and a rescan finds every row as it was.
    _, again = shop.embed(*settings)
    assert again.unchanged
    lake, again = shop.embed(*settings, "source.recheck_files=true")
    assert again.counts["embedded"] == again.counts["copied"] == again.counts.get("deleted", 0) == 0

    # The odd id is indexed, found, and comes back as the same bytes; an odd query is refused alone.
    queries, results = str(tmp_path / "queries.parquet"), str(tmp_path / "results")
    asked = shop.spark.createDataFrame(
        [("kite", "a blue kite"), ("odd", "41FF42")], "query_id string, text string"
    )
    asked = asked.withColumn(
        "text",
        F.when(F.col("query_id") == "odd", F.unhex("text").cast("string")).otherwise(F.col("text")),
    ).withColumn("query_id", F.concat(F.unhex(F.lit("FE")).cast("string"), F.col("query_id")))
    asked.write.parquet(queries)
    shop.sets += [*settings, f"search.queries={queries}", f"search.output={results}", "search.k=3"]
    lake = shop.lake(f"search.report={tmp_path / 'page.html'}")
    release(lake)
    search(lake)
    hits = shop.spark.read.format("delta").load(results)
    hits = {
        (r.query, r.rank): (r.raw, r.status)
        for r in hits.select(
            F.hex("query_id").alias("query"), "rank", F.hex("id").alias("raw"), "status"
        ).collect()
    }
    assert hits["FE" + b"kite".hex().upper(), 1] == ("FFC3A9", "ok")
    assert hits["FE" + b"odd".hex().upper(), None] == (None, "not_utf8")
    assert len(hits) == 4

    # What rows may name follows from where the table lies, by name too; a view lies nowhere.
    from jobs.driver.reading import read_spec, storage_schemes
    from jobs.settings.embed import SourceSettings

    def schemes(table):
        return read_spec(shop.spark, SourceSettings(), table, max_bytes=1).schemes

    assert schemes(shop.table) == ("dbfs", "file", "https", "data")
    assert schemes("s3a://bucket/t") == ("s3", "https", "data")
    assert storage_schemes(shop.spark, lake.name("vectors")) == {"file", "dbfs"}
    assert storage_schemes(shop.spark, lake.name("current_vectors")) == {"dbfs"}

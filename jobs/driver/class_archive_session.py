"""The session whose classes are archived: python -m jobs.driver.class_archive_session ARCHIVE FOLDER."""

from __future__ import annotations

import sys

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.session import open_session
from jobs.lake.sql import table_sql
from jobs.settings.load import load_settings


def main(archive: str, folder: str) -> None:
    """Do what every command does, so that its classes are loaded: write, change and read a Delta table, and stream it."""
    option = f'spark.conf.spark.driver.extraJavaOptions="-XX:ArchiveClassesAtExit={archive}"'
    spark = open_session(load_settings(sets=["spark.master=local[1]", option], env={}), quick=True)
    table = f"{folder}/table"
    spark.createDataFrame([("a", 1)], "id string, n int").write.format("delta").save(table)
    spark.sql(
        f"MERGE INTO {table_sql(table)} t USING (SELECT 'b' AS id, 2 AS n) s ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
    )
    rows = spark.read.format("delta").load(table)
    rows.where("n > 1").groupBy("id").agg(F.count(F.lit(1))).join(rows, "id").collect()
    rows.write.mode("overwrite").parquet(f"{folder}/parquet")
    spark.sql(f"DESCRIBE HISTORY {table_sql(table)}").collect()
    stream = spark.readStream.format("delta").load(table).writeStream
    query = stream.option("checkpointLocation", f"{folder}/checkpoint").trigger(availableNow=True)
    query.foreachBatch(_count).start().awaitTermination()
    spark.stop()


def _count(frame: DataFrame, number: int) -> None:
    frame.count()


if __name__ == "__main__":
    main(*sys.argv[1:])

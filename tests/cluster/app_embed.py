"""A Spark application that embeds a Parquet folder whenever a line on stdin names a result file.

`python app_embed.py CONF` with CONF a JSON object: conf (Spark's), source (folder), spec (pickled EmbedSpec, base64).
Each answer is one line: "ready", or "done NAME".
"""

import base64
import json
import pickle
import sys
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from udfs.embed.batches import EMBED_OUTPUT, embed_batches


def main() -> None:
    """Run jobs until stdin ends."""
    settings = json.loads(sys.argv[1])
    builder = SparkSession.builder
    for name, value in settings["conf"].items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spec = pickle.loads(base64.b64decode(settings["spec"]))
    print("ready", flush=True)
    for line in sys.stdin:
        source = spark.read.parquet(settings["source"])
        found = source.mapInArrow(partial(embed_batches, spec=spec), EMBED_OUTPUT.ddl)
        rows = [row.asDict() for row in found.collect()]
        Path(line.strip()).write_text(json.dumps(rows))
        print("done", line.strip(), flush=True)
    spark.stop()


if __name__ == "__main__":
    main()

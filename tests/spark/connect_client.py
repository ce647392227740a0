"""A Spark Connect client, in a process of its own: `python -m tests.spark.connect_client URL` < statements > results.

Standard input has a JSON list of [SQL, arguments or null]; standard output gets what each gives: its rows, or the first
line of its error. First comes what `register_functions` says: to a client that has another Python, then to this one.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from pyspark.sql import SparkSession

from jobs import register_functions
from jobs.stages.sql import function_set

ASKED = "asked_by_client"
HEAVY = {"mlflow", "torch", "transformers"}


def main(url: str) -> None:
    spark = SparkSession.builder.remote(url).getOrCreate()
    here = function_set._python
    function_set._python = lambda: "3.99"
    results = [try_out(lambda: register_functions(spark))]
    function_set._python = here
    results.append(try_out(lambda: register_functions(spark)))
    make_asked(spark)
    for statement, given in json.load(sys.stdin):
        results.append(try_out(lambda s=statement, g=given: rows_of(spark, s, g)))
    results.append(sorted(HEAVY & sys.modules.keys()))
    print(json.dumps(results))


def make_asked(spark: SparkSession) -> None:
    """A view of one text that no SQL has written."""
    spark.createDataFrame([("it's a red mug",)], "text string").createOrReplaceTempView(ASKED)


def rows_of(spark: SparkSession, statement: str, given: Any) -> list[list[Any]]:
    return [list(row) for row in spark.sql(statement, args=given).collect()]


def try_out(call: Callable[[], Any]) -> Any:
    """What a call gives, or the first line of its error."""
    try:
        return call()
    except Exception as error:
        return str(error).splitlines()[0]


if __name__ == "__main__":
    main(sys.argv[1])

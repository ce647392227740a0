"""What Spark is handed: small, and by reference, so that a worker imports the code once and keeps its caches."""

import ast
import functools
import importlib
import pickletools
import re
from pathlib import Path
from typing import Any

import pytest
from pyspark import cloudpickle
from pyspark.sql.pandas.types import from_arrow_schema

from udfs.drawing import CatalogueSpec
from udfs.drawing.tasks import DrawnTaskSpec
from udfs.drawing.training_pairs import DrawnPairsSpec
from udfs.index.build import ShardsSpec
from udfs.index.drift import DriftSpec
from udfs.index.files import FileRecord
from udfs.recall.exact_rank import RankSpec
from udfs.recall.measure import MeasureSpec
from udfs.recall.query_set import QuerySetSpec
from udfs.recall.truth import TruthKey, TruthSpec
from udfs.recall.tuning import grid
from udfs.specs import (
    CanarySpec,
    EmbedSpec,
    IndexPlan,
    IndexSpec,
    ModelProfile,
    ModelSpec,
    ReadSpec,
    SearchOptions,
    SearchSpec,
)
from udfs.synthesis.duplicates import DuplicatesSpec
from udfs.synthesis.picture_files import PicturesSpec
from udfs.synthesis.spec import AskSpec, EndpointSpec, JudgeSpec, RequestSpec
from udfs.training.negatives import NegativesSpec
from udfs.verify.rebuild import RebuildSpec
from udfs.verify.rows import AccountSpec
from udfs.verify.shards import VerifySpec

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 4096  # bytes
URI = "abfss://container@account.dfs.core.windows.net/" + "folder/" * 20
CANARIES = CanarySpec(f"{URI}{'f' * 64}.json", "f" * 64, 0.9995)
MODEL = ModelSpec(
    URI, "0123456789abcdef", 3584, "f" * 64, "bfloat16", ModelProfile("p" * 40), CANARIES
)
PLAN = IndexPlan("OPQ64_256,IVF65536_HNSW32,PQ64x4fs", "ip", 65536, 64, 10**7, "fp16", 64, 10)
INDEX = IndexSpec("index-0123456789", URI, MODEL.model_id, 3584, 10**6, PLAN)
FILE = FileRecord("quantizer-" + "f" * 64, "f" * 64, 10**10)
OPTIONS = SearchOptions(1000, 16384, 1000)
SEARCH = SearchSpec(
    URI, MODEL.model_id, OPTIONS, "f" * 64, URI, URI, URI, URI, URI, max_per=3, min_score=0.123
)
TRUTH_KEY = TruthKey("t" * 36, 10**6, MODEL.model_id, "f" * 32, 1000)
TRUTH = TruthSpec(TRUTH_KEY, URI, URI, 3584)
MEASURED = MeasureSpec(URI, URI, URI, TRUTH_KEY, grid(16384, refined=True))
ENDPOINT = EndpointSpec(URI, "m" * 100)
# The keywords that each function goes to Spark with, as large as they become.
CASES: dict[str, dict[str, Any]] = {
    "udfs.search.check.check_batches": {"spec": INDEX},
    "udfs.index.drift.drift_batches": {"spec": DriftSpec(URI, FILE, 3584)},
    "udfs.recall.measure.measure_batches": {"spec": MEASURED},
    "udfs.recall.measure.price_batches": {"spec": MEASURED},
    "udfs.index.probe.probe_batches": {"spec": INDEX},
    "udfs.recall.query_set.write_query_set": {"spec": QuerySetSpec(URI, 3584)},
    "udfs.recall.exact_rank.rank_block": {"spec": RankSpec(1000, 3584)},
    "udfs.full_text.text_shards.full_text_batches": {"root": URI},
    "udfs.index.build.build_batches": {"spec": ShardsSpec(INDEX, FILE, URI)},
    "udfs.index.build.train_batches": {"spec": INDEX},
    "udfs.recall.truth.merge_nearest": {"spec": TRUTH},
    "udfs.recall.truth.nearest_batches": {"spec": TRUTH},
    "udfs.drawing.draw_batches": {"spec": CatalogueSpec()},
    "udfs.drawing.tasks.document_batches": {"spec": DrawnTaskSpec("it2i", instruction="i" * 200)},
    "udfs.drawing.tasks.judgement_batches": {"spec": DrawnTaskSpec("it2i", instruction="i" * 200)},
    "udfs.drawing.tasks.query_batches": {"spec": DrawnTaskSpec("it2i", instruction="i" * 200)},
    "udfs.embed.batches.embed_batches": {"spec": EmbedSpec(MODEL)},
    "udfs.embed.count.count_batches": {"spec": EmbedSpec(MODEL)},
    "udfs.embed.preview.preview_batches": {
        "spec": ReadSpec(schemes=("s3", "https"), roots=("s3://b/a",))
    },
    "udfs.purge.scan.learn_batches": {"traces": URI},
    "udfs.purge.scan.scan_batches": {"traces": URI},
    "udfs.search.batches.indexed_ids": {"root": URI},
    "udfs.search.given_vectors.unit_batches": {"dim": 3584},
    "udfs.search.neighbours.neighbour_batches": {
        "spec": SEARCH,
        "shards": tuple(range(64)),
        "pairing": "across",
    },
    "udfs.search.row_files.write_groups": {"path": URI},
    "udfs.search.row_files.write_vector_ids": {"path": URI},
    "udfs.search.scatter.merge_batches": {"spec": SEARCH},
    "udfs.search.scatter.search_part_batches": {"spec": SEARCH},
    "udfs.search.batches.search_batches": {"spec": SEARCH},
    "udfs.serving.machine.describe_machines": {"spec": EmbedSpec(MODEL)},
    "udfs.embed.stamp.stamp_images": {"spec": ReadSpec()},
    "udfs.drawing.training_pairs.draw_pair_batches": {"spec": DrawnPairsSpec()},
    "udfs.synthesis.asking.ask_batches": {"spec": AskSpec(ENDPOINT, URI, URI)},
    "udfs.synthesis.asking.request_batches": {"spec": RequestSpec("entity", ENDPOINT)},
    "udfs.synthesis.duplicates.band_batches": {"spec": DuplicatesSpec()},
    "udfs.synthesis.picture_files.write_picture_batches": {"spec": PicturesSpec(URI)},
    "udfs.synthesis.rules.judge_batches": {"spec": JudgeSpec("entity")},
    "udfs.training.negatives.choose_batches": {"spec": NegativesSpec()},
    "udfs.verify.geometry.geometry_batches": {"dim": 3584},
    "udfs.verify.geometry.overlap_batches": {"dims": (3584, 3584), "k": 10},
    "udfs.verify.rebuild.rebuild_batches": {
        "spec": RebuildSpec(ShardsSpec(INDEX, FILE, URI), "f" * 64)
    },
    "udfs.verify.rebuild.restore_quantizer": {"spec": VerifySpec(URI, "f" * 64)},
    "udfs.verify.rows.account_batches": {"spec": AccountSpec(64, 64, tuple(range(128)))},
    "udfs.verify.rows.place_rows": {"spec": VerifySpec(URI, "f" * 64)},
    "udfs.verify.shards.verify_batches": {"spec": VerifySpec(URI, "f" * 64)},
}


def _handed_to_spark() -> set[str]:
    """Every function of udfs that a call of `on_executors` names in `jobs`."""
    found = set()
    for path in (ROOT / "jobs").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        modules = {
            alias.name: node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("udfs")
            for alias in node.names
        }
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            if ast.unparse(call.func) == "on_executors":
                name = ast.unparse(call.args[1])
                found.add(f"{modules[name]}.{name}")
    return found


def _by_value(pickled: bytes) -> list[str]:
    """Names of the functions whose code lies in the pickle."""
    return [
        str(argument)
        for opcode, argument, _ in pickletools.genops(pickled)
        if (isinstance(argument, str) and "_make_function" in argument) or opcode.name == "CODE"
    ]


def test_every_function_handed_to_spark_has_a_case() -> None:
    assert _handed_to_spark() == set(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_functions_cross_the_wire_small_and_by_reference(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    function = functools.partial(getattr(importlib.import_module(module), attribute), **CASES[name])
    pickled = cloudpickle.dumps(function)
    assert len(pickled) < LIMIT
    assert _by_value(pickled) == []
    again = cloudpickle.loads(pickled)
    assert again.func is function.func
    assert again.keywords == function.keywords


@pytest.mark.parametrize("name", sorted(CASES))
def test_functions_give_the_same_columns_to_spark_and_in_arrow(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    columns = getattr(importlib.import_module(module), attribute).gives
    written = re.sub(r"(\w):? (\w)", r"\1:\2", columns.ddl).replace(", ", ",")
    assert from_arrow_schema(columns.arrow).simpleString() == f"struct<{written}>"


def test_a_closure_is_seen_as_pickled_by_value() -> None:
    spec = INDEX
    assert _by_value(cloudpickle.dumps(lambda batches: (batches, spec)))

"""What SQL functions on executors ask of the driver's service, over a real socket: answers, refusals, lost ends."""

from __future__ import annotations

import socket
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import udfs.sql.service_client as service_client
from jobs.settings.conf import profile_named
from jobs.settings.embed import ModelSettings
from jobs.stages.register import describe_checkpoint
from jobs.stages.sql.service import SearchService
from tests.unit.search.indexes import build, clustered, exact
from udfs.errors import LakeError, ServingError
from udfs.gme import Encoder, Row
from udfs.index.plan import default_plan
from udfs.search.answers import answer_query
from udfs.search.batches import open_index, search_batch
from udfs.specs import EmbedSpec, SearchOptions, SearchSpec, ServingSpec
from udfs.sql.bodies import EMBEDDED, embed_rows, search_rows
from udfs.sql.service_client import AskModel, Prepare, Scope, ask

ROWS, DIM = 40, 64
XB = clustered(ROWS, DIM)


class Searches:
    """As `jobs.stages.sql.searches.Searches`, over one index; notes what it is asked."""

    def __init__(self, root: str, model: EmbedSpec) -> None:
        self.spec = SearchSpec(root, "model-a", SearchOptions(3))
        self.embed = model
        self.asked: list[object] = []

    def prepare(self):
        self.asked.append("prepare")
        raise LakeError("nothing is released")

    def model(self, stamp, release):
        self.asked.append((stamp, release))
        if release == 9:
            raise LakeError("there is no release 9")
        return self.embed

    def hits(self, asked):
        self.asked.append((asked.stamp, asked.scope, asked.queries.num_rows, asked.model_id))
        assert asked.source == "shown"
        if asked.scope.filter == "fails":
            raise ZeroDivisionError("by no one's fault")
        index = open_index(self.spec.root, model_id="model-a")
        return [
            answer_query(found, self.spec)
            for found in search_batch(index, asked.queries, self.spec)
        ]


@pytest.fixture(scope="module")
def model(checkpoint):
    spec = describe_checkpoint(ModelSettings(checkpoint=str(checkpoint), profile="tiny"))
    return EmbedSpec(spec, ServingSpec(placement="worker", threads=1))


@pytest.fixture
def searches(tmp_path, model):
    build(tmp_path, XB, default_plan(ROWS, DIM))
    return Searches(str(tmp_path), model)


@pytest.fixture
def service(searches):
    made = SearchService(searches, bind="127.0.0.1", host="127.0.0.1")
    yield made
    made.close()


def query(**given):
    nothing = dict.fromkeys(
        (
            "text",
            "image",
            "instruction",
            "release",
            "vector",
            "own",
            "model",
            "filter",
            "min_score",
            "group_by",
        )
    )
    return (
        nothing
        | {"stamp": "1", "by_vector": False, "k": 3, "max_per": None, "freshness": None}
        | {"hybrid": None, "rrf_k": None}
        | given
    )


def asked_of(rows):
    floats, fields = pa.list_(pa.float32()), {"image": pa.binary(), "min_score": pa.float64()}
    numbers = dict.fromkeys(("k", "release", "max_per", "rrf_k"), pa.int32())
    flags = dict.fromkeys(("by_vector", "hybrid"), pa.bool_())
    fields |= numbers | flags | {"vector": floats}
    kind = pa.struct([pa.field(name, fields.get(name, pa.string())) for name in rows[0]])
    return pa.array(rows, kind)


def found(service, *rows):
    made = search_rows(asked_of(rows), address=service.address, source="shown").to_pylist()
    return [([] if row["hits"] is None else row["hits"], row["error"]) for row in made]


def test_a_batch_is_embedded_once_and_searched_once(service, searches, checkpoint):
    vector = XB[7].tolist()
    texts = [query(text=text) for text in ("a red mug", "a blue kite", None)]
    by_vector = [query(by_vector=True, vector=vector, model="model-a")]
    ((own, *_), _) = found(service, *by_vector)[0]
    searches.asked.clear()
    of_row = [query(by_vector=True, vector=vector, own=own["id"], model="model-a")]
    hits = [hits for hits, error in found(service, *texts, *by_vector, *of_row) if error is None]
    assert len(hits) == 5 and hits[2] == []
    encoder = Encoder.load(checkpoint, profile=profile_named("tiny"))
    vectors = encoder.encode([Row(t, is_query=True) for t in ("a red mug", "a blue kite")]).vectors
    D, I = exact(np.concatenate([vectors, XB[[7]]]), XB, 4)
    for number, at in ((0, 0), (1, 1), (3, 2)):
        assert [hit["vector_id"] for hit in hits[number]] == I[at, :3].tolist()
        np.testing.assert_allclose([hit["score"] for hit in hits[number]], D[at, :3], atol=1e-4)
    assert [hit["rank"] for hit in hits[4]] == [1, 2, 3]
    assert [hit["vector_id"] for hit in hits[4]] == I[2, 1:].tolist()
    assert searches.asked == [("1", None), ("1", Scope(), 2, None), ("1", Scope(), 2, "model-a")]
    wanted = [replace(Scope(), filter="a"), replace(Scope(), release=1)]
    found(service, *(query(text="a mug", filter=w.filter, release=w.release) for w in wanted))
    assert [asked[1] for asked in searches.asked[-2:]] == wanted


def test_embedded_rows_are_queries_of_the_model(service, checkpoint):
    rows = [{name: row[name] for name in ("text", "image", "instruction", "release", "stamp")}
            for row in (query(text="a red mug"), query(), query(text=" "))]  # fmt: skip
    made = embed_rows(asked_of(rows), address=service.address)
    assert made.type == pa.struct(list(EMBEDDED.arrow))
    first, nothing, blank = made.to_pylist()
    encoder = Encoder.load(checkpoint, profile=profile_named("tiny"))
    expected = encoder.encode([Row("a red mug", is_query=True)]).vectors[0]
    np.testing.assert_allclose(first["embedding"], expected, atol=2e-5)
    assert nothing == {"embedding": None, "error": None}
    assert blank["embedding"] is None and "blank" in blank["error"]


def test_what_is_refused_is_an_error_of_its_row_alone(service):
    vector = XB[0].tolist()
    rows = {
        "k must be 1 to 1000; got 0": query(text="a", k=0),
        "k must be 1 to 1000; got NULL": query(text="a", k=None),
        "k must be 1 to 999; got 1000": query(by_vector=True, vector=vector, own="0", k=1000),
        "row 99 has no vector": query(by_vector=True, own="99"),
        "the query is NULL": query(by_vector=True),
        "the query has NULL in it": query(by_vector=True, vector=[None] * DIM),
        "it cannot be embedded": query(text="  "),
        "there is no release 9": query(text="a", release=9),
        "the service of the lake's SQL functions failed": query(text="a", filter="fails"),
    }
    answers = found(service, *rows.values(), query(text="a red mug"))
    for words, (hits, error) in zip(rows, answers, strict=False):
        assert hits == [] and words in error, (words, error)
    assert len(answers[-1][0]) == 3 and answers[-1][1] is None
    (answer,) = found(service, query(by_vector=True, vector=vector[:3]))
    assert "must have 64 floats" in answer[1]


def test_nothing_is_prepared_before_the_functions_are_made_and_refusals_wait_for_tasks(
    service, searches
):
    assert ask(service.address, Prepare()) is None and searches.asked == []
    service.prepares = True
    assert ask(service.address, Prepare()) is None and searches.asked == ["prepare"]


def test_others_are_answered_whoever_calls_without_the_key(service, model):
    silent = socket.create_connection((service.address.host, service.address.port))
    stranger = replace(service.address, key=b"another")
    with pytest.raises(ServingError, match="open the lake again"):
        ask(stranger, AskModel("1"))
    assert ask(service.address, AskModel("1")) == model
    silent.close()
    assert service.address.key.hex() not in repr(service.address)


def test_a_connection_that_was_lost_is_made_again_and_a_closed_service_is_an_error(service, model):
    assert ask(service.address, AskModel("1")) == model
    service_client._kept[service.address].close()
    assert ask(service.address, AskModel("1")) == model
    service.close()
    with pytest.raises(ServingError, match=r"cannot be reached.*open the lake again"):
        for _ in range(3):  # the thread that answers a client looks after each request
            ask(service.address, AskModel("1"))

"""Chance against the mean of many random rankings measured by trec_eval."""

import numpy as np
import pyarrow as pa
import pytest

from jobs.stages.evaluate.figures.chance import chance
from jobs.stages.evaluate.figures.measures import METRICS, measure

RNG = np.random.default_rng(0)
SCHEMA = pa.schema([("query_id", pa.string()), ("id", pa.string()), ("score", pa.int32())])


def judged(*rows):
    return pa.Table.from_pylist(
        [dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA
    )


def shuffled(judgements, *, documents, own, draws):
    """Mean over random rankings of d0, d1 … for every query, without its own document."""
    means = []
    for _ in range(draws):
        rows = []
        for query in sorted(set(judgements["query_id"].to_pylist())):
            ids = [f"d{n}" for n in RNG.permutation(documents)]
            kept = [name for name in ids if name != own.get(query)]
            rows += [(query, name, 1 - rank / 1e4) for rank, name in enumerate(kept)]
        names, ids, scores = zip(*rows, strict=True)
        ranking = pa.table({"query_id": names, "id": ids, "score": scores})
        found = measure(ranking, judgements)
        means.append({metric: values.mean() for metric, values in found.values.items()})
    return {metric: np.array([one[metric] for one in means]) for metric in METRICS}


@pytest.mark.slow
def test_chance_is_the_mean_of_random_rankings():
    judgements = judged(
        *(("a", f"d{n}", 1) for n in range(4)),
        ("b", "d7", 3),
        ("b", "d8", 1),
        ("b", "d9", 0),
        ("c", "d1", 1),
    )
    own = {"a": "d3", "c": "d2"}  # a's is judged as well: wanted, but never ranked
    drawn = shuffled(judgements, documents=30, own=own, draws=1500)
    for metric, values in drawn.items():
        expected = chance(judgements, metric=metric, documents=30, own=own)
        error = values.std() / np.sqrt(len(values))
        assert expected == pytest.approx(values.mean(), abs=4 * error + 1e-12), metric


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("hit@1", 0.2), ("recall@5", 1.0), ("mrr@100", 137 / 300), ("hit@9", 1.0)],
)
def test_fewer_documents_than_ranks(metric, expected):
    assert chance(judged(("a", "x", 1)), metric=metric, documents=5) == pytest.approx(expected)

"""Plans follow the rule table, fit any width, and refuse what cannot be trained."""

import re
import time

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered, exact
from udfs.errors import SettingsError
from udfs.index.cost import estimate
from udfs.index.plan import MIN_ROWS_PER_CENTROID, build_empty, default_plan, factory_traits
from udfs.index.probe import Speed, probe
from udfs.index.shard import ShardWriter
from udfs.index.train import train_quantizer
from udfs.index.vectors import SCORE_TOLERANCE
from udfs.search.index import Index
from udfs.specs import SearchOptions


@pytest.mark.parametrize(
    ("rows", "factory", "metric", "nlist", "shards", "refine"),
    [
        (0, "Flat", "ip", 0, 1, "none"),
        (100_000, "Flat", "ip", 0, 1, "none"),
        (100_001, "OPQ64_256,IVF1024,PQ64x4fs", "l2", 1024, 1, "fp16"),
        (1_000_000, "OPQ64_256,IVF4096,PQ64x4fs", "l2", 4096, 1, "fp16"),
        (100_000_000, "OPQ64_256,IVF16384,PQ64x4fs", "l2", 16_384, 4, "fp16"),
        (1_000_000_000, "OPQ64_256,IVF16384,PQ64x4fs", "l2", 16_384, 40, "fp16"),
    ],
)
def test_rule_table(rows, factory, metric, nlist, shards, refine):
    plan = default_plan(rows, 1536)
    assert (plan.factory, plan.metric, plan.nlist) == (factory, metric, nlist)
    assert (plan.shards, plan.refine) == (shards, refine)
    assert plan.train_rows == min(rows, 64 * nlist)


@settings(max_examples=60, deadline=None)
@given(dim=st.integers(1, 400))
def test_every_width_gets_codes_that_fit(dim):
    plan = default_plan(200_000, dim)
    index = build_empty(plan.factory, dim, metric=plan.metric)
    assert index.d == dim
    assert factory_traits(plan.factory, dim).fast_scan


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(624, 60_000))
def test_a_forced_small_table_has_39_rows_per_list(rows):
    plan = default_plan(rows, 64, factory="OPQ16_64,IVF{nlist},PQ16x4fs")
    assert 1 <= plan.nlist * MIN_ROWS_PER_CENTROID <= rows
    assert plan.nlist * 2 * MIN_ROWS_PER_CENTROID > rows or plan.nlist >= 256
    assert f"IVF{plan.nlist}," in plan.factory
    assert plan.train_rows == min(rows, max(64 * plan.nlist, 16_384))


def test_too_small_for_its_codebook_names_both_numbers():
    with pytest.raises(SettingsError, match=r"needs 624 rows.*there are 623"):
        default_plan(623, 64, factory="IVF{nlist},PQ16x4fs")
    with pytest.raises(SettingsError, match=r"needs 9984 rows.*there are 2000"):
        default_plan(2000, 64, factory="IVF{nlist},PQ16np")


def test_an_nlist_that_was_asked_for_is_kept_or_refused():
    plan = default_plan(5000, 64, nlist=100, shards=3)
    assert (plan.nlist, plan.shards, plan.metric) == (100, 3, "l2")
    assert plan.factory.startswith("OPQ32_64,IVF100,")
    with pytest.raises(SettingsError, match=r"needs 7800 rows.*there are 5000"):
        default_plan(5000, 64, nlist=200)
    with pytest.raises(SettingsError, match="needs 39936 rows"):
        default_plan(5000, 64, factory="IVF1024,SQ8")
    for factory in ("Flat", "IVF64,SQ8"):
        with pytest.raises(SettingsError, match="nlist=32 was asked"):
            default_plan(5000, 64, factory=factory, nlist=32)


def test_factories_of_users_keep_their_metric_and_refine():
    assert default_plan(5000, 64, factory="IVF{nlist},SQ8").metric == "ip"
    assert default_plan(5000, 64, factory="IVF{nlist},SQ8").refine == "fp16"
    assert default_plan(5000, 64, factory="IVF{nlist},Flat").refine == "none"
    assert default_plan(5000, 64, factory="RR32,IVF{nlist},Flat").refine == "fp16"


@pytest.mark.parametrize("factory", ["IVF16,PQ7x4fs", "nonsense", "OPQ64_250,IVF16,PQ64x4fs"])
def test_what_faiss_cannot_build_is_a_settings_error(factory):
    with pytest.raises(SettingsError, match="vectors of 64 floats"):
        default_plan(5000, 64, factory=factory)


# The machine that the design's table is of, at 1e6 × 1536: 85e9 flops a core.
DESIGN = Speed(
    rotation_seconds=25,
    codes_seconds=0,
    assign_seconds=512 * 4096 / 72e9,
    encode_seconds=512 * (1536 + 4096) / 85e9 + 3e-6,
    byte_seconds=0,
    worker_bytes=150_000_000,
)


def test_estimate_is_the_cost_model_of_the_design():
    cost = estimate(default_plan(1_000_000, 1536), 1_000_000, 1536, speed=DESIGN)
    assert cost.encode_seconds == pytest.approx(37, abs=1)
    assert cost.train_seconds == pytest.approx(76 / 2 + 25, abs=2)  # half of its iterations
    assert cost.index_bytes == pytest.approx(48e6, rel=0.02)
    assert cost.refine_bytes == 3_072_000_000
    assert cost.task_peak_bytes > 4 * cost.plan.train_rows * 1536
    for words in ("OPQ64_256,IVF4096,PQ64x4fs", "262,144 rows", "3.07 GB", "1 shard"):
        assert words in str(cost)


@pytest.mark.parametrize("factory", ["Flat", "IVF{nlist},SQ8", "OPQ8_32,IVF{nlist},PQ8x4fs"])
def test_estimated_bytes_are_near_the_real_index(factory):
    xb = clustered(4000, 48)
    plan = default_plan(len(xb), 48, factory=factory)
    quantizer = train_quantizer(xb, plan, threads=1)
    index = faiss.deserialize_index(np.frombuffer(quantizer, dtype=np.uint8))
    index.add(xb)
    real = len(faiss.serialize_index(index))
    assert estimate(plan, len(xb), 48, speed=DESIGN).index_bytes == pytest.approx(real, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["OPQ16_64,IVF{nlist},PQ16x4fs", "IVF{nlist},SQ8"])
def test_a_trial_in_miniature_foretells_the_time_of_a_build(factory, tmp_path):
    xb = clustered(30_000, 64)
    plan = default_plan(len(xb), 64, factory=factory)

    def seconds(step):
        start = time.process_time()
        result = step()
        return time.process_time() - start, result

    cost = estimate(plan, len(xb), 64, speed=probe(plan, 64))
    trained, quantizer = seconds(lambda: train_quantizer(xb, plan, threads=1))
    with ShardWriter(quantizer, shard=0, root=str(tmp_path), refine=plan.refine) as writer:

        def build():
            for at in range(0, len(xb), 5000):
                ids = np.arange(at, at + 5000)
                writer.add(ids, [str(n) for n in ids], xb[at : at + 5000])
            writer.finish()

        encoded, _ = seconds(build)
    # Wide, for machines that others work on: the bench says how near it comes on a quiet one.
    assert trained / 2.5 < cost.train_seconds < 2.5 * trained
    assert encoded / 3 < cost.encode_seconds < 3 * encoded


@pytest.mark.parametrize(
    "factory", ["Flat", "IVF16,RaBitQ", "PCA16,IVF16,SQ8", "PQ8x4fs", "IVF16,PQ8np"]
)
def test_any_factory_can_be_tried(factory, capfd):
    plan = default_plan(20_000, 32, factory=factory)
    speed = probe(plan, 32)
    assert speed.encode_seconds > 0 and speed.worker_bytes > 10_000_000
    assert (speed.train_seconds(1000) > 0) is (factory != "Flat")
    assert "WARNING" not in capfd.readouterr().err


# What `index.factory` may say; each is built and searched.
SUPPORTED = [
    "Flat",
    "SQ8",
    "PQ8x4fs",
    "RaBitQ",
    "HNSW16",
    "OPQ8_16,PQ8x4fs",
    "IVF{nlist},Flat",
    "IVF{nlist},SQfp16",
    "IVF{nlist},PQ8x4",
    "IVF{nlist},PQ8x4fsr",
    "IVF{nlist},RaBitQ",
    "IVF{nlist}_HNSW8,PQ8x4fs",
    "PCA16,IVF{nlist},Flat",
    "PCAR16,IVF{nlist},SQ8",
    "RR16,IVF{nlist},PQ8x4",
    "OPQ8_16,RR16,IVF{nlist},PQ8x4fs",
]
REFUSED = {
    "IVF16,PQ8x4,RFlat": "IndexRefineFlat",
    "IVF16,PQ8x4,Refine(SQfp16)": "IndexRefine ",
    "IDMap,Flat": "IndexIDMap ",
    "IDMap2,IVF16,Flat": "IndexIDMap2",
    "NSG16": "IndexNSGFlat",
    "HNSW16,SQ8": "IndexHNSWSQ",
    "LSH": "IndexLSH",
    "RQ4x4": "IndexResidualQuantizer",
    "IVF16,RQ4x4": "IndexIVFResidualQuantizer",
    "IVF16,PQ8+4": "IndexIVFPQR",
    "IVF16,FlatDedup": "IndexIVFFlatDedup",
    "IMI2x4,PQ8x4": "MultiIndexQuantizer",
    "IVF16(PQ4x8),PQ8x4": "IndexPQ",
    "L2norm,IVF16,Flat": "NormalizationTransform",
    "Pad40,IVF16,Flat": "RemapDimensionsTransform",
    "PCAW16,IVF16,Flat": "PCAMatrix with whitening",
}


@pytest.mark.parametrize(("factory", "kind"), REFUSED.items())
def test_kinds_of_index_that_are_not_searched_here_are_refused(factory, kind):
    with pytest.raises(SettingsError, match=f"factory={re.escape(factory)}: faiss's {kind}"):
        default_plan(20_000, 32, factory=factory)


@pytest.mark.slow
@pytest.mark.parametrize("factory", SUPPORTED)
def test_supported_kinds_find_every_stored_vector_with_score_1(factory, tmp_path):
    """nprobe is what decides how much is found, and min_score=1 keeps every exact copy."""
    xb, xq = clustered(3000, 32), clustered(40, 32, seed=7)
    nlist = 16 if "{nlist}" in factory else None
    plan = default_plan(len(xb), 32, factory=factory, nlist=nlist, shards=2)
    build(tmp_path, xb, plan)
    index = Index.open(tmp_path)
    found = index.search(xb, SearchOptions(2, nprobe=max(plan.nlist, 1)))
    np.testing.assert_array_equal(found.I[:, 0], np.arange(len(xb)) + FIRST_VECTOR_ID)
    assert (found.D[:, 0] >= 1 - SCORE_TOLERANCE).all() and found.D.max() <= 1
    assert (found.D[:, 1] < 1 - SCORE_TOLERANCE).all()
    _, I = exact(xq, xb, 10)

    def recall(nprobe):
        rows = zip(index.search(xq, SearchOptions(10, nprobe=nprobe)).I, I, strict=True)
        return np.mean([np.isin(mine, true).mean() for mine, true in rows])

    assert recall(max(plan.nlist, 1)) > 0.85
    if plan.nlist:
        assert recall(1) < recall(plan.nlist)

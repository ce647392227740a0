"""Which index a table gets: factory string, metric, lists, shards, and the operating point of searches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import faiss

from udfs.errors import SettingsError
from udfs.specs import IndexPlan

FLAT_ROWS = 100_000  # up to here an exact index answers in milliseconds
ROWS_PER_SHARD = 25_000_000
NLIST_RANGE = (256, 16_384)
TRAIN_ROWS_PER_LIST = 64  # more gave no recall (measured: 64 against 256)
MIN_ROWS_PER_CENTROID = 39  # faiss itself warns below this, and recall falls
MIN_TRAIN_ROWS = 16_384  # what the rotation of an OPQ wants to see
NPROBE_RANGE = (16, 128)
K_FACTOR = (
    20  # text queries lie off the image vectors: 10 is enough for queries of the same kind only
)


# What the searches here do right: inverted lists read nprobe, all rows can be found, codes are added without ids.
_INNER = {
    faiss.IndexFlat,
    faiss.IndexFlatIP,
    faiss.IndexFlatL2,
    faiss.IndexPQ,
    faiss.IndexPQFastScan,
    faiss.IndexRaBitQ,
    faiss.IndexScalarQuantizer,
    faiss.IndexHNSWFlat,
    faiss.IndexIVFFlat,
    faiss.IndexIVFPQ,
    faiss.IndexIVFPQFastScan,
    faiss.IndexIVFScalarQuantizer,
    faiss.IndexIVFRaBitQ,
}
_COARSE = {faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2, faiss.IndexHNSWFlat}
_ROTATIONS = {faiss.OPQMatrix, faiss.PCAMatrix, faiss.RandomRotationMatrix}
_SUPPORTED = (
    "any of OPQ, PCA, PCAR, RR; then Flat, SQ, PQ (x4fs too), RaBitQ or HNSW; or IVF lists (IVF{nlist}, "
    "IVF{nlist}_HNSW32) of Flat, SQ, PQ (x4fs too) or RaBitQ"
)


@dataclass(frozen=True)
class FactoryTraits:
    """What a factory string means for a width of `dim`, read off the empty faiss index."""

    nlist: int  # 0: not an inverted file
    centroids: int  # largest codebook that k-means must fill; 0: nothing is trained by k-means
    width: int  # of the vectors inside, after the rotation
    code_bytes: int  # of one vector, without its id
    rotated: bool
    fast_scan: bool
    lossless: bool
    trained: bool  # an empty index needs no training


def default_plan(
    rows: int,
    dim: int,
    *,
    factory: str | None = None,
    nlist: int | None = None,
    shards: int | None = None,
    seed: int = 0,
) -> IndexPlan:
    """The plan for `rows` vectors of `dim` floats; whatever is given is kept, the rest follows the rule table.

    Up to 1e5 rows: exact. Above, or where an nlist is asked for: OPQ, inverted lists, 4-bit PQ. `factory` is any
    faiss factory string; `{nlist}` in it is filled in. Where the rule's nlist leaves fewer than 39 training rows per
    centroid it is lowered; an nlist the user gave is never changed, but refused.

    Raises SettingsError for a factory that faiss cannot build at this width, or a table too small for it.
    """
    if rows < 0 or dim < 1 or (shards is not None and shards < 1):
        raise SettingsError(
            f"an index needs rows >= 0, dim >= 1 and shards >= 1; got {rows}, {dim} and {shards}"
        )
    exact = factory is None and nlist is None and rows <= FLAT_ROWS
    template = factory or ("Flat" if exact else opq_pq_factory(dim))
    if nlist is not None and (nlist < 1 or "{nlist}" not in template):
        raise SettingsError(
            f"nlist={nlist} was asked of factory {template!r}; nlist must be >= 1 "
            "and the factory must have it as IVF{nlist}"
        )
    lists = nlist if nlist is not None else nlist_by_rule(rows)
    resolved = template.replace("{nlist}", str(lists))
    traits = factory_traits(resolved, dim)
    require_train_rows(rows, traits, resolved)
    return IndexPlan(
        factory=resolved,
        metric=_metric(resolved),
        nlist=traits.nlist,
        shards=shards or max(1, math.ceil(rows / ROWS_PER_SHARD)),
        train_rows=_train_rows(rows, traits),
        refine="none" if traits.lossless else "fp16",
        nprobe=_default_nprobe(traits.nlist),
        k_factor=1 if traits.lossless else K_FACTOR,
        seed=seed,
    )


def opq_pq_factory(dim: int) -> str:
    """OPQ64_256,IVF{nlist},PQ64x4fs, narrowed to subspaces that divide widths below 256."""
    if dim >= 256:
        return "OPQ64_256,IVF{nlist},PQ64x4fs"
    per_code = min(dim, max(2, math.ceil(dim / 64)))
    subspaces = dim // per_code
    return f"OPQ{subspaces}_{subspaces * per_code},IVF{{nlist}},PQ{subspaces}x4fs"


def nlist_by_rule(rows: int) -> int:
    """The power of two nearest 4·√rows within [256, 16384], halved until every list has rows to train on."""
    low, high = NLIST_RANGE
    wanted = 2 ** round(math.log2(4 * math.sqrt(max(rows, 1))))
    lists = int(min(max(wanted, low), high))
    while lists > 1 and rows < MIN_ROWS_PER_CENTROID * lists:
        lists //= 2
    return lists


def factory_traits(factory: str, dim: int) -> FactoryTraits:
    """Builds the empty index and reads its shape. Raises SettingsError where faiss cannot build it, or it is of a kind
    that is not searched here.
    """
    index = build_empty(factory, dim, metric="l2")
    inner = inner_index(index)
    _require_supported(index, factory)
    rotated = isinstance(index, faiss.IndexPreTransform)
    ivf = isinstance(inner, faiss.IndexIVF)
    fast = isinstance(inner, faiss.IndexIVFFastScan | faiss.IndexFastScan)
    flat = isinstance(inner, faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat)
    nlist = int(inner.nlist) if ivf else 0
    return FactoryTraits(
        nlist=nlist,
        centroids=max(nlist, 2 ** pq_bits(inner) if pq_bits(inner) else 0),
        width=int(inner.d),
        code_bytes=int(getattr(inner, "code_size", 0)) or 4 * int(inner.d),
        rotated=rotated,
        fast_scan=fast,
        lossless=flat and not rotated,
        trained=bool(index.is_trained),
    )


def build_empty(factory: str, dim: int, *, metric: Literal["ip", "l2"]) -> Any:
    """An untrained faiss index; its words of refusal become a SettingsError."""
    try:
        return faiss.index_factory(
            dim, factory, faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
        )
    except Exception as error:  # faiss raises bare RuntimeErrors through SWIG
        raise SettingsError(
            f"faiss cannot build factory {factory!r} for vectors of {dim} floats "
            f"({str(error).rsplit(':', 1)[-1].strip()}); widths must be multiples of the PQ and OPQ sizes"
        ) from error


def inner_index(index: Any) -> Any:
    """The index behind a chain of rotations, or the index itself, as its own class."""
    index = faiss.downcast_index(index)
    return (
        faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    )


def transforms(index: Any) -> list[Any]:
    """The rotations before the inner index, in order of application."""
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    chain: Any = index.chain  # faiss's stubs call this C++ vector a list
    return [faiss.downcast_VectorTransform(chain.at(position)) for position in range(chain.size())]


def pq_bits(inner: Any) -> int:
    """Bits per product quantizer code of this index, 0 where it has none."""
    return int(inner.pq.nbits) if hasattr(inner, "pq") else 0


def require_train_rows(rows: int, traits: FactoryTraits, factory: str) -> None:
    """Refuses fewer than 39 rows per centroid; faiss would only print a line and give a poor index."""
    needed = MIN_ROWS_PER_CENTROID * traits.centroids
    if rows < needed:
        raise SettingsError(
            f"{factory} has a codebook of {traits.centroids} centroids and needs {needed} rows to train on "
            f"({MIN_ROWS_PER_CENTROID} each); there are {rows}. Lower nlist, choose 4-bit codes (x4fs) or Flat"
        )


def _require_supported(index: Any, factory: str) -> None:
    """Only what is known to work: of other kinds nprobe would have no effect, or a task would die over them."""
    inner = inner_index(index)
    parts = [(transform, _ROTATIONS) for transform in transforms(index)] + [(inner, _INNER)]
    if isinstance(inner, faiss.IndexIVF):
        parts.append((faiss.downcast_index(inner.quantizer), _COARSE))
    for part, known in parts:
        whitened = isinstance(part, faiss.PCAMatrix) and part.eigen_power != 0
        if type(part) not in known or whitened:
            name = type(part).__name__ + (" with whitening" if whitened else "")
            raise SettingsError(
                f"index.factory={factory}: faiss's {name} is not supported here; supported are {_SUPPORTED}. "
                "Re-ranking and row ids need nothing in the factory: index.refine does the one, the other is always there"
            )


def _metric(factory: str) -> Literal["ip", "l2"]:
    # On unit vectors both rank alike; 4-bit tables lose far less under L2 (recall .877 against .981).
    return "l2" if "PQ" in factory or "RaBitQ" in factory else "ip"


def _train_rows(rows: int, traits: FactoryTraits) -> int:
    if traits.trained:
        return 0
    return min(rows, max(TRAIN_ROWS_PER_LIST * traits.nlist, MIN_TRAIN_ROWS))


def _default_nprobe(nlist: int) -> int:
    low, high = NPROBE_RANGE
    return max(1, min(nlist, max(low, min(nlist // 8, high))))

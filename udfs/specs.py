"""Frozen dataclasses that cross the wire from the driver to Python workers and model servers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Dtype = Literal["float32", "float16", "bfloat16"]
MAX_K = 1000  # results that a query may ask for


@dataclass(frozen=True)
class ModelProfile:
    """How a row becomes model input. Every field but `name` and `dim` is an ingredient of `model_id`.

    Defaults are GME's inference code (256..1280 image tokens, two resizes, 1800 tokens), with four deliberate
    deviations: pictures are turned upright, transparency is laid over white, over-long text is cut so that the
    pooled end token survives, and blank text alone is not a vector. `REFERENCE` has GME's own behaviour in all four.
    """

    name: str = "gme"
    dim: int | None = None  # expected width of a vector; None accepts what the checkpoint says
    default_instruction: str = "You are a helpful assistant."
    min_image_tokens: int = 256
    max_image_tokens: int = 1280
    pre_resize: bool = True
    max_length: int = 1800
    truncation: Literal["keep_end", "reference"] = "keep_end"
    upright: bool = True
    background: Literal["white", "drop"] = "white"
    blank_text: Literal["reject", "embed"] = (
        "reject"  # of a row without picture; null text is always rejected
    )
    positions: Literal["sequential"] = "sequential"
    pooling: Literal["last_token"] = "last_token"


GME = ModelProfile()
REFERENCE = replace(
    GME,
    name="reference",
    truncation="reference",
    upright=False,
    background="drop",
    blank_text="embed",
)


@dataclass(frozen=True)
class CanarySpec:
    """The canaries of a registered model: a file that every executor can read, and the lowest cosine of a load with them."""

    uri: str
    sha256: str
    cosine: float


@dataclass(frozen=True)
class ModelSpec:
    """One model, resolved once on the driver. `path` is a checkpoint folder that every executor can read.

    `canaries`: what every load is compared with; None where none were made, and loads serve unchecked.
    """

    path: str
    model_id: str
    dim: int
    weights_sha256: str
    dtype: Dtype = "float32"
    profile: ModelProfile = GME
    canaries: CanarySpec | None = None


@dataclass(frozen=True)
class ServingSpec:
    """How an executor runs the model. None of it changes a vector beyond floating-point noise of its dtype."""

    placement: Literal["server", "worker"] = "server"
    device: str = "auto"  # auto: the GPU Spark gave the task, else the first visible one, else cpu
    threads: int = 0  # CPU threads of the model; 0: all cores this process may use
    token_budget: int = 16_384  # language-model tokens of one model batch
    patch_budget: int = 65_536  # vision patches of one model batch
    queue_bytes: int = 268_435_456  # prepared rows waiting in the server
    idle_seconds: float = 600.0  # a server without clients exits after this
    start_timeout_seconds: float = 900.0
    frame_timeout_seconds: float = (
        60.0  # a server closes the connection to a client that stops in a frame
    )
    answer_timeout_seconds: float = 600.0  # and to one that does not take an answer


@dataclass(frozen=True)
class ReadSpec:
    """Which files a row may name, how they are read, and how long one may take."""

    max_bytes: int = 67_108_864  # a larger file is rejected unread
    schemes: tuple[str, ...] | None = None  # of paths and URIs ("file": a local path); None: any
    roots: tuple[str, ...] = ()  # folders (paths or URIs) that paths must lie under; (): anywhere
    connect_seconds: float = 10.0  # web: to reach a server
    first_byte_seconds: float = 30.0  # web: without a byte, first or later
    file_seconds: float = 120.0  # web: a whole file, tries included
    tries: int = 3  # web: where the server is silent or says that it is busy
    threads: int = 8  # files that one task reads at a time


READ_ANYWHERE = ReadSpec()  # no limits but those of size and time


@dataclass(frozen=True)
class EmbedSpec:
    """Everything `udfs.embed.batches.embed_batches` needs."""

    model: ModelSpec
    serving: ServingSpec = ServingSpec()
    reading: ReadSpec = READ_ANYWHERE
    # A row that takes longer in preparation ends its worker; `notes` is the folder (path or URI) where that is
    # noted, and the next attempt of the task rejects the row. None, or no folder: rows take what they take.
    max_row_seconds: float | None = None
    notes: str = ""
    progress: str | None = None  # folder where tasks say how many rows they have done


@dataclass(frozen=True)
class IndexPlan:
    """Shape of an index. `factory` is a faiss factory string without placeholders."""

    factory: str  # e.g. "Flat" or "OPQ64_256,IVF4096,PQ64x4fs"
    metric: Literal["ip", "l2"]
    nlist: int  # 0 for Flat
    shards: int
    train_rows: int  # 0 for Flat
    refine: Literal["fp16", "none"]
    nprobe: int  # default of searches
    k_factor: int  # candidates re-ranked per result
    seed: int = 0
    full_text: bool = False  # the rows' texts beside their vectors, for hybrid search


@dataclass(frozen=True)
class IndexSpec:
    """One index, built from one model's vectors at one version of the table. `root` is its folder (path or URI)."""

    index_id: str
    root: str
    model_id: str
    dim: int
    vectors_version: int
    plan: IndexPlan


@dataclass(frozen=True)
class SearchOptions:
    """`k` rows from `nprobe` lists, k · `k_factor` candidates re-ranked; None: the plan's (and at least 200 candidates)."""

    k: int
    nprobe: int | None = None
    k_factor: int | None = None

    def __post_init__(self) -> None:
        given = (self.k, 1 if self.nprobe is None else self.nprobe)
        if min(*given, 1 if self.k_factor is None else self.k_factor) < 1:
            raise ValueError(
                f"k, nprobe and k_factor start at 1; got {self.k}, {self.nprobe} and {self.k_factor}"
            )


@dataclass(frozen=True)
class SearchSpec:
    """How one search reads an index. `cache_dir` holds verified local copies of shard files by sha-256."""

    root: str
    model_id: str
    options: SearchOptions  # with the k of queries that ask for none
    manifest_sha256: str | None = (
        None  # of the file in root, as it was committed; None: not in a table
    )
    cache_dir: str | None = None
    # Files that one task wrote for this search alone; see udfs.search.row_files.
    gone: str | None = None  # vector_ids in the index but no longer in the table
    fresh_root: str | None = (
        None  # exact index of the rows that the table has and the index has not
    )
    allowed: str | None = None  # vector_ids that may be found; None: all
    groups: str | None = None  # group of each vector_id, of which max_per are found at most
    max_per: int | None = None
    min_score: float | None = (
        None  # rows with an inner product lower by more than 1e-5 are left out
    )

"""The manifest of an index: what it was made from, and the checksum of every file that may be opened."""

from __future__ import annotations

import hashlib
import json
import posixpath
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pydantic

from udfs import storage
from udfs.errors import IndexDataError
from udfs.index.files import FileRecord
from udfs.index.points import OperatingPoint
from udfs.specs import IndexSpec

MANIFEST_NAME = "manifest.json"
QUANTIZER_NAME = "quantizer.faiss"
GONE_NAME = "gone.int64"
VECTOR_ID_BYTES = 8
MAX_MANIFEST_BYTES = 256 << 20
FORMAT, ADDED_FORMAT = "gme-lake-index/1", "gme-lake-index/2"  # 2: of an index that adds to another

# Written into every manifest, for people and programs that know neither Spark nor this code.
LAYOUT = {
    "quantizer.faiss": "faiss index, trained and empty; all shards share its rotation, centroids and codebooks",
    "shard-NNNNN.faiss": "faiss index of the shard; its ids are local rows 0..rows-1",
    "shard-NNNNN.f16": "little-endian float16, rows x dim, no header; row = local row (absent where refine is none)",
    "shard-NNNNN.rows.arrow": "Arrow IPC file (vector_id int64, id string); row = local row",
    "shard-NNNNN-XXXX.tantivy.zip": "tantivy index (text, vector_id unsigned) of the rows' texts, its files in an archive "
    "without compression; XXXX begins its sha-256 (absent where full_text is false)",
    "shard-NNNNN.json": "record of a finished shard, for builds that resume; searches do not read it",
    "base": "null, or the index that this one adds its shards to: the folder beside this one that has its index_id "
    "holds those shards and the quantizer",
    "gone.int64": "little-endian vector_ids, ascending: rows of the base that must not be found",
    "error": "mean squared distance of the training rows from what the quantizer keeps of them",
    "points": "nprobe and k_factor that tune_index chose to reach recall `target` at k, and what it measured",
    "score": "inner product of unit vectors",
    "quantizer.json": "record of the trained quantizer, for builds that resume; searches do not read it",
    "root": "always '.': the folder that this document lies in, wherever that was moved or copied to",
    "replaces": "null, or the sha-256 of the file that this one replaced: the same index with other points",
    "sha256": "of this document without the key sha256, as JSON with sorted keys and no spaces",
}


@dataclass(frozen=True)
class ShardRecord:
    """One finished shard. `quantizer_sha256` tells whether it belongs to an index being resumed."""

    shard: int
    rows: int
    quantizer_sha256: str
    index: FileRecord
    row_ids: FileRecord
    refine: FileRecord | None
    full_text: FileRecord | None = None

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of the shard."""
        every = (self.index, self.row_ids, self.refine, self.full_text)
        return tuple(file for file in every if file is not None)


@dataclass(frozen=True)
class Base:
    """The whole index that another adds to: its shards, and the vector_ids of its rows that are gone since.

    The shards' files and the quantizer are in the base's folder, the file `gone` is in the other's. Shards stay apart
    when they are opened: merge_into of faiss 1.15.1 writes past the end of a 4-bit fast-scan list whose length is a
    multiple of the bytes of a block (128, 256, 384, … for PQ8x4fs).
    """

    index_id: str
    shards: tuple[ShardRecord, ...]
    gone: FileRecord | None

    @property
    def rows(self) -> int:
        """Rows of the base that may still be found."""
        gone = self.gone.bytes // VECTOR_ID_BYTES if self.gone else 0
        return sum(shard.rows for shard in self.shards) - gone


@dataclass(frozen=True)
class Manifest:
    """Everything a search needs to know of an index; files it does not name are never opened.

    With a `base`, `shards` are those added to it: they hold what is new since. `error`: squared distance of the training
    rows from what the quantizer keeps of them; None where nothing is trained, or nobody measured it. `replaces`: the
    sha-256 of the file that stood here before its operating points were written, which a table may still name.
    """

    spec: IndexSpec
    quantizer: FileRecord
    shards: tuple[ShardRecord, ...]
    points: tuple[OperatingPoint, ...] = ()
    error: float | None = None
    base: Base | None = None
    replaces: str | None = None

    def __post_init__(self) -> None:
        if [shard.shard for shard in self.shards] != list(range(self.spec.plan.shards)):
            raise IndexDataError(
                f"index {self.spec.index_id} has {self.spec.plan.shards} shards by its plan but the manifest "
                f"lists {[shard.shard for shard in self.shards]}; build the missing shards"
            )
        for _, shard in self.all_shards(""):
            if shard.quantizer_sha256 != self.quantizer.sha256:
                raise IndexDataError(
                    f"shard {shard.shard} of index {self.spec.index_id} was built with quantizer "
                    f"{shard.quantizer_sha256[:16]}… but the index has {self.quantizer.sha256[:16]}…; "
                    "build the shard again"
                )
        for name in self._file_names():
            if name != Path(name).name or name in ("", ".", ".."):
                raise IndexDataError(f"the manifest names {name!r}, which is not a plain file name")

    @property
    def rows(self) -> int:
        """Vectors that searches can find."""
        return sum(shard.rows for shard in self.shards) + (self.base.rows if self.base else 0)

    def base_root(self, root: str) -> str:
        """The folder of quantizer and base, where this manifest lies in `root`: the same, or one beside it."""
        if self.base is None:
            return root
        return storage.join(posixpath.dirname(root.rstrip("/")) or ".", self.base.index_id)

    def all_shards(self, root: str) -> list[tuple[str, ShardRecord]]:
        """Folder and record of every shard that is searched, the base's first; its place is its number in searches."""
        base = self.base.shards if self.base else ()
        return [(self.base_root(root), s) for s in base] + [(root, s) for s in self.shards]

    def to_json(self) -> str:
        """The document, with the checksum of itself."""
        known = FORMAT if self.base is None else ADDED_FORMAT
        body: dict[str, Any] = {"format": known, "layout": LAYOUT, "rows": self.rows}
        body |= asdict(self)
        body["spec"]["root"] = "."
        return json.dumps({"sha256": _digest(body), **body}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> Manifest:
        """Reads and checks a document; IndexDataError says `where` it was."""
        try:
            body = json.loads(text)
            claimed = body.pop("sha256")
            known = body["format"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexDataError(f"{where} is not an index manifest: {error!r}") from error
        if claimed != _digest(body):
            raise IndexDataError(
                f"{where} was changed after it was written (its sha-256 does not match); "
                "restore it or build the index again"
            )
        if known not in (FORMAT, ADDED_FORMAT):
            raise IndexDataError(
                f"{where} has format {known!r}; this version reads {FORMAT!r} and {ADDED_FORMAT!r}"
            )
        try:
            return pydantic.TypeAdapter(cls).validate_json(text)
        except pydantic.ValidationError as error:
            raise IndexDataError(f"{where} is not an index manifest: {error}") from error

    def write(self, root: str) -> FileRecord:
        """Publishes the manifest last, which makes the files beside it an index."""
        return publish_bytes(self.to_json().encode(), root, MANIFEST_NAME)

    @property
    def sha256(self) -> str:
        """Of the file that `write` makes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def read(cls, root: str, *, sha256: str | None = None) -> Manifest:
        """The manifest of the index in folder `root`; `spec.root` is that folder, wherever it was when it was built.

        `sha256` is what `indexes` says of the file. A whole manifest of another build fits its own checksum; only this
        tells that it is not the one that was committed. Raises IndexDataError.
        """
        where = storage.join(root, MANIFEST_NAME)
        try:
            text = storage.read_bytes(where, max_bytes=MAX_MANIFEST_BYTES)
        except FileNotFoundError as error:
            raise IndexDataError(
                f"{where} does not exist: no index was finished there; build one"
            ) from error
        except OSError as error:
            raise IndexDataError(f"{where} cannot be read: {error}") from error
        manifest = cls.from_json(text, where=where)
        found = hashlib.sha256(text).hexdigest()
        if sha256 is not None and sha256 not in (found, manifest.replaces):
            raise IndexDataError(
                f"{where} has sha-256 {found[:16]}… but the index was committed with {sha256[:16]}…: it is of another "
                "build or was put there by hand; restore it, or build the index again"
            )
        return replace(manifest, spec=replace(manifest.spec, root=root))

    def missing_files(self) -> list[str]:
        """What is not in the folder `spec.root`, or its base's, as the manifest has it: by name and length alone.

        One listing a folder; checksums are the business of those who open the files. Raises OSError where a folder
        cannot be listed.
        """
        root, base_root = self.spec.root, self.base_root(self.spec.root)
        wanted = [(base_root, self.quantizer)]
        wanted += [(folder, file) for folder, s in self.all_shards(root) for file in s.files]
        if self.base is not None and self.base.gone is not None:
            wanted.append((root, self.base.gone))
        lengths = {folder: storage.lengths(folder) for folder in {root, base_root}}
        found = []
        for folder, file in wanted:
            length = lengths[folder].get(file.name)
            if length is None:
                found.append(f"{storage.join(folder, file.name)} is gone")
            elif length != file.bytes:
                found.append(
                    f"{storage.join(folder, file.name)} has {length} bytes instead of {file.bytes}"
                )
        return found

    def _file_names(self) -> list[str]:
        names = [self.quantizer.name]
        names += [file.name for _, shard in self.all_shards("") for file in shard.files]
        if self.base is not None:
            names += [self.base.index_id, *([self.base.gone.name] if self.base.gone else [])]
        return names


def publish_bytes(data: bytes, root: str, name: str) -> FileRecord:
    """Writes a small file to `root` whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / name
        local.write_bytes(data)
        storage.publish(local, storage.join(root, name))
    return FileRecord(name, hashlib.sha256(data).hexdigest(), len(data))


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

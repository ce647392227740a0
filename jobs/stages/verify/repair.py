"""repair_index: what verify_index finds damaged is made again, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pydantic
from pyspark.sql import DataFrame

from jobs.driver.on_executors import on_executors
from jobs.lake.index_marks import hold
from jobs.lake.indexes import base_of, delete_rows, index_folder, read_manifest, require_index
from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.stages.index.build import by_shard, train_in_task
from jobs.stages.index.changes import Changes, changes_since, write_gone
from jobs.stages.index.commit import file_rows, replace_manifest
from jobs.stages.index.full_text import add_full_text
from jobs.stages.index.vectors import count_vectors, indexed_vectors
from jobs.stages.verify.restore import restore_manifest
from jobs.stages.verify.verify import Verification, verify_index
from udfs import storage
from udfs.errors import IndexDataError, LakeError
from udfs.index.build import ShardsSpec
from udfs.index.manifest import GONE_NAME, MANIFEST_NAME, Manifest, ShardRecord, publish_bytes
from udfs.index.resume import MAX_QUANTIZER_BYTES
from udfs.verify.findings import FILE_KINDS, Finding
from udfs.verify.manifest import INDEX_SHARDS, INDEXES, find_manifest
from udfs.verify.rebuild import (
    RebuildSpec,
    rebuild_batches,
    restore_quantizer,
)
from udfs.verify.shards import VerifySpec

log = logging.getLogger("gme_lake")

_NAME_DIGITS = 12


@dataclass(frozen=True)
class Repair:
    """What a run made again (`done`, for people), what was `found` before it, and the verification `after` it."""

    index_id: str
    done: tuple[str, ...]
    found: tuple[Finding, ...]
    after: Verification

    @property
    def ok(self) -> bool:
        """Whether the index is whole now."""
        return self.after.ok

    def __str__(self) -> str:
        head = "; ".join(self.done) if self.done else "nothing to repair"
        return f"{head}\n{self.after}"

    def values(self) -> dict[str, object]:
        """The same for programs."""
        values: dict[str, object] = dict(vars(self))
        return values | {"after": self.after.values(), "ok": self.ok}


def repair_index(lake: Lake, run: Run, *, index_id: str) -> Repair:
    """Make again what is damaged of an index, and of the one that it adds to; then verify it.

    Files come out as they were committed, byte for byte, or are committed anew. Raises LakeError where vacuum-indexes is
    removing the index, IndexDataError, which says what to do, where something cannot be made again.
    """
    row = require_index(lake, index_id)
    base_id = base_of(row)
    parts = [index_id] if base_id is None else [base_id, index_id]
    hold(lake, run, parts)
    run.begin()
    done: list[str] = []
    found: list[Finding] = []
    for part in parts:
        _Repairing(lake, run, part, done, found).repair()
    return Repair(index_id, tuple(done), tuple(found), verify_index(lake, run, index_id=index_id))


@dataclass
class _Repairing:
    """The repair of one index's own files; those of its base are whole by then."""

    lake: Lake
    run: Run
    index_id: str
    done: list[str]
    found: list[Finding]

    def repair(self) -> None:
        row = require_index(self.lake, self.index_id)
        root = index_folder(self.lake, row)
        if not self.lake.holds(root):
            raise LakeError(
                f"index {self.index_id} lies in {root}, outside of this lake ({self.lake.root}), and is not changed from "
                "here: repair it in the lake that it is of"
            )
        manifest, wrong = find_manifest(root, index_id=self.index_id, sha256=row.manifest_sha256)
        if manifest is None:
            self.found += wrong
            manifest = restore_manifest(self.lake, row)
            self._say(f"{MANIFEST_NAME} restored")
        before = self._verify()
        self.found += before.findings
        if _damaged(before, manifest.quantizer.name):
            self._restore_quantizer(manifest, before)
            before = self._verify()  # without a quantizer codes could not be compared
            self.found += [f for f in before.findings if f not in self.found]
        self._mend(manifest, before)

    def _verify(self) -> Verification:
        return verify_index(self.lake, self.run, index_id=self.index_id)

    def _mend(self, manifest: Manifest, before: Verification) -> None:
        """Build damaged shards again, and the list of rows that are gone; commit what did not come out as it was."""
        if before.ok:
            return
        first = len(manifest.base.shards) if manifest.base else 0
        files = [f for f in before.findings if f.file not in (INDEXES, INDEX_SHARDS)]
        own = {f.shard - first for f in files if f.shard is not None and f.shard >= first}
        gone = any(_is_gone(manifest, f.file) for f in files)
        mended, base = manifest, manifest.base
        if base is not None:
            whole = read_manifest(self.lake, require_index(self.lake, base.index_id))
            mended = replace(mended, base=replace(base, shards=whole.shards))
        left = [f for f in files if f.shard is None and not (gone and _is_gone(manifest, f.file))]
        if mended == manifest:
            left += [f for f in files if f.shard is not None and f.shard < first]
        if left:
            raise self._refusal(left, "it is not a matter of single files")
        if (own or gone) and not before.own_version:
            why = (
                f"version {manifest.spec.vectors_version} of vectors, which they are made of, can no longer be read: its "
                "files were vacuumed"
            )
            raise self._refusal(files, why)
        vectors, changes = self._vectors(mended)
        if own:
            mended = self._rebuild(mended, vectors, shards=sorted(own))
        if gone and changes is not None:
            mended = self._rewrite_gone(mended, changes)
        if mended != manifest or any(f.file == INDEXES for f in before.findings):
            if before.own_version:
                self._require_rows(mended)
            replace_manifest(self.lake, mended)
            self._say(f"{MANIFEST_NAME} committed anew")
        if mended != manifest or any(f.file == INDEX_SHARDS for f in before.findings):
            delete_rows(self.lake, INDEX_SHARDS, [self.index_id])
            self.run.append(INDEX_SHARDS, file_rows(self.lake, mended))
            self._say(f"rows of {INDEX_SHARDS} written again")

    def _vectors(self, manifest: Manifest) -> tuple[DataFrame, Changes | None]:
        """The rows that the index's own shards are made of; and, of one that adds to another, what changed since that."""
        vectors = indexed_vectors(self.lake, manifest.spec)
        if manifest.base is None:
            return vectors, None
        base = read_manifest(self.lake, require_index(self.lake, manifest.base.index_id))
        changes = changes_since(self.lake, base, version=manifest.spec.vectors_version)
        return changes.new_of(vectors), changes

    def _rebuild(
        self, manifest: Manifest, vectors: DataFrame, *, shards: Sequence[int]
    ) -> Manifest:
        spec = manifest.spec
        build = ShardsSpec(spec, manifest.quantizer, manifest.base_root(spec.root))
        committed = str(require_index(self.lake, self.index_id).manifest_sha256)
        rows = by_shard(vectors, spec, shards=shards)
        with self.run.stage("build shards"):
            built = on_executors(rows, rebuild_batches, spec=RebuildSpec(build, committed)).rows()
        reader = pydantic.TypeAdapter(ShardRecord)
        records: dict[int, ShardRecord] = {r.shard: reader.validate_json(r.record) for r in built}
        if sorted(records) != list(shards):
            raise IndexDataError(
                f"index {self.index_id}: shards {list(shards)} were to be built again, {sorted(records)} were; run it again"
            )
        made = add_full_text(self.run, spec, vectors, [records[n] for n in shards])
        records = {record.shard: record for record in made}
        self.run.counts["shards_rebuilt"] += len(records)
        self._say(f"shard(s) {', '.join(map(str, shards))} of index {self.index_id} built again")
        return replace(manifest, shards=tuple(records.get(s.shard, s) for s in manifest.shards))

    def _rewrite_gone(self, manifest: Manifest, changes: Changes) -> Manifest:
        """Write the list of rows that are gone; under its name where it is what was committed, else under one of its own."""
        base, root = manifest.base, manifest.spec.root
        if base is None:
            return manifest
        with self.lake.staging(self.run.run_id) as staging:
            tried = write_gone(changes, root=staging, name=GONE_NAME)
        written = None
        if tried is not None:
            same = base.gone is not None and base.gone.sha256 == tried.sha256
            stem, _, suffix = GONE_NAME.partition(".")
            new = f"{stem}-{tried.sha256[:_NAME_DIGITS]}.{suffix}"
            name = base.gone.name if same and base.gone else new
            written = write_gone(changes, root=root, name=name)
        self._say(
            f"list of rows that are gone from the base of index {self.index_id} written again"
        )
        return replace(manifest, base=replace(base, gone=written))

    def _restore_quantizer(self, manifest: Manifest, before: Verification) -> None:
        """Put the quantizer back: out of a whole shard, or trained again on the same rows, where it is the committed one."""
        lake, spec, wanted = self.lake, manifest.spec, manifest.quantizer
        root = manifest.base_root(spec.root)
        bad = {(f.shard, f.file) for f in before.findings}
        shards = manifest.all_shards(spec.root)
        whole = [n for n, (_, s) in enumerate(shards) if (n, s.index.name) not in bad][:1]
        committed = str(require_index(lake, self.index_id).manifest_sha256)
        if whole:
            numbers = lake.spark.createDataFrame([(n,) for n in whole], "shard int").coalesce(1)
            how = VerifySpec(spec.root, committed)
            rows = on_executors(numbers, restore_quantizer, spec=how).rows()
            if any(row.sha256 == wanted.sha256 for row in rows):
                self._say(f"{wanted.name} restored from shard {whole[0]}")
                return
        if before.own_version and manifest.base is None:
            living = count_vectors(lake, spec.model_id, version=spec.vectors_version)
            vectors = indexed_vectors(lake, spec)
            with lake.staging(self.run.run_id) as staging:
                aside = replace(spec, root=staging)
                made = train_in_task(vectors, self.run, aside, rows=living).file
                if made.sha256 == wanted.sha256:
                    path = storage.join(staging, made.name)
                    data = storage.read_bytes(path, max_bytes=MAX_QUANTIZER_BYTES)
                    publish_bytes(data, root, wanted.name)
                    self._say(f"{wanted.name} trained again")
                    return
        findings = [f for f in before.findings if f.file == wanted.name]
        why = (
            "no shard is whole to take it from"
            if not whole
            else "what was made again is another one"
        )
        if not before.own_version:
            why += f", and version {spec.vectors_version} of vectors, which it was trained on, can no longer be read"
        raise self._refusal(findings, why)

    def _require_rows(self, manifest: Manifest) -> None:
        spec = manifest.spec
        living = count_vectors(self.lake, spec.model_id, version=spec.vectors_version)
        if manifest.rows != living:
            raise IndexDataError(
                f"index {self.index_id}: with the shards that were built again it has {manifest.rows} rows, version "
                f"{spec.vectors_version} of vectors has {living}; nothing was committed. Build it again with gme-lake "
                "build-index"
            )

    def _refusal(self, findings: Sequence[Finding], why: str) -> IndexDataError:
        named = "; ".join(map(str, findings[:3]))
        more = f" and {len(findings) - 3} more" if len(findings) > 3 else ""
        return IndexDataError(
            f"index {self.index_id} cannot be repaired: {named}{more}; {why}. Build it again with gme-lake build-index"
        )

    def _say(self, what: str) -> None:
        log.info("index %s: %s", self.index_id, what)
        self.done.append(what)


def _damaged(verification: Verification, name: str) -> bool:
    """Whether a file that all shards share is not there as it was committed."""
    return any(
        f.shard is None and f.file == name and f.kind in FILE_KINDS for f in verification.findings
    )


def _is_gone(manifest: Manifest, name: str) -> bool:
    base = manifest.base
    return base is not None and name == (base.gone.name if base.gone else GONE_NAME)

"""The full text of one shard's rows: a tantivy index in one file, and search in it by BM25.

tantivy was chosen by measuring 100,000 texts of 15 words on one core (2026-11-27, two shared cores): .5 s to build, 5 MB,
.06 ms for a part number and 7 ms for a sentence of common words. bm25s took 1.8 s, 15 MB, 3.6 and 9 ms; SQLite's FTS5
.7 s, 12 MB, .1 ms and up to 220 ms.
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
import weakref
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from udfs import storage
from udfs.errors import IndexDataError, LakeError
from udfs.index.files import FileRecord, record_file
from udfs.index.shard import shard_name
from udfs.index.vectors import Floats, Ints, is_in

FULL_TEXT_SUFFIX = ".tantivy.zip"
MAX_TOKENS = 256  # different ones of a query; of a longer one the first count
# What it costs to tell tantivy of a row that may be found, in rows that it finds and that are thrown away: measured for 100
# of 100,000 rows, where both take 8 ms for 3,000 that may be found (44 against 7 for 300, 2 against 25 for 30,000).
TOLD_ROW_COST = 1
# Scripts that are written without spaces, letter by letter; of all others runs of letters and digits.
_LETTERS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_TOKEN = rf"{_LETTERS}|[[\p{{L}}\p{{M}}\p{{N}}]--{_LETTERS}]+"
_MAX_TOKEN_BYTES = 256
_ACCENTS = re.compile("(?<=[A-Za-z])[\u0300-\u036f]+")
_LEAST = 1e-9  # weight of a word that all of many rows have is 0 when rounded
_TEXT, _ROW, _TOKENIZER = "text", "vector_id", "words"
_WRITER_BYTES = 64 << 20
_NAME_DIGITS = 12


@dataclass(frozen=True)
class WordCounts:
    """How many rows some texts have, and how many of them have each word of a query, in its order."""

    rows: int
    having: dict[str, int]

    def weight(self, word: str) -> float:
        """The word's weight in BM25 as Lucene has it, rounded where tantivy rounds."""
        rows, having = np.float32(self.rows), np.float32(self.having[word])
        half = np.float32(0.5)
        return float(np.log(np.float32(1) + (rows - having + half) / (having + half)))


class FullText:
    """The texts of some rows, opened for search. Safe to share between threads."""

    def __init__(self, index: Any) -> None:
        self._index = index
        index.register_tokenizer(_TOKENIZER, _analyzer())
        index.config_reader("manual")
        index.reload()
        self._searcher = index.searcher()
        self.rows = int(self._searcher.num_docs)

    @classmethod
    def of(cls, rows: Iterable[tuple[int, str | None]]) -> FullText:
        """Of rows (vector_id, text) at hand, in memory; a null text is none."""
        index = require_tantivy().Index(_schema())
        _fill(index, rows)
        return cls(index)

    @classmethod
    def open(cls, path: Path) -> FullText:
        """Of a verified file that `write_full_text` made, unpacked into a folder that goes with the object.

        Raises IndexDataError where this tantivy does not read it.
        """
        tantivy = require_tantivy()
        folder = tempfile.TemporaryDirectory(prefix="gme-lake-full-text-")
        try:
            with zipfile.ZipFile(path) as packed:
                packed.extractall(folder.name)
            opened = cls(tantivy.Index.open(folder.name))
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            folder.cleanup()
            raise IndexDataError(
                f"tantivy {tantivy.__version__} cannot read {path.name} though its sha-256 is right: {error}; it was "
                "written by another version: build the index again"
            ) from error
        weakref.finalize(opened, folder.cleanup)
        return opened

    def search(
        self, text: str, n: int, *, allowed: Ints | None = None, counts: WordCounts | None = None
    ) -> tuple[Floats, Ints]:
        """The n best rows that have a word of the text: BM25 scores float32 (m,), m <= n, and vector_ids int64 (m,).

        Best first, equal scores by smaller vector_id. `allowed`: vector_ids that may be found, ascending; None: all.
        `counts`: `count_words` of the text in all texts that are searched, by which words are weighed; None: these are all.
        Words that most rows have count for nothing (their weight is negative in BM25 as Robertson and Spärck Jones have
        it): a text without others finds no row.
        """
        tantivy = require_tantivy()
        own = count_words([self], text)
        counts = counts or own
        tokens = [
            token
            for token, having in counts.having.items()
            if own.having[token] and 2 * having <= counts.rows
        ]
        n = min(n, self.rows if allowed is None else len(allowed))
        if not tokens or n < 1:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        query, schema = tantivy.Query, self._index.schema
        terms = [query.term_query(schema, _TEXT, token, "freq") for token in tokens]
        if counts is not own:  # tantivy weighs by its own rows, which may be few
            shares = [counts.weight(token) / max(own.weight(token), _LEAST) for token in tokens]
            pairs = zip(terms, shares, strict=True)
            terms = [query.boost_query(term, share) for term, share in pairs]
        words = query.boolean_query([(tantivy.Occur.Should, term) for term in terms])
        if allowed is not None and TOLD_ROW_COST * len(allowed) ** 2 < n * self.rows:
            rows = query.term_set_query(schema, _ROW, allowed.tolist())
            rows = query.const_score_query(rows, 0.0)
            words = query.boolean_query([(tantivy.Occur.Must, words), (tantivy.Occur.Must, rows)])
            return self._best(words, n)
        if allowed is None:
            return self._best(words, n)
        fetch = n
        while True:  # some may not be found: as many more are asked for
            fetch = min(2 * fetch, self.rows)
            D, I = self._best(words, fetch)
            may = is_in(I, allowed)
            if len(I) < fetch or fetch == self.rows or np.count_nonzero(may) >= n:
                return D[may][:n], I[may][:n]

    def count(self, word: str) -> int:
        """How many rows have a word."""
        return int(self._searcher.doc_freq(_TEXT, word))

    def _best(self, query: Any, n: int) -> tuple[Floats, Ints]:
        hits = self._searcher.search(query, limit=n, count=False).hits
        if not hits:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        D = np.array([score for score, _ in hits], np.float32)
        I = np.array(
            self._searcher.fast_field_values(_ROW, [address for _, address in hits]), np.int64
        )
        order = np.lexsort((I, -D))
        return D[order], I[order]


def write_full_text(
    rows: Iterable[tuple[int, str | None]], *, shard: int, root: str, work_dir: str | None
) -> tuple[FileRecord, int]:
    """Index a shard's rows (vector_id, text) and publish that to `root` as one file; returns its record, and their number.

    The file is named by its content: tantivy gives its parts random names, so that two attempts of a task never write the
    same. Memory is some 100 MB.
    """
    tantivy = require_tantivy()
    with tempfile.TemporaryDirectory(dir=work_dir) as work:
        folder = Path(work) / "index"
        folder.mkdir()
        index = tantivy.Index(_schema(), path=str(folder))
        written = _fill(index, rows)
        packed = Path(work) / "packed"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.iterdir()):
                if not path.name.endswith(".lock"):
                    archive.write(path, path.name)
        record = record_file(packed)
        name = f"{shard_name(shard)}-{record.sha256[:_NAME_DIGITS]}{FULL_TEXT_SUFFIX}"
        storage.publish(packed, storage.join(root, name))
        return replace(record, name=name), written


def tokens_of(text: str) -> list[str]:
    """The different words of a text as they are indexed: lower case, without accents, in their order."""
    return list(dict.fromkeys(_analyzer().analyze(_compose(text))))


def count_words(parts: Sequence[FullText], text: str) -> WordCounts:
    """In how many rows of all parts the words of a text are: the first MAX_TOKENS different ones."""
    tokens = tokens_of(text)[:MAX_TOKENS]
    having = {token: sum(part.count(token) for part in parts) for token in tokens}
    return WordCounts(sum(part.rows for part in parts), having)


def _fill(index: Any, rows: Iterable[tuple[int, str | None]]) -> int:
    tantivy = require_tantivy()
    index.register_tokenizer(_TOKENIZER, _analyzer())
    writer = index.writer(heap_size=_WRITER_BYTES, num_threads=1)
    written = 0
    for vector_id, text in rows:
        document = tantivy.Document()
        document.add_unsigned(_ROW, vector_id)
        if text is not None:
            document.add_text(_TEXT, _compose(text))
        writer.add_document(document)
        written += 1
    writer.commit()
    writer.wait_merging_threads()
    return written


def _compose(text: str) -> str:
    """The text as the analyzer takes it: UTF-8, and letters composed, as text of some systems and of PDF files is not.

    The analyzer takes accents off composed letters alone. An accent on a Latin letter is taken off here, as some have
    no composed form, and a capital İ is an i with a dot only in lower case.
    """
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFD", text.encode(errors="replace").decode())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", apart))


@lru_cache(maxsize=1)
def _analyzer() -> Any:
    tantivy = require_tantivy()
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.regex(_TOKEN))
    for step in ("lowercase", "ascii_fold"):
        builder = builder.filter(getattr(tantivy.Filter, step)())
    return builder.filter(tantivy.Filter.remove_long(_MAX_TOKEN_BYTES)).build()


def _schema() -> Any:
    builder = require_tantivy().SchemaBuilder()
    builder.add_text_field(_TEXT, stored=False, tokenizer_name=_TOKENIZER, index_option="freq")
    builder.add_unsigned_field(_ROW, stored=False, indexed=True, fast=True)
    return builder.build()


def require_tantivy() -> Any:
    """The package, which only those have who search by words. Raises LakeError where it is not installed."""
    try:
        import tantivy
    except ImportError as error:
        raise LakeError(
            "full text is written and searched by the package tantivy, which is not installed here: install "
            "gme-lake[full-text], on executors too"
        ) from error
    return tantivy

"""Commits that Delta refuses because another run committed meanwhile: how they are known, and made again where that
is safe.
"""

from __future__ import annotations

import logging

from tenacity import (
    before_sleep_log,
    retry,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

# The many spellings: error conditions of Delta, its classes, and the streaming checkpoint's own.
_CONCURRENT = (
    "DELTA_CONCURRENT",
    "DELTA_METADATA_CHANGED",
    "ConcurrentAppendException",
    "ConcurrentTransactionException",
    "ConcurrentDeleteReadException",
    "ConcurrentDeleteDeleteException",
    "MetadataChangedException",
    "CONCURRENT_STREAM_LOG_UPDATE",
)
_ATTEMPTS, _LONGEST_WAIT = 10, 20.0  # seconds; a commit takes one or two


def is_conflict(error: BaseException) -> bool:
    """Whether an error says that somebody else committed at the same time."""
    return any(word in f"{type(error).__name__} {error}" for word in _CONCURRENT)


# For statements that read what they decide by within their own transaction, as MERGE and UPDATE do.
again_on_conflict = retry(
    retry=retry_if_exception(is_conflict),
    stop=stop_after_attempt(_ATTEMPTS),
    wait=wait_random_exponential(max=_LONGEST_WAIT),
    before_sleep=before_sleep_log(logging.getLogger("gme_lake"), logging.INFO),
    reraise=True,
)

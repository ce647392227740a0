"""Progress of a long job: one live line in a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger("gme_lake")


class RowProgress:
    """Rows done of a known or unknown total, rows per second, rejected rows, time left."""

    def __init__(self, label: str, *, total: int | None) -> None:
        self._live = sys.stderr.isatty()
        self._label = label
        self._total = total
        self._start = time.monotonic()
        self._bar = tqdm(
            total=total, desc=label, unit="row", disable=not self._live, dynamic_ncols=True
        )
        self.done = 0
        self.rejected = 0

    def add(self, rows: int, *, rejected: int) -> None:
        """Count rows that are done, some of them rejected, and show it."""
        self.done += rows
        self.rejected += rejected
        self._bar.set_postfix(rejected=self.rejected, refresh=False)
        self._bar.update(rows)
        if not self._live:
            log.info("%s", self.line())

    def line(self) -> str:
        """The progress as one line of text."""
        rate = self.done / max(time.monotonic() - self._start, 1e-9)
        of = f" of {self._total:,}" if self._total else ""
        left = max((self._total or 0) - self.done, 0) / rate if rate and self._total else 0.0
        ends = f", about {left:,.0f} s left" if self._total else ""
        return (
            f"{self._label}: {self.done:,}{of} rows, {rate:,.1f} rows/s, "
            f"{self.rejected:,} rejected{ends}"
        )

    def close(self) -> None:
        """Leave the terminal line as it is."""
        self._bar.close()

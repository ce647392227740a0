"""A local server of the protocol for the time of a run: rules, or a small real model. For trials."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import udfs
from jobs.settings.synthesize import SynthesizeSettings
from udfs.errors import ServingError

log = logging.getLogger("gme_lake")

MODULE = "udfs.synthesis.local_server"
_PICTURES = "drawn-products"
_END_SECONDS = 10


@contextmanager
def serve_models(settings: SynthesizeSettings) -> Iterator[SynthesizeSettings]:
    """The settings with the address and models of `synthesize.server`, while it runs; unchanged where none is asked for.

    The server ends with the block, and where this process is killed with it. Raises ServingError where it cannot start.
    """
    if not settings.server:
        yield settings
        return
    command = [sys.executable, "-m", MODULE, "--answers", settings.server]
    log.info(
        "a local server of the protocol starts: answers by %s, drawn pictures", settings.server
    )
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(udfs.__file__).parents[1],
        start_new_session=True,  # Ctrl-C is for the run, which then ends it
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            if not url:
                raise ServingError(
                    f"the local server (synthesize.server={settings.server}) did not start; what it said stands above"
                )
            own = {"url": url, "image_url": "", "key": "none", "image_model": _PICTURES}
            yield settings.model_copy(update={**own, "model": settings.server})
        finally:
            server.stdin.close()
            try:
                server.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()

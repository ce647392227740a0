"""The service that SQL functions on executors ask: one listener in the driver, a thread for each worker that asks."""

from __future__ import annotations

import logging
import secrets
import threading
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from typing import Any

from jobs.driver.task_errors import failure
from jobs.stages.sql.searches import Searches
from udfs.errors import GmeLakeError, ServingError
from udfs.sql.service_client import AskHits, AskModel, Prepare, Request, ServiceAddress

log = logging.getLogger("gme_lake")

_BACKLOG = 128
_KEY_BYTES = 32


class SearchService:
    """Answers what `udfs.sql.service_client` asks. Its threads end with the process, or with `close`."""

    def __init__(self, searches: Searches, *, bind: str, host: str) -> None:
        """Listens on `bind`; executors reach it as `host`. Both are those of the Spark driver."""
        self._searches = searches
        self._listener = Listener((bind, 0), backlog=_BACKLOG)
        self._bound = self._listener.address
        self.address = ServiceAddress(host, int(self._bound[1]), secrets.token_bytes(_KEY_BYTES))
        self._closed = threading.Event()
        # While the functions are being made, their bodies are analysed as statements are.
        self.prepares = False
        threading.Thread(target=self._accept, name="gme-lake-sql", daemon=True).start()

    def close(self) -> None:
        """Stop listening; who asks afterwards is told to open the lake again."""
        self._closed.set()
        with suppress(OSError):  # wakes the thread that waits for a client
            Client(self._bound).close()

    def _accept(self) -> None:
        with self._listener:
            while not self._closed.is_set():
                try:
                    connection = self._listener.accept()
                except OSError as error:  # a client that was gone at once, or no descriptor is left
                    log.warning("the service of SQL functions could not take a client: %s", error)
                    self._closed.wait(0.1)
                    continue
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                thread.start()

    def _serve(self, connection: Connection) -> None:
        """Answers one client until it leaves; one without the key is not listened to."""
        with connection, suppress(EOFError, ConnectionError, AuthenticationError):
            deliver_challenge(connection, self.address.key)
            answer_challenge(connection, self.address.key)
            while not self._closed.is_set():
                connection.send(self._answer(connection.recv()))

    def _answer(self, request: Request) -> Any:
        try:
            return self._answer_to(request)
        except GmeLakeError as error:
            return error
        except Exception as error:
            log.exception("a SQL function's request failed")
            return ServingError(f"the service of the lake's SQL functions failed: {failure(error)}")

    def _answer_to(self, request: Request) -> Any:
        if isinstance(request, Prepare):
            if self.prepares:
                with suppress(GmeLakeError):  # told by the function's task, as a SQL error
                    self._searches.prepare()
            return None
        if isinstance(request, AskModel):
            return self._searches.model(request.stamp, request.release)
        if isinstance(request, AskHits):
            return self._searches.hits(request)
        raise TypeError(f"{type(request).__name__} is no request")

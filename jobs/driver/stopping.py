"""Ctrl-C and a scheduler's SIGTERM end a command the same way: jobs are cancelled, finally blocks run, one line says so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CANCEL_SECONDS = 10.0  # longest wait for Spark to take note


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A command was stopped by a signal, and its finally blocks have run; `status` is what shells expect."""

    def __init__(self, number: int) -> None:
        super().__init__("stopped; run again to continue")
        self.status = 128 + number


class Stopping:
    """Handles the signals that stop a command; `cancel` ends what runs elsewhere, such as Spark's jobs."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.cancel: Callable[[], object] | None = None

    def take_signals(self) -> None:
        """Handle the signals here; again after a Spark session was started, which takes Ctrl-C for itself.

        PySpark's handler calls the JVM on the very connection that the interrupted call holds, and fails. A signal that
        is ignored (nohup) stays so. Signals reach the main thread alone: called elsewhere it changes nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        first = not self.received
        if not first and number != signal.SIGINT:
            return  # schedulers repeat it; a second Ctrl-C is meant to break off the cleaning up
        self.received.append(number)
        if first and self.cancel is not None:
            # Another thread has its own connection to the JVM. It is waited for: later jobs are those of cleaning up.
            cancelling = threading.Thread(target=self.cancel, daemon=True)
            cancelling.start()
            cancelling.join(_CANCEL_SECONDS)
        raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[Stopping]:
    """Raise KeyboardInterrupt in the block at the first signal, and Stopped from it once the block has unwound."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    stopping = Stopping()
    stopping.take_signals()
    try:
        yield stopping
    except BaseException as error:
        # What failed while the block was stopped, on a connection that was cut, is no news.
        if not stopping.received and not isinstance(error, KeyboardInterrupt):
            raise
        raise Stopped(next(iter(stopping.received), signal.SIGINT)) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)

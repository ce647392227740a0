"""Pictures read over http from a server that takes its time: `python -m tests.bench.bench_uris`.

A server of this machine waits `--latency` milliseconds before each answer, as object stores do. For each number of
threads (`source.threads`, by default 8): pictures and stamps a second of one task, and the reader's CPU a picture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table

from udfs.files.image_files import read_images, stamp_images_of
from udfs.specs import ReadSpec

THREADS = (1, 2, 4, 8, 16, 32)


def main() -> None:
    """Read, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--latency", type=float, default=50)
    arguments = parser.parse_args()
    table = Table(
        "threads", "pictures/s", "1000 / latency × threads", "CPU ms a picture", "stamps/s"
    )
    with _server(arguments.latency / 1000, arguments.kilobytes << 10) as port:
        uris = [f"http://127.0.0.1:{port}/{n}.jpg" for n in range(arguments.pictures)]
        for threads in THREADS:
            spec = ReadSpec(threads=threads)
            start, cpu = time.perf_counter(), time.process_time()
            found = list(read_images(uris, spec=spec))
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            if not all(isinstance(one, bytes) for one in found):
                raise RuntimeError(
                    f"not read: {next(one for one in found if not isinstance(one, bytes))}"
                )
            start = time.perf_counter()
            stamps = len(list(stamp_images_of(uris, spec=spec)))
            table.add_row(
                str(threads),
                f"{len(uris) / seconds:,.0f}",
                f"{1000 / arguments.latency * threads:,.0f}",
                f"{1000 * cpu / len(uris):.2f}",
                f"{stamps / (time.perf_counter() - start):,.0f}",
            )
    Console(width=110).print(
        f"{arguments.pictures} pictures of {arguments.kilobytes} KiB, {arguments.latency:g} ms to an answer",
        table,
    )


@contextmanager
def _server(latency: float, size: int) -> Iterator[int]:
    """The port of a server in a process of its own."""
    ours, its = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(its, latency, size), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection, latency: float, size: int) -> None:
    body = bytes(size)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body together, or the client waits for a delayed acknowledgement

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            time.sleep(latency)
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.send_header("ETag", '"1"')
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        request_queue_size = 256  # a burst of new connections must not be turned away

    server = Server(("127.0.0.1", 0), Handler)
    pipe.send(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    main()

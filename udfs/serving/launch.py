"""Election: the first worker that finds no living server starts one, all others connect to it."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from udfs.errors import ServingError
from udfs.serving.address import Address, server_address, try_lock
from udfs.serving.client import LostError, ServerClient
from udfs.serving.device import Device, task_device, usable_cores
from udfs.specs import ModelSpec, ServingSpec

SERVER_MODULE = "udfs.serving.server"
_POLL_SECONDS = 0.02
_MAX_LOST = 3  # connections lost before the server spoke: a leaving server, then one that dies while it starts


def open_server(
    model: ModelSpec, serving: ServingSpec, *, tokenizer: str | None, watch: int | None = None
) -> ServerClient:
    """A connection to this executor's model server, started first if there is none.

    `tokenizer` is the sha-256 of the tokenizer.json that the caller prepares rows with: the server compares it.

    The server ends with process `watch` (default: the parent of this process, for a Python worker Spark's daemon).
    CheckpointError or ServingError say why it could not start.
    """
    device = task_device(serving.device)
    address = server_address(model, serving, gpu=device.gpu)
    deadline = time.monotonic() + serving.start_timeout_seconds
    child: subprocess.Popen[bytes] | None = None
    lost = 0
    while True:
        lock = try_lock(address)
        if lock is not None:
            if child is not None:  # ours held the lock until it ended
                os.close(lock)
                raise ServingError(_tell_death(address, child.poll()))
            child = _spawn(address, model, serving, device=device, lock=lock, watch=watch)
        connection = _connect(address)
        if connection is not None:
            try:
                return ServerClient(
                    connection, address, model=model, tokenizer=tokenizer, deadline=deadline
                )
            except LostError as exc:
                lost += 1
                if lost >= _MAX_LOST:
                    raise ServingError(_tell_death(address, None)) from exc
        if time.monotonic() > deadline:
            raise ServingError(
                f"no model server after {serving.start_timeout_seconds:g} s "
                f"(serving.start_timeout_seconds); its log ends:\n{address.log_tail()}"
            )
        time.sleep(_POLL_SECONDS)


def _spawn(
    address: Address,
    model: ModelSpec,
    serving: ServingSpec,
    *,
    device: Device,
    lock: int,
    watch: int | None,
) -> subprocess.Popen[bytes]:
    options = {
        "folder": str(address.folder),
        "name": address.name,
        "watch": os.getppid() if watch is None else watch,
        "device": device.torch,
        "model": dataclasses.asdict(model),
        "serving": dataclasses.asdict(serving),
    }
    command = [sys.executable, "-m", SERVER_MODULE, "--lock", str(lock), json.dumps(options)]
    try:
        address.log.unlink(missing_ok=True)
        with address.log.open("xb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(device, usable_cores(serving.threads)),
                pass_fds=[lock],
                start_new_session=True,  # Spark's daemon sends SIGHUP to its whole group when it leaves
            )
    finally:
        os.close(lock)


def _environment(device: Device, threads: int) -> dict[str, str]:
    """The worker's environment, with its import path (Spark adds --py-files at run time) and the model's threads.

    Spark sets OMP_NUM_THREADS to the cores of one task, which is not what the one model of the executor may use.
    """
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    environment["PYTHONUNBUFFERED"] = "1"
    environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
    environment["TOKENIZERS_PARALLELISM"] = "false"
    if device.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device.gpu
    return environment


def _connect(address: Address) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(address.socket))
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        connection.close()  # not listening yet, a killed server's socket, or its backlog is full
        return None
    return connection


def _tell_death(address: Address, code: int | None) -> str:
    ended = "" if code is None else f" (exit code {code})"
    return f"the model server died while it started{ended}; its log ends:\n{address.log_tail()}"

"""Read, stat, fetch, publish and remove files by path or URI: local disk, and whatever pyarrow.fs or fsspec reaches."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat as stat_module
import uuid
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from pyarrow import fs

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")  # two characters at least: "C:" is a drive
_ARROW = {"s3", "gs", "hdfs", "viewfs", "abfs", "abfss"}
# Hadoop's names of S3, and fsspec's of a local file.
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "local": "file"}
_GCS_SECONDS = 60  # that Google's client goes on trying; its own default is 15 minutes
# A written object appears whole or not at all, and a rename would be a copy.
_ATOMIC_ON_CLOSE = {"s3", "gs", "http", "https"}
_CHUNK = 8 << 20


class TooLargeError(OSError):
    """A file has more bytes than the caller allows; it was not read."""


class NotAFileError(OSError):
    """A path names a folder, pipe, device or socket; it was not opened."""


@dataclass(frozen=True)
class Usage:
    """`bytes` of files, and when the newest changed: seconds since the epoch, None where the store does not tell."""

    bytes: int
    changed: float | None


def local_path(uri: str) -> Path | None:
    """The path of a local file, or None for a remote URI.

    Takes plain paths, `file:` URIs, and Databricks' `dbfs:`, which every node mounts (`/Volumes/…`, `/dbfs/…`).
    """
    if not _SCHEME.match(uri):
        return Path(uri)
    rest = uri.split(":", 1)[1]
    named = scheme(uri)
    if named == "file":
        return Path(unquote(urlsplit(uri).path))
    if named == "dbfs":
        path = "/" + rest.lstrip("/")
        return Path(path if path.startswith("/Volumes/") else "/dbfs" + path)
    return None


def join(root: str, name: str) -> str:
    """The path or URI of `name` under `root`."""
    return f"{root.rstrip('/')}/{name}" if root.strip("/") else f"{root}{name}"


def locate(base: str, name: str) -> str:
    """`name` under the folder `base` where it is relative; as it is where it is absolute, or there is no base."""
    absolute = name.startswith("/") or "://" in name or name[:5].lower() == "data:"
    return name if absolute or not base else join(base, name)


def exists(uri: str) -> bool:
    """Whether a file or folder is there. Raises `OSError` where that cannot be found out."""
    if (path := local_path(uri)) is not None:
        return path.exists()
    system, remote = _filesystem(uri)
    return bool(system.get_file_info(remote).type != fs.FileType.NotFound)


def names(uri: str) -> list[str]:
    """Names of what lies directly in a folder, sorted; none where there is no such folder."""
    if (path := local_path(uri)) is not None:
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    system, remote = _filesystem(uri)
    found = system.get_file_info(fs.FileSelector(remote, allow_not_found=True))
    return sorted(info.base_name for info in found)


def lengths(uri: str) -> dict[str, int]:
    """Bytes of the files that lie directly in a folder, by name; none where there is no such folder."""
    path = local_path(uri)
    system, folder = (fs.LocalFileSystem(), str(path)) if path is not None else _filesystem(uri)
    found = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return {info.base_name: info.size or 0 for info in found if info.type == fs.FileType.File}


def usage(uri: str) -> Usage:
    """What the files in and below a folder take; a missing folder takes nothing and never changed."""
    path = local_path(uri)
    system, folder = (fs.LocalFileSystem(), str(path)) if path is not None else _filesystem(uri)
    below = system.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    infos = [system.get_file_info(folder), *below]  # an empty folder has a time of its own
    changed = [info.mtime.timestamp() for info in infos if info.mtime is not None]
    return Usage(sum(info.size or 0 for info in below), max(changed, default=None))


def files(uri: str) -> dict[str, int]:
    """Bytes of all files in and below a folder, or of the one file that lies there, by path or URI; links are not
    followed, and what others remove meanwhile is not there.
    """
    if (path := local_path(uri)) is not None:
        if path.is_file() and not path.is_symlink():
            return {str(path): path.stat().st_size}
        walked = sorted(Path(at) / name for at, _, names_ in os.walk(path) for name in names_)
        sizes = {}
        for file in walked:
            with contextlib.suppress(FileNotFoundError):  # a commit's file before it is renamed
                status = file.lstat()
                if not stat_module.S_ISLNK(status.st_mode):
                    sizes[str(file)] = status.st_size
        return sizes
    system, remote = _filesystem(uri)
    if system.get_file_info(remote).type == fs.FileType.File:
        return {uri: system.get_file_info(remote).size or 0}
    below = system.get_file_info(fs.FileSelector(remote, recursive=True, allow_not_found=True))
    of_files = (info for info in below if info.type == fs.FileType.File)
    return {join(uri, i.path.removeprefix(remote).lstrip("/")): i.size or 0 for i in of_files}


def stat(uri: str) -> tuple[int, str]:
    """(bytes, version) of a file; `version` changes when the file does: mtime in ns, or the store's etag.

    Raises `FileNotFoundError`, or another `OSError` where the place cannot be reached.
    """
    if (path := local_path(uri)) is not None:
        found = path.stat()
        return found.st_size, str(found.st_mtime_ns)
    system, remote = _filesystem(uri)
    info = _file_info(system, remote, uri)
    if info.mtime_ns is not None:
        return info.size, str(info.mtime_ns)
    return info.size, _etag(system, remote)


def read_bytes(uri: str, *, max_bytes: int) -> bytes:
    """The whole file. Raises `FileNotFoundError`, `TooLargeError` (unread), or another `OSError` (unreachable).

    A local path must be a file: folders, pipes, devices and sockets raise `NotAFileError`, unopened. Libraries of
    remote places raise other errors too.
    """
    if (path := local_path(uri)) is not None:
        with _open(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > max_bytes:
                raise TooLargeError(f"{uri} has {size} bytes; the limit is {max_bytes}")
            return _read_bounded(stream, uri, max_bytes=max_bytes)
    system, remote = _filesystem(uri)
    size = _file_info(system, remote, uri).size
    if size is not None and size > max_bytes:
        raise TooLargeError(f"{uri} has {size} bytes; the limit is {max_bytes}")
    with system.open_input_stream(remote) as stream:
        return _read_bounded(stream, uri, max_bytes=max_bytes)


def fetch(uri: str, local: Path) -> None:
    """Copy a file to `local`, which appears whole or not at all. Raises as `read_bytes` does."""
    temporary = _beside(local)
    try:
        if (path := local_path(uri)) is not None:
            shutil.copyfile(path, temporary)
        else:
            system, remote = _filesystem(uri)
            _file_info(system, remote, uri)
            with system.open_input_stream(remote) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
        temporary.replace(local)
    finally:
        temporary.unlink(missing_ok=True)


def publish(local: Path, uri: str) -> None:
    """Copy a local file to `uri`, replacing what is there; readers see the old file or the new one, never a part.

    On local disk the bytes are synced before the name appears.
    """
    if (path := local_path(uri)) is not None:
        _publish_local(local, path)
        return
    system, remote = _filesystem(uri)
    direct = scheme(uri) in _ATOMIC_ON_CLOSE
    target = remote if direct else f"{remote}.{uuid.uuid4().hex}.tmp"
    if not direct:
        system.create_dir(remote.rsplit("/", 1)[0], recursive=True)
    with local.open("rb") as source, system.open_output_stream(target) as stream:
        shutil.copyfileobj(source, stream, _CHUNK)
    if not direct:
        if system.get_file_info(remote).type != fs.FileType.NotFound:
            system.delete_file(remote)  # HDFS does not rename over a file
        system.move(target, remote)


def write_small(data: bytes, uri: str) -> None:
    """Replace a file by `data`; on local disk its folder must be there, and readers never see a part.

    Nothing is synced: for what is worth nothing after a crash.
    """
    if (path := local_path(uri)) is not None:
        temporary = _beside(path)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return
    system, remote = _filesystem(uri)
    with system.open_output_stream(remote) as stream:
        stream.write(data)


def remove_file(uri: str) -> None:
    """Remove a file; a missing one is no error."""
    if (path := local_path(uri)) is not None:
        path.unlink(missing_ok=True)
        return
    system, remote = _filesystem(uri)
    if system.get_file_info(remote).type != fs.FileType.NotFound:
        system.delete_file(remote)


def remove_folder(uri: str) -> None:
    """Remove a folder and all that is in it; a missing one is no error, nor is what another process removes meanwhile."""
    if (path := local_path(uri)) is not None:
        shutil.rmtree(path, onerror=_unless_gone)
        return
    system, remote = _filesystem(uri)
    if system.get_file_info(remote).type != fs.FileType.NotFound:
        with contextlib.suppress(FileNotFoundError):
            system.delete_dir(remote)


def _unless_gone(function: object, path: str, raised: tuple[Any, BaseException, Any]) -> None:
    """What `shutil.rmtree` asks of an error: whether to go on."""
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


def _open(path: Path) -> BinaryIO:
    """A local file opened for reading; a pipe that takes its place meanwhile does not block."""
    _require_file(path, path.stat().st_mode)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_file(path, os.fstat(handle).st_mode)
        return open(handle, "rb")  # noqa: PTH123 - a handle, no path
    except BaseException:
        os.close(handle)
        raise


def _require_file(path: Path, mode: int) -> None:
    if not stat_module.S_ISREG(mode):
        kinds = {
            stat_module.S_IFDIR: "a folder",
            stat_module.S_IFIFO: "a pipe",
            stat_module.S_IFSOCK: "a socket",
            stat_module.S_IFCHR: "a device",
            stat_module.S_IFBLK: "a device",
        }
        raise NotAFileError(f"{kinds.get(stat_module.S_IFMT(mode), 'no file')}, not a file")


def _publish_local(local: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        shutil.copyfile(local, temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _read_bounded(stream: Any, uri: str, *, max_bytes: int) -> bytes:
    data: bytes = stream.read(max_bytes + 1)  # a server may not tell a size, or tell a wrong one
    if len(data) > max_bytes:
        raise TooLargeError(f"{uri} has more than {max_bytes} bytes, the limit")
    return data


def scheme(uri: str) -> str:
    """The scheme of a URI in lower case, one name for each kind of place; `file` for a path."""
    if not _SCHEME.match(uri):
        return "file"
    named = uri.split(":", 1)[0].lower()
    return _ALIASES.get(named, named)


def is_chain(uri: str) -> bool:
    """Whether fsspec reads `uri` through several places, as in `zip://a.jpg::s3://bucket/b.zip`."""
    return "::" in uri and scheme(uri) not in _ARROW | {"file", "dbfs", "http", "https"}


def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """pyarrow's own file system where it has one, else fsspec's behind pyarrow's interface; names are taken literally."""
    named = scheme(uri)
    # fsspec takes what has no // for a local path.
    if not is_chain(uri) and not uri.split(":", 1)[1].startswith("//"):
        raise ValueError(f"{named}: must be followed by //")
    if named in _ARROW:
        place, _, name = uri.split("://", 1)[1].partition("/")
        if not place:
            raise ValueError(f"{named}:// must be followed by the name of a bucket or host")
        system, root = _arrow_root(f"{named}://{place}/")
        return system, f"{root.rstrip('/')}/{name}"
    import fsspec

    inner, path = fsspec.core.url_to_fs(uri)
    return fs.PyFileSystem(fs.FSSpecHandler(inner)), path


@lru_cache(maxsize=64)
def _arrow_root(root: str) -> tuple[fs.FileSystem, str]:
    """Opened once a process: finding a bucket's region is a request of its own."""
    if root.startswith("gs://"):
        limit = timedelta(seconds=_GCS_SECONDS)
        return fs.GcsFileSystem(retry_time_limit=limit), root.removeprefix("gs://").rstrip("/")
    system, path = fs.FileSystem.from_uri(root)
    return system, path


def _file_info(system: fs.FileSystem, path: str, uri: str) -> fs.FileInfo:
    info = system.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        if (handler := getattr(system, "handler", None)) is not None:
            handler.fs.info(path)  # raises again what pyarrow's wrapper made a plain "not found"
        raise FileNotFoundError(f"no file at {uri}")
    return info


def _etag(system: fs.FileSystem, path: str) -> str:
    handler = getattr(system, "handler", None)
    details = handler.fs.info(path) if handler is not None else {}
    for key in ("ETag", "etag", "mtime", "last_modified", "LastModified", "created"):
        if details.get(key):
            return str(details[key])
    return ""  # the size alone tells a change

"""Which places a row may name: schemes and roots, compared after `..`, links and aliases are resolved."""

from __future__ import annotations

import os
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from udfs import storage
from udfs.specs import ReadSpec

# The kernel's own trees: their "files" tell of this process and machine.
_NEVER = ("/proc", "/sys")
_MOUNTS = {"/Volumes", "/dbfs"}  # Databricks': governed by the catalog, not this machine's disk


class PlaceRefusedError(OSError):
    """A row names a place that it may not read from."""


def require_permitted(uri: str, *, spec: ReadSpec) -> str:
    """The path or URI to open for `uri`; a local one is resolved where roots are given.

    Raises PlaceRefusedError for a scheme that is not in `spec.schemes`, or a place that is under none of
    `spec.roots`; ValueError for what is no path (a NUL).
    """
    path = storage.local_path(uri)
    if path is None:
        if storage.is_chain(uri):
            for link in uri.split("::"):
                require_permitted(link if ":" in link or "/" in link else f"{link}://", spec=spec)
            return uri
        _require_scheme(storage.scheme(uri), spec)
        _require_remote_root(uri, spec)
        return uri
    real = os.path.realpath(path)
    if any(_is_under(real, folder) for folder in _NEVER):
        raise PlaceRefusedError(f"it lies in {real.split('/')[1]}, which holds no pictures")
    _require_scheme(local_scheme(real), spec)
    if not spec.roots:
        return str(path)
    if not any(_is_under(real, root) for root in map(_local_root, spec.roots) if root is not None):
        raise PlaceRefusedError(_outside(spec))
    return real


def local_scheme(path: str) -> str:
    """`file`, or `dbfs` for a path in what Databricks mounts on every node."""
    return "dbfs" if "/" + path.lstrip("/").split("/")[0] in _MOUNTS else "file"


def _require_scheme(scheme: str, spec: ReadSpec) -> None:
    if spec.schemes is not None and scheme not in spec.schemes:
        allowed = ", ".join(spec.schemes) or "none"
        raise PlaceRefusedError(
            f"the scheme {scheme!r} is not among source.schemes ({allowed}); add it there if rows may name such places"
        )


def _require_remote_root(uri: str, spec: ReadSpec) -> None:
    if not spec.roots:
        return
    host, parts = _split(uri)
    # A server may take these for a step up, whatever we take them for.
    if "\\" in uri or any(unquote(unquote(part)) in (".", "..") for part in parts):
        raise PlaceRefusedError("it has . or .. or a backslash, which source.roots does not allow")
    for root in spec.roots:
        if storage.local_path(root) is None and storage.scheme(root) == storage.scheme(uri):
            root_host, root_parts = _split(root)
            if host == root_host and parts[: len(root_parts)] == root_parts:
                return
    raise PlaceRefusedError(_outside(spec))


def _split(uri: str) -> tuple[str, list[str]]:
    """The place (bucket, host and port) and the names of a URI's path."""
    split = urlsplit(uri)
    web = split.scheme in ("http", "https")
    host, _, name = uri.split(":", 1)[1].lstrip("/").partition("/")
    if web:
        default = 443 if split.scheme == "https" else 80
        host, name = f"{split.hostname}:{split.port or default}", unquote(split.path)
    return host, [part for part in name.split("/") if part]


def _is_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


@lru_cache(maxsize=256)
def _local_root(root: str) -> str | None:
    path = storage.local_path(root)
    return None if path is None else os.path.realpath(path)


def _outside(spec: ReadSpec) -> str:
    return f"it lies under none of source.roots ({', '.join(spec.roots)})"

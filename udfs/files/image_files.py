"""Pictures by path and URI: the bytes, or the reason why there are none; and what names a content without reading it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial

from udfs import storage
from udfs.errors import ImageRejected, RowRejected
from udfs.files import web
from udfs.files.ahead import in_order
from udfs.files.data_uris import DataUriError, DataUriTooLargeError, data_uri_bytes, is_data_uri
from udfs.files.places import PlaceRefusedError, require_permitted
from udfs.specs import ReadSpec
from udfs.strings import printable, require_utf8, without_quotes

_PASSWORD = re.compile(r"(?<=:)//[^/@]*:[^/@]*@")
_SHOWN = 200  # characters of a path in a message


def read_image(uri: str, *, spec: ReadSpec) -> bytes:
    """The bytes of the file. Raises `RowRejected("not_utf8")`, or `ImageRejected` with the reason missing, refused,
    not_a_file, too_large or unreachable: whatever a path library raises becomes one of them.
    """
    require_utf8(uri, what="image path")
    shown = path_for_people(uri)
    try:
        return _read(uri, spec)
    except (MemoryError, RowRejected):
        raise
    except Exception as error:
        raise ImageRejected(_reason(error), f"{shown}: {_detail(error)}") from error


def read_images(uris: Iterable[str], *, spec: ReadSpec) -> Iterator[bytes | RowRejected]:
    """`read_image` of each, in order, `spec.threads` at a time; a rejection is given instead of raised."""
    read = partial(_read_or_reject, spec=spec)
    return in_order(read, uris, threads=spec.threads, size=_size)


def stamp_image(uri: str, *, spec: ReadSpec) -> str:
    """What changes when the file at `uri` does: `uri|size|mtime or etag`, `uri|missing`, or `uri|reason`.

    The stamp of a data URI is short: its content stands in the path, which the row's hash covers.
    """
    try:
        require_utf8(uri, what="image path")
        if is_data_uri(uri):
            _permit_data(spec)
            return "data"
        size, version = _stat(uri, spec)
    except MemoryError:
        raise
    except RowRejected as error:
        return f"{uri}|{error.status}"
    except Exception as error:  # path libraries raise any type
        reason = _reason(error)
        # The type as well as the word: one trouble after another is a change, and so tried again.
        return f"{uri}|{type(error).__name__ if reason == 'unreachable' else reason}"
    return f"{uri}|{size}|{version}"


def stamp_images_of(uris: Iterable[str], *, spec: ReadSpec) -> Iterator[str]:
    """`stamp_image` of each, in order, `spec.threads` at a time."""
    return in_order(partial(stamp_image, spec=spec), uris, threads=spec.threads, size=len)


def path_for_people(uri: str) -> str:
    """A path as a message shows it: without a password, and of a long one, such as a data URI, the beginning."""
    uri = _PASSWORD.sub("//…@", printable(uri), count=1)
    limit = 40 if is_data_uri(uri) else _SHOWN
    return uri if len(uri) <= limit else f"{uri[:limit]}… ({len(uri)} characters)"


def _read(uri: str, spec: ReadSpec) -> bytes:
    if is_data_uri(uri):
        _permit_data(spec)
        return data_uri_bytes(uri, max_bytes=spec.max_bytes)
    place = require_permitted(uri, spec=spec)
    if is_web(place):
        return web.get(place, spec=spec, allow=partial(_permit, spec=spec))
    return storage.read_bytes(place, max_bytes=spec.max_bytes)


def _stat(uri: str, spec: ReadSpec) -> tuple[int | None, str]:
    place = require_permitted(uri, spec=spec)
    if is_web(place):
        return web.head(place, spec=spec, allow=partial(_permit, spec=spec))
    return storage.stat(place)


def is_web(uri: str) -> bool:
    """Whether `uri` is read over http or https."""
    return uri[:8].lower().startswith(("http://", "https://"))


def _permit(uri: str, *, spec: ReadSpec) -> None:
    require_permitted(uri, spec=spec)


def _permit_data(spec: ReadSpec) -> None:
    if spec.schemes is not None and "data" not in spec.schemes:
        raise PlaceRefusedError(
            f"the scheme 'data' is not among source.schemes ({', '.join(spec.schemes)})"
        )


def _read_or_reject(uri: str, *, spec: ReadSpec) -> bytes | RowRejected:
    try:
        return read_image(uri, spec=spec)
    except RowRejected as error:
        return error


def _size(found: bytes | RowRejected) -> int:
    return len(found) if isinstance(found, bytes) else 0


def _reason(error: Exception) -> str:
    if isinstance(error, PlaceRefusedError):
        return "refused"
    if isinstance(error, storage.TooLargeError | DataUriTooLargeError):
        return "too_large"
    if isinstance(error, DataUriError):
        return "corrupt"
    if isinstance(error, storage.NotAFileError):
        return "not_a_file"
    if isinstance(error, FileNotFoundError):
        cause = error.__cause__  # fsspec's clients call many a failure "not found"
        other = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        return "unreachable" if other else "missing"
    return "unreachable"


def _detail(error: Exception) -> str:
    """What was met, without what was read: messages of parsers quote it."""
    if isinstance(error, FileNotFoundError):
        cause = error.__cause__
        if isinstance(cause, OSError):
            return f"{type(cause).__name__}: {without_quotes(str(cause))}"
        return str(error) if str(error).startswith("HTTP ") else "there is no such file"
    ours = PlaceRefusedError | web.WebError | storage.NotAFileError | storage.TooLargeError
    if isinstance(error, ours | DataUriError):
        return printable(str(error))
    if isinstance(error, ImportError):
        return f"the library for this kind of place is not installed here ({printable(str(error))[:_SHOWN]})"
    if isinstance(error, OSError) and error.strerror:
        return without_quotes(error.strerror)
    return f"{type(error).__name__}: {without_quotes(str(error))}"

"""Pictures by path and URI: the bytes, or the reason why there are none."""

from __future__ import annotations

from udfs import storage
from udfs.errors import ImageRejected


def read_image(uri: str, *, max_bytes: int) -> bytes:
    """The bytes of the file. Raises `ImageRejected` with the reason missing, unreachable or too_large."""
    try:
        return storage.read_bytes(uri, max_bytes=max_bytes)
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec's HTTP client calls every failure "not found"
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise ImageRejected("unreachable", f"{uri}: {cause}") from error
        raise ImageRejected("missing", f"no file at {uri}") from error
    except storage.TooLargeError as error:
        raise ImageRejected("too_large", str(error)) from error
    # ValueError, ImportError: an unknown scheme, or no driver for it.
    except (OSError, ValueError, ImportError) as error:
        raise ImageRejected("unreachable", f"{uri}: {error}") from error

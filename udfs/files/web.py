"""Files over http and https under limits of time: to connect, to a byte, and for the whole file."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from udfs.errors import GmeLakeError
from udfs.specs import ReadSpec
from udfs.storage import TooLargeError

R = TypeVar("R")

MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {404, 410}
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_DRAINED = 65_536  # bytes of a redirect's body that are read
_KEPT = 8  # open connections of a thread
_SAFE = "%/:@!$&'()*+,;=~-._?[]"  # what stays as it is in a path or query; % is taken as an escape
_SILENT_FILES = (
    16  # files in a row that a host did not answer for: then it is left alone for a while
)
_LEFT_ALONE_SECONDS = 60.0


class WebError(OSError):
    """A server answered with an error, not as HTTP says, or not at all. `status` is its code, if it gave one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _AgainError(WebError):
    """What another try may mend; `pause` is what the server asked for, in seconds."""

    def __init__(self, message: str, *, status: int | None = None, pause: float = 0.0) -> None:
        super().__init__(message, status=status)
        self.pause = pause


class _SilentError(_AgainError):
    """The server did not answer, or not in time."""


def get(url: str, *, spec: ReadSpec, allow: Callable[[str], None]) -> bytes:
    """The file at `url`; `allow` is asked about it and every place that a redirect names, and raises.

    Raises FileNotFoundError (404, 410), TooLargeError, WebError with the HTTP status or the limit that was met,
    and what `allow` raises.
    """

    def read(response: HTTPResponse) -> bytes:
        if response.length is not None and response.length > spec.max_bytes:
            raise TooLargeError(
                f"{response.length} bytes are announced; the limit is {spec.max_bytes}"
            )
        data = response.read(spec.max_bytes + 1)
        if len(data) > spec.max_bytes:
            raise TooLargeError(f"more than {spec.max_bytes} bytes, the limit")
        if response.length:
            raise _AgainError(
                f"the file ended early: {len(data)} of {len(data) + response.length} bytes came"
            )
        return data

    return _try("GET", url, _Asking(spec, allow), read)


def head(url: str, *, spec: ReadSpec, allow: Callable[[str], None]) -> tuple[int | None, str]:
    """(bytes or None, etag or "") of the file at `url`, without reading it. Raises as `get` does."""
    asking = _Asking(spec, allow)
    try:
        found = _try("HEAD", url, asking, _describe)
        if found[0] is not None:
            return found
    except FileNotFoundError:
        pass  # some servers know no HEAD; GET decides
    except WebError as error:
        if error.status is None or error.status in _BUSY:
            raise
    return _try("GET", url, asking, _describe)


def _describe(response: HTTPResponse) -> tuple[int | None, str]:
    size = None
    length, coding = response.getheader("Content-Length"), response.getheader("Content-Encoding")
    if length is not None and length.strip().isdecimal() and coding in (None, "", "identity"):
        size = int(length)
    return size, response.getheader("ETag") or ""


@dataclass(frozen=True)
class _Asking:
    spec: ReadSpec
    allow: Callable[[str], None]


def _try(method: str, url: str, asking: _Asking, use: Callable[[HTTPResponse], R]) -> R:
    spec = asking.spec
    deadline = time.monotonic() + spec.file_seconds
    retrying = Retrying(
        stop=stop_after_attempt(spec.tries) | stop_before_delay(spec.file_seconds),
        wait=_pause,
        retry=retry_if_exception_type(_AgainError),
        reraise=True,
    )
    host = urlsplit(url).netloc
    _hosts.require_awake(host)
    try:
        result: R = retrying(_follow, method, url, asking, use, deadline)
    except _SilentError:
        _hosts.silent(host)
        raise
    except (OSError, GmeLakeError):
        _hosts.note_answer(host)
        raise
    _hosts.note_answer(host)
    return result


_back_off = wait_random_exponential(multiplier=0.5, max=8)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.pause if isinstance(error, _AgainError) else 0.0
    return max(_back_off(state), asked)


def _follow(
    method: str, url: str, asking: _Asking, use: Callable[[HTTPResponse], R], deadline: float
) -> R:
    for _ in range(MAX_REDIRECTS + 1):
        asking.allow(url)
        found = _ask(method, url, asking.spec, use, deadline)
        if not isinstance(found, _Elsewhere):
            return found
        url = urljoin(url, found.url)
    raise WebError(f"more than {MAX_REDIRECTS} redirects")


@dataclass(frozen=True)
class _Elsewhere:
    url: str


def _ask(
    method: str, url: str, spec: ReadSpec, use: Callable[[HTTPResponse], R], deadline: float
) -> R | _Elsewhere:
    """One request over a kept connection, or a new one where there is none or it was closed meanwhile."""
    place = _place(url)
    kept = _connections.take(place)
    if kept is not None:
        kept.sock.settimeout(spec.first_byte_seconds)
        try:
            return _answer(kept, method, url, spec, use, deadline)
        except _StaleError:
            pass
    try:
        return _answer(_open(place, spec, deadline), method, url, spec, use, deadline)
    except _StaleError as error:
        raise _AgainError(f"the server closed the connection without an answer: {error}") from error


class _StaleError(WebError):
    """The connection was closed before the answer began."""


def _answer(
    connection: HTTPConnection,
    method: str,
    url: str,
    spec: ReadSpec,
    use: Callable[[HTTPResponse], R],
    deadline: float,
) -> R | _Elsewhere:
    clean = False
    with _Watch(connection, deadline) as watch:
        try:
            found, clean = _exchange(connection, method, url, use)
            watch.require_time(spec)
            return found
        except WebError:
            watch.require_time(spec)
            raise
        except TimeoutError as error:
            watch.require_time(spec)
            raise _SilentError(
                f"no byte within {spec.first_byte_seconds:g} s (source.first_byte_seconds)"
            ) from error
        except (ConnectionError, HTTPException, ssl.SSLError, ValueError) as error:
            watch.require_time(spec)
            if isinstance(error, ConnectionError):  # RemoteDisconnected is one
                raise _StaleError(type(error).__name__) from error
            raise _AgainError(f"no proper HTTP: {type(error).__name__}") from error
        finally:
            if clean:
                _connections.keep(_place(url), connection)
            else:
                connection.close()


def _exchange(
    connection: HTTPConnection, method: str, url: str, use: Callable[[HTTPResponse], R]
) -> tuple[R | _Elsewhere, bool]:
    """What came of the request, and whether the connection can serve another."""
    parts = urlsplit(url)
    target = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_SAFE)
    headers = {"User-Agent": "gme-lake", "Accept": "*/*", "Accept-Encoding": "identity"}
    if parts.username is not None:
        named = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(named.encode()).decode()}"
    connection.request(method, target, headers=headers)
    response = connection.getresponse()
    if response.status in _REDIRECTS and (location := response.getheader("Location")):
        response.read(_DRAINED)  # what it says about it; the connection may serve the next request
        return _Elsewhere(location), _is_reusable(response)
    if response.status in _GONE:
        raise FileNotFoundError(_said(response))
    if response.status in _BUSY:
        raise _AgainError(_said(response), status=response.status, pause=_pause_of(response))
    if not 200 <= response.status < 300:
        raise WebError(_said(response), status=response.status)
    found = use(response)
    return found, _is_reusable(response)


def _is_reusable(response: HTTPResponse) -> bool:
    """Whether the answer was read to its end, and the server keeps the connection open."""
    return response.isclosed() and not response.will_close


def _said(response: HTTPResponse) -> str:
    """The status, in our words: the server's own are what was read."""
    try:
        phrase = f" {HTTPStatus(response.status).phrase}"
    except ValueError:
        phrase = ""
    return f"HTTP {response.status}{phrase}"


def _pause_of(response: HTTPResponse) -> float:
    asked = (response.getheader("Retry-After") or "").strip()
    return float(asked) if asked.isdecimal() and len(asked) < 6 else 0.0


class _Watch:
    """Cuts a connection off at the deadline, whatever is going on: name lookups alone keep their own limits."""

    def __init__(self, connection: HTTPConnection, deadline: float) -> None:
        self._connection = connection
        self._late = threading.Event()
        left = max(0.001, deadline - time.monotonic())
        self._timer = threading.Timer(left, self._cut)
        self._timer.daemon = True

    def require_time(self, spec: ReadSpec) -> None:
        """Raise where the deadline is past: what was read is not whole."""
        if self._late.is_set():
            raise _SilentError(f"not read within {spec.file_seconds:g} s (source.file_seconds)")

    def __enter__(self) -> _Watch:
        self._timer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()

    def _cut(self) -> None:
        self._late.set()
        if (found := self._connection.sock) is not None:
            try:
                # The plain socket's method: TLS' own would forget that what comes is encrypted.
                socket.socket.shutdown(found, socket.SHUT_RDWR)
            except OSError:
                return  # closed already, which is what is wanted


Place = tuple[str, str, int]


def _place(url: str) -> Place:
    """(scheme, host, port). Raises WebError where the URL has none."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port
    except ValueError as error:  # UnicodeError too
        raise WebError(f"no proper URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise WebError(f"a redirect to the scheme {parts.scheme!r} is not followed")
    if not host:
        raise WebError("no proper URL: it names no host")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def _open(place: Place, spec: ReadSpec, deadline: float) -> HTTPConnection:
    scheme, host, port = place
    limit = max(0.001, min(spec.connect_seconds, deadline - time.monotonic()))
    made = (
        _Https(host, port, timeout=limit, context=_tls())
        if scheme == "https"
        else HTTPConnection(host, port, timeout=limit)
    )
    with _Watch(made, deadline):
        try:
            made.connect()
        except ssl.SSLCertVerificationError as error:
            made.close()
            raise WebError(
                f"{host}: its certificate is not valid: {error.verify_message}"
            ) from None
        except TimeoutError as error:
            made.close()
            raise _SilentError(
                f"{host}:{port} not reached within {limit:g} s (source.connect_seconds)"
            ) from error
        except (OSError, ValueError) as error:
            made.close()
            raise _AgainError(f"{host}:{port} cannot be reached: {error}") from error
    made.sock.settimeout(spec.first_byte_seconds)
    return made


class _Https(HTTPSConnection):
    """Keeps the socket in reach during the handshake, so that a watch can cut that off too."""

    def connect(self) -> None:
        HTTPConnection.connect(self)
        wrapped = _tls().wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        self.sock = wrapped
        wrapped.do_handshake()


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Connections(threading.local):
    """Open connections of this thread, the one used last at the end."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Place, HTTPConnection] = OrderedDict()

    def take(self, place: Place) -> HTTPConnection | None:
        """A connection that was kept, now the caller's."""
        return self._kept.pop(place, None)

    def keep(self, place: Place, connection: HTTPConnection) -> None:
        """Keep one for the next request."""
        if (other := self._kept.pop(place, None)) is not None:
            other.close()
        self._kept[place] = connection
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)[1].close()


class _Hosts:
    """Hosts that no longer answer are left alone for a while: one of them must not hold a table up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent: dict[str, tuple[int, float]] = {}  # files in a row, until when

    def require_awake(self, host: str) -> None:
        """Raise WebError while `host` is left alone; one request in each pause is let through."""
        with self._lock:
            count, until = self._silent.get(host, (0, 0.0))
            if count < _SILENT_FILES:
                return
            if (now := time.monotonic()) >= until:
                self._silent[host] = count, now + _LEFT_ALONE_SECONDS
                return
        raise WebError(f"{host} did not answer for {count} files in a row; not asked again yet")

    def silent(self, host: str) -> None:
        """`host` did not answer, with all tries."""
        with self._lock:
            count = self._silent.get(host, (0, 0.0))[0] + 1
            self._silent[host] = count, time.monotonic() + _LEFT_ALONE_SECONDS

    def note_answer(self, host: str) -> None:
        """`host` answered, whatever it said."""
        with self._lock:
            self._silent.pop(host, None)


_connections = _Connections()
_hosts = _Hosts()

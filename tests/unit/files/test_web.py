"""Pictures over http from real servers that are silent, slow, busy, wrong or moved."""

import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from udfs.errors import ImageRejected, RowRejected
from udfs.files import web
from udfs.files.image_files import read_image, read_images, stamp_image
from udfs.specs import ReadSpec

BODY = bytes(range(256)) * 400
SPEC = ReadSpec(
    max_bytes=200_000, connect_seconds=1, first_byte_seconds=0.5, file_seconds=2, tries=3, threads=4
)


class Server(BaseHTTPRequestHandler):
    """Each path is one kind of server."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter] = Counter()
    connections: ClassVar[set] = set()
    stop = threading.Event()

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        self.asked[f"{self.command} {path}"] += 1
        self.connections.add(self.client_address)
        name, _, rest = path.strip("/").partition("/")
        getattr(self, name)(rest)

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def good(self, rest):
        self.answer(200, BODY, ETag='"v1"')

    def no_etag(self, rest):
        self.answer(200, BODY, Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

    def blank(self, rest):
        self.answer(200, BODY if self.path == "/blank/a%20b%C3%BC.jpg?w=1%202" else b"")

    def get_only(self, rest):
        self.answer(200, BODY, ETag="e") if self.command == "GET" else self.answer(405)

    def status(self, rest):
        self.answer(int(rest.split("/")[0]), b"SECRET of the server")

    def busy(self, rest):
        count = self.asked[f"{self.command} {self.path}"]
        self.answer(int(rest), Retry_After="0") if count < 3 else self.good(rest)

    def silent(self, rest):
        self.stop.wait(20)

    def silent_headers(self, rest):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.stop.wait(20)

    def drip(self, rest):
        self.drip_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000, whole=39)

    def drip_headers(self, rest):
        self.drip_bytes(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, whole=0)

    def drip_bytes(self, data, whole):
        self.wfile.write(data[:whole])
        for at in range(whole, len(data)):
            if self.stop.wait(0.1):
                return
            try:
                self.wfile.write(data[at : at + 1])
                self.wfile.flush()
            except OSError:
                return

    def short(self, rest):
        self.answer(200, BODY[:100], Content_Length=str(len(BODY)))
        self.close_connection = True

    def long(self, rest):
        self.answer(200, BODY, Content_Length="100")

    def large(self, rest):
        self.answer(200, b"", Content_Length=str(1 << 40))
        self.close_connection = True

    def endless(self, rest):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while not self.stop.is_set():
                self.wfile.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        except OSError:
            self.close_connection = True

    def chunked(self, rest):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "GET":
            for at in range(0, len(BODY), 1000):
                part = BODY[at : at + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")

    def no_http(self, rest):
        self.wfile.write(b"SECRET is what I say\r\n\r\n")
        self.close_connection = True

    def hang_up(self, rest):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def loop(self, rest):
        self.answer(302, Location=f"/loop/{len(rest)}x{rest}")

    def moved(self, rest):
        self.answer(301, Location="/good")

    def named(self, rest):
        good = self.headers.get("Authorization") == "Basic YSBiOmM6ZA=="  # "a b:c:d"
        self.answer(
            302, b"moved", Location=f"http://{self.headers['Host']}/unnamed"
        ) if good else self.answer(401)

    def unnamed(self, rest):
        self.answer(500) if self.headers.get("Authorization") else self.good(rest)

    def to_file(self, rest):
        self.answer(302, Location="file:///etc/passwd")

    def to_elsewhere(self, rest):
        self.answer(302, Location="http://other.invalid/secret")


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # clients that hang up are what is tested
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Server.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def nobody_is_left_alone(monkeypatch):
    monkeypatch.setattr(web, "_hosts", web._Hosts())
    monkeypatch.setattr(web, "_back_off", lambda state: 0.01)


def rejected(uri, spec=SPEC):
    with pytest.raises(RowRejected) as caught:
        read_image(uri, spec=spec)
    assert "SECRET" not in caught.value.detail
    return caught.value.status, caught.value.detail


@pytest.mark.parametrize("name", ["good", "chunked", "moved", "no_etag", "get_only"])
def test_good_answers_are_read(site, name):
    assert read_image(f"{site}/{name}", spec=SPEC) == BODY


def test_names_that_http_cannot_say_are_quoted(site):
    assert read_image(f"{site}/blank/a bü.jpg?w=1 2", spec=SPEC) == BODY
    assert read_image(f"{site}/blank/a%20b%C3%BC.jpg?w=1%202", spec=SPEC) == BODY


def test_stamps_are_size_and_etag(site):
    for name, said in [
        ("good", f'{len(BODY)}|"v1"'),
        ("moved", f'{len(BODY)}|"v1"'),
        ("get_only", f"{len(BODY)}|e"),
        ("no_etag", f"{len(BODY)}|"),
        ("chunked", "None|"),
        ("status/404", "missing"),
        ("status/403", "WebError"),
    ]:
        assert stamp_image(f"{site}/{name}", spec=SPEC) == f"{site}/{name}|{said}"
    assert stamp_image(f"{site}/silent", spec=SPEC).startswith(f"{site}/silent|_")


@pytest.mark.parametrize(
    ("name", "status", "word"),
    [
        ("status/404", "image_missing", "HTTP 404 Not Found"),
        ("status/410", "image_missing", "HTTP 410 Gone"),
        ("status/403", "image_unreachable", "HTTP 403 Forbidden"),
        ("status/401", "image_unreachable", "HTTP 401"),
        ("status/500", "image_unreachable", "HTTP 500 Internal Server Error"),
        ("status/503", "image_unreachable", "HTTP 503"),
        ("status/299", None, ""),
        ("status/777", "image_unreachable", "HTTP 777"),
        ("short", "image_unreachable", "ended early: 100 of 102400 bytes"),
        ("large", "image_too_large", "announced"),
        ("endless", "image_too_large", "200000"),
        ("no_http", "image_unreachable", "no proper HTTP"),
        ("hang_up", "image_unreachable", "closed the connection"),
        ("loop", "image_unreachable", "more than 5 redirects"),
        ("to_file", "image_unreachable", "redirect to the scheme 'file'"),
    ],
)
def test_each_trouble_has_its_word(site, name, status, word):
    if status is None:
        assert read_image(f"{site}/{name}", spec=SPEC)
        return
    found, detail = rejected(f"{site}/{name}")
    assert found == status
    assert word in detail


@pytest.mark.parametrize("code", [429, 503, 500, 408])
def test_a_busy_server_is_asked_again(site, code):
    assert read_image(f"{site}/busy/{code}", spec=SPEC) == BODY
    assert Server.asked[f"GET /busy/{code}"] == 3


@pytest.mark.parametrize(("code", "times"), [(403, 1), (404, 1), (500, 3), (429, 3)])
def test_what_another_try_cannot_mend_is_asked_once(site, code, times):
    rejected(f"{site}/status/{code}/once")
    assert Server.asked[f"GET /status/{code}/once"] == times


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("silent", "source.first_byte_seconds"),
        ("silent_headers", "source.first_byte_seconds"),
        ("drip", "source.file_seconds"),
        ("drip_headers", "source.file_seconds"),
    ],
)
def test_a_slow_server_holds_a_row_up_for_the_limit_at_most(site, name, word):
    started = time.monotonic()
    status, detail = rejected(f"{site}/{name}")
    assert status == "image_unreachable"
    assert word in detail
    assert time.monotonic() - started < SPEC.file_seconds + 1.5


def test_a_server_that_does_not_take_the_connection(monkeypatch):
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        port = full.getsockname()[1]
        held = [socket.socket() for _ in range(3)]
        for one in held:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        spec = ReadSpec(connect_seconds=0.3, first_byte_seconds=0.3, file_seconds=1, tries=1)
        started = time.monotonic()
        status, _ = rejected(f"http://127.0.0.1:{port}/a", spec)
        for one in held:
            one.close()
    assert status == "image_unreachable"
    assert time.monotonic() - started < 1.5


def test_a_dripping_handshake_is_cut_off():
    done = threading.Event()

    def drip(server):
        taken, _ = server.accept()
        with taken:
            taken.recv(4096)
            for byte in b"\x16\x03\x03\x40\x00" + b"\x02" * 400:
                if done.wait(0.1):
                    return
                try:
                    taken.send(bytes([byte]))
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        spec = ReadSpec(connect_seconds=0.5, first_byte_seconds=0.5, file_seconds=1, tries=1)
        started = time.monotonic()
        status, _ = rejected(f"https://127.0.0.1:{server.getsockname()[1]}/a", spec)
        done.set()
        thread.join()
    assert status == "image_unreachable"
    assert time.monotonic() - started < 2.5


def test_a_redirect_may_not_leave_what_is_allowed(site):
    port = site.rsplit(":", 1)[1]
    spec = ReadSpec(roots=(f"{site}/",), tries=1, file_seconds=2)
    assert read_image(f"{site}/moved", spec=spec) == BODY
    for name in ("to_elsewhere", "to_file"):
        status, detail = rejected(f"{site}/{name}", spec)
        assert status == "image_refused"
        assert "source.roots" in detail
    status, _ = rejected(f"{site}/moved", ReadSpec(schemes=("https",)))
    assert status == "image_refused"
    status, _ = rejected(f"{site}/moved", ReadSpec(roots=(f"http://127.0.0.1:{port}/moved",)))
    assert status == "image_refused"


def test_connections_are_kept_and_one_that_was_closed_is_made_anew(site):
    Server.connections.clear()
    for _ in range(5):
        assert read_image(f"{site}/good", spec=SPEC) == BODY
    assert len(Server.connections) == 1
    for kept in web._connections._kept.values():
        kept.sock.shutdown(socket.SHUT_RDWR)
    assert read_image(f"{site}/good", spec=SPEC) == BODY
    # What a server says beyond the length that it gave is nobody's answer.
    assert read_image(f"{site}/long", spec=SPEC) == BODY[:100]
    assert read_image(f"{site}/good", spec=SPEC) == BODY


def test_a_name_and_password_in_the_url_go_to_that_url_alone(site):
    named = site.replace("//", "//a%20b:c%3Ad@")
    Server.connections.clear()
    assert read_image(f"{named}/named", spec=SPEC) == BODY
    assert len(Server.connections) <= 1  # the redirect's connection served the next request too
    assert "401" in rejected(f"{site}/named")[1]
    detail = rejected(f"{named}/status/403")[1]
    assert "c%3Ad" not in detail
    assert "//…@127.0.0.1" in detail


def test_a_slow_picture_does_not_hold_up_its_neighbours(site):
    spec = ReadSpec(first_byte_seconds=1.0, file_seconds=5.0, tries=1, threads=8)
    started = time.monotonic()
    found = list(read_images([f"{site}/silent"] * 8 + [f"{site}/good"] * 8, spec=spec))
    assert [type(f) for f in found] == [ImageRejected] * 8 + [bytes] * 8
    assert time.monotonic() - started < 6  # one after the other they take 8


def test_a_host_that_never_answers_is_left_alone_for_a_while(site, monkeypatch):
    monkeypatch.setattr(web, "_SILENT_FILES", 2)
    monkeypatch.setattr(web, "_LEFT_ALONE_SECONDS", 0.5)
    spec = ReadSpec(first_byte_seconds=0.1, file_seconds=0.3, tries=1)
    for _ in range(2):
        assert "first_byte" in rejected(f"{site}/silent", spec)[1]
    asked = Server.asked["GET /silent"]
    assert "did not answer for 2 files" in rejected(f"{site}/good", spec)[1]
    assert Server.asked["GET /silent"] == asked
    time.sleep(0.6)
    assert read_image(f"{site}/good", spec=spec) == BODY
    assert read_image(f"{site}/good", spec=spec) == BODY

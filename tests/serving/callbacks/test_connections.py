"""connections.py: one POST to a receiver: kept connections, checked addresses, and an end in time."""

from __future__ import annotations

import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

from app.serving.callbacks import connections as room
from app.serving.callbacks.addresses import EgressDenied
from app.serving.callbacks.connections import ConnectionPool, Response
from app.serving.callbacks.egress import EgressPolicy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Talker:
    """A server of sockets: `say` is run for each connection, in a thread of its own."""

    def __init__(self, say: Callable[[socket.socket], None], *, family: int = socket.AF_INET, host: str = "127.0.0.1"):
        self._say = say
        self.stopped = threading.Event()
        self.accepted = 0
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.stopped.is_set():
                connection.close()
                return
            self.accepted += 1
            self._threads.append(threading.Thread(target=self._run, args=(connection,)))
            self._threads[-1].start()

    def _run(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(20)
            self._say(connection)

    def stop(self) -> None:
        self.stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in [self._accepting, *self._threads])


@pytest.fixture
def listen() -> Iterator[Callable[..., Talker]]:
    talkers: list[Talker] = []

    def start(say: Callable[[Any], None], **options: Any) -> Talker:
        talkers.append(Talker(say, **options))
        return talkers[-1]

    yield start
    for talker in talkers:
        talker.stop()


@contextmanager
def sending(timeout: float = 5, **policy: Any) -> Iterator[ConnectionPool]:
    """Connections that may go to loopback; closed in the end."""
    opened = ConnectionPool(EgressPolicy(**{"loopback": True, **policy}), timeout=timeout)
    yield opened
    opened.close_idle(0)


def post(connections: ConnectionPool, port: int, host: str = "127.0.0.1", body: bytes = b"{}") -> Response:
    return connections.post(f"http://{host}:{port}/stash", body, {"Content-Type": "application/json"})


def read_request(connection: socket.socket) -> bytes:
    """One request; empty when the other side closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            return b""
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    (length,) = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answer_all(said: bytes, requests: list[bytes]) -> Callable[[socket.socket], None]:
    def say(connection: socket.socket) -> None:
        while request := read_request(connection):
            requests.append(request)
            connection.sendall(said)

    return say


def test_a_request_is_what_a_receiver_expects(listen: Callable[..., Talker]) -> None:
    requests: list[bytes] = []
    talker = listen(answer_all(OK, requests))
    uri = f"http://us%40er:pass%3Aword@127.0.0.1:{talker.port}/a b/%20?c=<d>&e=f#g".replace(" ", "%20")
    with sending() as connections:
        assert connections.post(uri, b'{"a": 1}', {"X-Own": "1"}) == Response(200, None)
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert body == b'{"a": 1}'
    assert head.split(b"\r\n")[0] == b"POST /a%20b/%20?c=%3Cd%3E&e=f HTTP/1.1"
    assert sorted(head.split(b"\r\n")[1:]) == sorted(
        [
            f"Host: 127.0.0.1:{talker.port}".encode(),
            b"Accept-Encoding: identity",
            b"Content-Length: 8",
            b"X-Own: 1",
            b"Authorization: Basic dXNAZXI6cGFzczp3b3Jk",
        ]
    )


@pytest.mark.parametrize("status", [200, 204, 301, 307, 404, 429, 500])
def test_an_answer_is_its_status_and_when_to_come_again(listen: Callable[..., Talker], status: int) -> None:
    head = f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    talker = listen(answer_all(head.encode(), []))
    with sending() as connections:
        assert post(connections, talker.port) == Response(status, "7")
    assert talker.accepted == 1


def test_a_connection_is_used_again(listen: Callable[..., Talker]) -> None:
    requests: list[bytes] = []
    talker = listen(answer_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfine!", requests))
    with sending() as connections:
        for _ in range(5):
            assert post(connections, talker.port).status == 200
    assert (talker.accepted, len(requests)) == (1, 5)


def test_a_connection_that_nobody_uses_is_closed(
    listen: Callable[..., Talker], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def say(connection: socket.socket) -> None:
        answer_all(OK, [])(connection)
        ended.set()

    talker = listen(say)
    with sending() as connections:
        post(connections, talker.port)
        connections.close_idle()
        assert not ended.is_set()
        connections.close_idle(0)
        assert ended.wait(5)
        post(connections, talker.port)
        monkeypatch.setattr(room, "KEEP_ALIVE", 0)
        post(connections, talker.port)
    assert talker.accepted == 3


def test_a_connection_that_the_receiver_closed_meanwhile_is_made_anew(listen: Callable[..., Talker]) -> None:
    """Many close an idle connection after seconds; that is no failure of the next callback."""

    def say(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)

    talker = listen(say)
    with sending() as connections:
        for _ in range(3):
            assert post(connections, talker.port).status == 200
    assert talker.accepted == 3


def test_a_connection_that_is_closed_at_this_very_moment_is_made_anew(
    listen: Callable[..., Talker], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[bytes] = []

    def say(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(OK)
        requests.append(read_request(connection))  # and closes without an answer

    talker = listen(say)
    with sending() as connections:
        post(connections, talker.port)
        assert post(connections, talker.port).status == 200
    assert talker.accepted == 2


def test_a_new_connection_that_is_closed_without_an_answer_is_a_failure(listen: Callable[..., Talker]) -> None:
    talker = listen(read_request)
    with sending() as connections, pytest.raises(ConnectionError):
        post(connections, talker.port)
    assert talker.accepted == 1


def test_a_receiver_that_is_silent_is_given_up(listen: Callable[..., Talker]) -> None:
    talker = listen(lambda connection: read_request(connection) and talker.stopped.wait(20))
    began = time.monotonic()
    with sending(0.3) as connections, pytest.raises(TimeoutError):
        post(connections, talker.port)
    assert time.monotonic() - began < 2
    talker.stopped.set()


def test_a_receiver_that_reads_nothing_is_given_up(listen: Callable[..., Talker]) -> None:
    talker = listen(lambda connection: talker.stopped.wait(20))
    with sending(0.3) as connections, pytest.raises(TimeoutError):
        post(connections, talker.port, body=bytes(50_000_000))
    talker.stopped.set()


def drip(talker: Talker, connection: socket.socket, first: bytes) -> None:
    read_request(connection)
    connection.sendall(first)
    while not talker.stopped.wait(0.05):
        connection.sendall(b"x")


def test_a_receiver_that_drips_its_answer_is_cut_off(listen: Callable[..., Talker]) -> None:
    talker = listen(lambda connection: drip(talker, connection, b"HTTP/1.1 200 OK\r\nX-Drip: "))
    began = time.monotonic()
    with sending(0.3) as connections, pytest.raises(TimeoutError, match=r"no whole answer within 0\.6 s"):
        post(connections, talker.port)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 1000000000\r\n"], ids=["to the end", "a length"])
def test_an_answer_that_never_ends_counts_as_its_status(
    listen: Callable[..., Talker], monkeypatch: pytest.MonkeyPatch, framing: bytes
) -> None:
    monkeypatch.setattr(room, "RESPONSE_TIMEOUT", 0.2)
    talker = listen(lambda connection: drip(talker, connection, b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n"))
    began = time.monotonic()
    with sending(10) as connections:
        assert post(connections, talker.port) == Response(200, None)
        assert time.monotonic() - began < 3
        post(connections, talker.port)
    assert talker.accepted == 2


def test_of_a_flood_a_bounded_part_is_read(listen: Callable[..., Talker]) -> None:
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not talker.stopped.is_set():
            sent += connection.send(bytes(65536))

    talker = listen(flood)
    with sending() as connections:
        assert post(connections, talker.port).status == 200
    size = until(lambda: sent, what="the flood")
    assert size < 50_000_000


@pytest.mark.parametrize("said", [b"nonsense\r\n\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n"])
def test_what_is_no_http_is_a_failure(listen: Callable[..., Talker], said: bytes) -> None:
    def say(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(said)

    talker = listen(say)
    with sending() as connections, pytest.raises((HTTPException, OSError)):
        post(connections, talker.port)


def test_headers_without_end_are_a_failure(listen: Callable[..., Talker]) -> None:
    talker = listen(answer_all(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", []))
    with sending() as connections, pytest.raises(HTTPException):
        post(connections, talker.port)


def test_a_refusal_of_a_body_that_was_not_read_is_heard(listen: Callable[..., Talker]) -> None:
    def say(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    talker = listen(say)
    with sending() as connections:
        assert post(connections, talker.port, body=bytes(5_000_000)).status == 413


def test_nobody_at_the_address_is_a_failure(free_port: int) -> None:
    with sending() as connections, pytest.raises(ConnectionRefusedError):
        post(connections, free_port)


def test_the_connection_is_made_to_the_address_that_was_checked(listen: Callable[..., Talker]) -> None:
    """The name's answer changes between the check and the connection: nobody asks a second time."""
    requests: list[bytes] = []
    talker = listen(answer_all(OK, requests))
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    asked: list[str] = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    with sending(resolve=resolve) as connections:
        assert post(connections, talker.port, "rebound.example").status == 200
        assert f"Host: rebound.example:{talker.port}".encode() in requests[0]
        connections.close_idle(0)
        with pytest.raises(EgressDenied, match=r"rebound\.example, which is 169\.254\.169\.254, a link-local address"):
            post(connections, talker.port, "rebound.example")
    assert asked == ["rebound.example"] * 2


def test_a_closed_address_is_never_connected_to(listen: Callable[..., Talker]) -> None:
    talker = listen(answer_all(OK, []))
    with sending(loopback=False, resolve=lambda host: ["127.0.0.1", "::1", "::ffff:127.0.0.1"]) as connections:
        for host in ("trap.example", "127.0.0.1", "2130706433", "0177.0.0.1", "127.1", "localhost", "user@127.0.0.1"):
            with pytest.raises(EgressDenied):
                post(connections, talker.port, host)
    assert talker.accepted == 0


def test_of_several_addresses_one_that_answers_is_enough(listen: Callable[..., Talker]) -> None:
    talker = listen(answer_all(OK, []), host="127.0.0.3")
    names = {"mixed.example": ["169.254.1.1", "127.0.0.2", "127.0.0.3"]}
    with sending(resolve=names.__getitem__) as connections:
        assert post(connections, talker.port, "mixed.example").status == 200


def test_ipv6_is_spoken(listen: Callable[..., Talker]) -> None:
    requests: list[bytes] = []
    try:
        talker = listen(answer_all(OK, requests), family=socket.AF_INET6, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with sending(resolve=lambda host: ["::1"]) as connections:
        assert post(connections, talker.port, "[::1]").status == 200
        assert post(connections, talker.port, "six.example").status == 200
    assert f"Host: [::1]:{talker.port}".encode() in requests[0]


def test_the_environment_sets_no_proxy(listen: Callable[..., Talker], monkeypatch: pytest.MonkeyPatch) -> None:
    talker, proxy = listen(answer_all(OK, [])), listen(answer_all(OK, []))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    with sending() as connections:
        post(connections, talker.port)
    assert (talker.accepted, proxy.accepted) == (1, 0)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of an https server that is secure.example, and the certificate to trust."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    name = ["-subj", "/CN=secure.example", "-addext", "subjectAltName=DNS:secure.example"]
    written = ["-nodes", "-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", *curve, *name, *written], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Fine(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that does not trust this server hangs up."""

    with Server(("127.0.0.1", 0), Fine) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1], certificate
        server.shutdown()


def test_a_certificate_must_be_the_names_whatever_the_address(secure: tuple[int, Path]) -> None:
    port, certificate = secure
    with sending(resolve=lambda host: ["127.0.0.1"]) as connections:
        with pytest.raises(ssl.SSLCertVerificationError):
            connections.post(f"https://secure.example:{port}/", b"{}", {})
        connections._tls.load_verify_locations(certificate)
        for _ in range(2):
            assert connections.post(f"https://secure.example:{port}/", b"{}", {}).status == 204
        for other in ("other.example", "127.0.0.1"):
            with pytest.raises(ssl.SSLCertVerificationError):
                connections.post(f"https://{other}:{port}/", b"{}", {})


def test_a_handshake_that_never_comes_is_given_up(listen: Callable[..., Talker]) -> None:
    talker = listen(lambda connection: talker.stopped.wait(20))
    began = time.monotonic()
    with sending(0.3) as connections, pytest.raises(TimeoutError):
        connections.post(f"https://127.0.0.1:{talker.port}/", b"{}", {})
    assert time.monotonic() - began < 2
    talker.stopped.set()


def test_a_receiver_that_does_not_speak_tls_is_a_failure(listen: Callable[..., Talker]) -> None:
    talker = listen(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with sending() as connections, pytest.raises(OSError, match=r"SSL|reset"):
        connections.post(f"https://127.0.0.1:{talker.port}/", b"{}", {})


def test_many_threads_share_connections(listen: Callable[..., Talker]) -> None:
    requests: list[bytes] = []
    talker = listen(answer_all(OK, requests))
    with sending() as connections:

        def send_some() -> None:
            for _ in range(20):
                assert post(connections, talker.port).status == 200

        threads = [threading.Thread(target=send_some) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(requests) == 160
    assert talker.accepted <= 8

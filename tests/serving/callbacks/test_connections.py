"""connections.py: POSTs to endpoints: keep-alive, checked addresses, and deadlines."""

from __future__ import annotations

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
from doubles.receiver import Receiver, running
from support.waiting import until

from app.serving.callbacks import connections as connections_module
from app.serving.callbacks.addresses import EgressDenied
from app.serving.callbacks.connections import ConnectionPool, Response
from app.serving.callbacks.egress import EgressPolicy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class SocketServer:
    """An endpoint that need not speak HTTP: `handle` is run for each connection, in a thread of its own."""

    def __init__(
        self, handle: Callable[[socket.socket], None], *, family: int = socket.AF_INET, host: str = "127.0.0.1"
    ):
        self._handle = handle
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
            self._handle(connection)

    def stop(self) -> None:
        self.stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in [self._accepting, *self._threads])


Listen = Callable[..., SocketServer]


@pytest.fixture
def listen() -> Iterator[Listen]:
    servers: list[SocketServer] = []

    def start(handle: Callable[[Any], None], **options: Any) -> SocketServer:
        servers.append(SocketServer(handle, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@contextmanager
def sending(timeout: float = 5, **policy: Any) -> Iterator[ConnectionPool]:
    """A pool that may connect to loopback; closed at the end."""
    opened = ConnectionPool(EgressPolicy(**{"loopback": True, **policy}), timeout=timeout)
    yield opened
    opened.close_idle(0)


def post(connections: ConnectionPool, port: int, host: str = "127.0.0.1", body: bytes = b"{}") -> Response:
    return connections.post(f"http://{host}:{port}/stash", body, {"Content-Type": "application/json"})


def read_request(connection: socket.socket) -> bytes:
    """One request; empty when the client closed."""
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


def answer_all(response: bytes, requests: list[bytes]) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        while request := read_request(connection):
            requests.append(request)
            connection.sendall(response)

    return handle


def test_a_request_has_the_encoded_target_and_only_the_headers_it_needs(listen: Listen) -> None:
    requests: list[bytes] = []
    server = listen(answer_all(OK, requests))
    uri = f"http://us%40er:pass%3Aword@127.0.0.1:{server.port}/a b/%20?c=<d>&e=f#g".replace(" ", "%20")
    with sending() as connections:
        assert connections.post(uri, b'{"a": 1}', {"X-Own": "1"}) == Response(200, None)
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert body == b'{"a": 1}'
    assert head.split(b"\r\n")[0] == b"POST /a%20b/%20?c=%3Cd%3E&e=f HTTP/1.1"
    assert sorted(head.split(b"\r\n")[1:]) == sorted(
        [
            f"Host: 127.0.0.1:{server.port}".encode(),
            b"Accept-Encoding: identity",
            b"Content-Length: 8",
            b"X-Own: 1",
            b"Authorization: Basic dXNAZXI6cGFzczp3b3Jk",
        ]
    )


@pytest.mark.parametrize("status", [200, 204, 301, 307, 404, 429, 500])
def test_a_response_is_its_status_and_its_retry_after(listen: Listen, status: int) -> None:
    head = f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    server = listen(answer_all(head.encode(), []))
    with sending() as connections:
        assert post(connections, server.port) == Response(status, "7")
    assert server.accepted == 1


def test_a_connection_is_used_again(listen: Listen) -> None:
    requests: list[bytes] = []
    server = listen(answer_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfine!", requests))
    with sending() as connections:
        for _ in range(5):
            assert post(connections, server.port).status == 200
    assert (server.accepted, len(requests)) == (1, 5)


def test_an_idle_connection_is_closed(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def handle(connection: socket.socket) -> None:
        answer_all(OK, [])(connection)
        ended.set()

    server = listen(handle)
    with sending() as connections:
        post(connections, server.port)
        connections.close_idle()
        assert not ended.is_set()
        connections.close_idle(0)
        assert ended.wait(5)
        post(connections, server.port)
        monkeypatch.setattr(connections_module, "KEEP_ALIVE", 0)
        post(connections, server.port)
    assert server.accepted == 3


def test_an_idle_connection_that_the_endpoint_closed_is_replaced(listen: Listen) -> None:
    """Many servers close idle connections after seconds; that is no failure of the next callback."""

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)

    server = listen(handle)
    with sending() as connections:
        for _ in range(3):
            assert post(connections, server.port).status == 200
    assert server.accepted == 3


def test_a_reused_connection_that_is_closed_without_a_response_is_replaced(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(OK)
        requests.append(read_request(connection))  # and closes without a response

    server = listen(handle)
    with sending() as connections:
        post(connections, server.port)
        assert post(connections, server.port).status == 200
    assert server.accepted == 2


def test_a_new_connection_that_is_closed_without_a_response_is_a_failure(listen: Listen) -> None:
    server = listen(read_request)
    with sending() as connections, pytest.raises(ConnectionError):
        post(connections, server.port)
    assert server.accepted == 1


def test_an_endpoint_that_sends_nothing_times_out(listen: Listen) -> None:
    server = listen(lambda connection: read_request(connection) and server.stopped.wait(20))
    began = time.monotonic()
    with sending(0.3) as connections, pytest.raises(TimeoutError):
        post(connections, server.port)
    assert time.monotonic() - began < 2
    server.stopped.set()


def test_an_endpoint_that_reads_nothing_times_out(listen: Listen) -> None:
    server = listen(lambda connection: server.stopped.wait(20))
    with sending(0.3) as connections, pytest.raises(TimeoutError):
        post(connections, server.port, body=bytes(50_000_000))
    server.stopped.set()


def drip(server: SocketServer, connection: socket.socket, first: bytes) -> None:
    read_request(connection)
    connection.sendall(first)
    while not server.stopped.wait(0.05):
        connection.sendall(b"x")


def test_an_endpoint_that_drips_its_response_is_cut_off(listen: Listen) -> None:
    server = listen(lambda connection: drip(server, connection, b"HTTP/1.1 200 OK\r\nX-Drip: "))
    began = time.monotonic()
    with sending(0.3) as connections, pytest.raises(TimeoutError, match=r"no whole answer within 0\.6 s"):
        post(connections, server.port)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 1000000000\r\n"], ids=["to the end", "a length"])
def test_a_response_that_never_ends_counts_by_its_status(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, framing: bytes
) -> None:
    monkeypatch.setattr(connections_module, "RESPONSE_TIMEOUT", 0.2)
    server = listen(lambda connection: drip(server, connection, b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n"))
    began = time.monotonic()
    with sending(10) as connections:
        assert post(connections, server.port) == Response(200, None)
        assert time.monotonic() - began < 3
        post(connections, server.port)
    assert server.accepted == 2


def test_a_bounded_part_of_a_flood_is_read(listen: Listen) -> None:
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.stopped.is_set():
            sent += connection.send(bytes(65536))

    server = listen(flood)
    with sending() as connections:
        assert post(connections, server.port).status == 200
    size = until(lambda: sent, what="the flood")
    assert size < 50_000_000


@pytest.mark.parametrize(
    "response", [b"nonsense\r\n\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n"]
)
def test_a_response_that_is_no_http_is_a_failure(listen: Listen, response: bytes) -> None:
    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(response)

    server = listen(handle)
    with sending() as connections, pytest.raises((HTTPException, OSError)):
        post(connections, server.port)


def test_too_many_headers_are_a_failure(listen: Listen) -> None:
    server = listen(answer_all(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", []))
    with sending() as connections, pytest.raises(HTTPException):
        post(connections, server.port)


def test_a_response_before_the_body_is_read_counts(listen: Listen) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    server = listen(handle)
    with sending() as connections:
        assert post(connections, server.port, body=bytes(5_000_000)).status == 413


def test_a_refused_connection_is_a_failure(free_port: int) -> None:
    with sending() as connections, pytest.raises(ConnectionRefusedError):
        post(connections, free_port)


def test_the_connection_is_made_to_the_address_that_was_checked(listen: Listen) -> None:
    """DNS rebinding: the name is not resolved again between the check and the connection."""
    requests: list[bytes] = []
    server = listen(answer_all(OK, requests))
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    asked: list[str] = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    with sending(resolve=resolve) as connections:
        assert post(connections, server.port, "rebound.example").status == 200
        assert f"Host: rebound.example:{server.port}".encode() in requests[0]
        connections.close_idle(0)
        with pytest.raises(EgressDenied, match=r"rebound\.example, which is 169\.254\.169\.254, a link-local address"):
            post(connections, server.port, "rebound.example")
    assert asked == ["rebound.example"] * 2


def test_no_connection_is_made_to_a_denied_address(listen: Listen) -> None:
    server = listen(answer_all(OK, []))
    with sending(loopback=False, resolve=lambda host: ["127.0.0.1", "::1", "::ffff:127.0.0.1"]) as connections:
        for host in ("trap.example", "127.0.0.1", "2130706433", "0177.0.0.1", "127.1", "localhost", "user@127.0.0.1"):
            with pytest.raises(EgressDenied):
                post(connections, server.port, host)
    assert server.accepted == 0


def test_one_reachable_address_of_several_is_enough(listen: Listen) -> None:
    server = listen(answer_all(OK, []), host="127.0.0.3")
    names = {"mixed.example": ["169.254.1.1", "127.0.0.2", "127.0.0.3"]}
    with sending(resolve=names.__getitem__) as connections:
        assert post(connections, server.port, "mixed.example").status == 200


def test_ipv6_works_by_address_and_by_name(listen: Listen) -> None:
    requests: list[bytes] = []
    try:
        server = listen(answer_all(OK, requests), family=socket.AF_INET6, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with sending(resolve=lambda host: ["::1"]) as connections:
        assert post(connections, server.port, "[::1]").status == 200
        assert post(connections, server.port, "six.example").status == 200
    assert f"Host: [::1]:{server.port}".encode() in requests[0]


def test_proxies_of_the_environment_are_ignored(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = listen(answer_all(OK, [])), listen(answer_all(OK, []))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    with sending() as connections:
        post(connections, server.port)
    assert (server.accepted, proxy.accepted) == (1, 0)


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

    server = Receiver(204, 204)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with running(server):
        yield server.server_address[1], certificate


def test_a_certificate_must_match_the_name_whatever_the_address(secure: tuple[int, Path]) -> None:
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


def test_a_handshake_that_never_comes_times_out(listen: Listen) -> None:
    server = listen(lambda connection: server.stopped.wait(20))
    began = time.monotonic()
    with sending(0.3) as connections, pytest.raises(TimeoutError):
        connections.post(f"https://127.0.0.1:{server.port}/", b"{}", {})
    assert time.monotonic() - began < 2
    server.stopped.set()


def test_an_endpoint_without_tls_is_a_failure(listen: Listen) -> None:
    server = listen(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with sending() as connections, pytest.raises(OSError, match=r"SSL|reset"):
        connections.post(f"https://127.0.0.1:{server.port}/", b"{}", {})


def test_many_threads_share_connections(listen: Listen) -> None:
    requests: list[bytes] = []
    server = listen(answer_all(OK, requests))
    with sending() as connections:

        def send_some() -> None:
            for _ in range(20):
                assert post(connections, server.port).status == 200

        threads = [threading.Thread(target=send_some) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(requests) == 160
    assert server.accepted <= 8

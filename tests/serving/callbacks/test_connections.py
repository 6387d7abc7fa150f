"""connections.py: POSTs to endpoints: keep-alive, checked addresses, and TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from doubles.endpoint import OK, Listen, answer_all, read_request
from doubles.receiver import Receiver, running
from support.callbacks import LOOP, open_pool, post
from support.waiting import until

from app.serving.callbacks import connections as connections_module
from app.serving.callbacks.addresses import EgressDenied
from app.serving.callbacks.connections import KEEP_ALIVE
from app.serving.callbacks.exchange import Response


def test_a_request_has_the_encoded_target_and_only_the_headers_it_needs(listen: Listen) -> None:
    requests: list[bytes] = []
    server = listen(answer_all(OK, requests))
    uri = f"http://us%40er:pass%3Aword@127.0.0.1:{server.port}/a b/%20?c=<d>&e=f#g".replace(" ", "%20")
    with open_pool() as connections:
        assert connections.send(uri, b'{"a": 1}', {"X-Own": "1"}) == Response(200, None)
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


def test_a_small_request_is_sent_in_one_piece(listen: Listen) -> None:
    """A receiver may read once."""

    def handle(connection: socket.socket) -> None:
        while request := connection.recv(65536):
            connection.sendall(OK if request.endswith(b"\r\n\r\n{}") else b"HTTP/1.1 400 Cut\r\n\r\n")

    server = listen(handle)
    with open_pool() as connections:
        for _ in range(50):
            assert post(connections, server.port).status == 200


def test_a_connection_is_used_again(listen: Listen) -> None:
    requests: list[bytes] = []
    server = listen(answer_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfine!", requests))
    with open_pool() as connections:
        for _ in range(5):
            assert post(connections, server.port).status == 200
    assert (server.accepted, len(requests)) == (1, 5)


def test_an_idle_connection_is_closed(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def handle(connection: socket.socket) -> None:
        answer_all(OK, [])(connection)
        ended.set()

    server = listen(handle)
    with open_pool() as connections:
        post(connections, server.port)
        connections.close(KEEP_ALIVE)
        assert not ended.is_set()
        connections.close()
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
    with open_pool() as connections:
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
    with open_pool() as connections:
        post(connections, server.port)
        assert post(connections, server.port).status == 200
    assert server.accepted == 2


def test_a_reused_connection_that_breaks_off_within_a_response_is_a_failure(listen: Listen) -> None:
    """The endpoint has the callback: it decides what a repeat is."""

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)
        read_request(connection)
        connection.sendall(OK[:10])

    server = listen(handle)
    with open_pool() as connections:
        post(connections, server.port)
        with pytest.raises(ConnectionError):
            post(connections, server.port)
    assert server.accepted == 1


def test_a_new_connection_that_is_closed_without_a_response_is_a_failure(listen: Listen) -> None:
    server = listen(read_request)
    with open_pool() as connections, pytest.raises(ConnectionError):
        post(connections, server.port)
    assert server.accepted == 1


def test_a_refused_connection_is_a_failure(free_port: int) -> None:
    with open_pool() as connections, pytest.raises(ConnectionRefusedError):
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

    with open_pool(resolve=resolve) as connections:
        assert post(connections, server.port, "rebound.example").status == 200
        assert f"Host: rebound.example:{server.port}".encode() in requests[0]
        connections.close()
        with pytest.raises(EgressDenied, match=r"rebound\.example, which is 169\.254\.169\.254, a link-local address"):
            post(connections, server.port, "rebound.example")
    assert asked == ["rebound.example"] * 2


def test_no_connection_is_made_to_a_denied_address(listen: Listen) -> None:
    server = listen(answer_all(OK, []))
    with open_pool(loopback=False, resolve=lambda host: ["127.0.0.1", "::1", "::ffff:127.0.0.1"]) as connections:
        for host in ("trap.example", "127.0.0.1", "2130706433", "0177.0.0.1", "127.1", "localhost", "user@127.0.0.1"):
            with pytest.raises(EgressDenied):
                post(connections, server.port, host)
    assert server.accepted == 0


def test_one_reachable_address_of_several_is_enough(listen: Listen) -> None:
    server = listen(answer_all(OK, []), host="127.0.0.3")
    names = {"mixed.example": ["169.254.1.1", "127.0.0.2", "127.0.0.3"]}
    with open_pool(resolve=names.__getitem__) as connections:
        assert post(connections, server.port, "mixed.example").status == 200


def test_ipv6_works_by_address_and_by_name(listen: Listen) -> None:
    requests: list[bytes] = []
    try:
        server = listen(answer_all(OK, requests), family=socket.AF_INET6, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with open_pool(resolve=lambda host: ["::1"]) as connections:
        assert post(connections, server.port, "[::1]").status == 200
        assert post(connections, server.port, "six.example").status == 200
    assert f"Host: [::1]:{server.port}".encode() in requests[0]


def test_proxies_of_the_environment_are_ignored(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = listen(answer_all(OK, [])), listen(answer_all(OK, []))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    with open_pool() as connections:
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
    with open_pool(resolve=lambda host: ["127.0.0.1"]) as connections:
        with pytest.raises(ssl.SSLCertVerificationError):
            connections.send(f"https://secure.example:{port}/", b"{}", {})
        connections._tls.load_verify_locations(certificate)
        for _ in range(2):
            assert connections.send(f"https://secure.example:{port}/", b"{}", {}).status == 204
        for other in ("other.example", "127.0.0.1"):
            with pytest.raises(ssl.SSLCertVerificationError):
                connections.send(f"https://{other}:{port}/", b"{}", {})


def test_a_handshake_that_never_comes_times_out(listen: Listen) -> None:
    server = listen(lambda connection: server.stopped.wait(20))
    began = time.monotonic()
    with open_pool(0.3) as connections, pytest.raises(TimeoutError):
        connections.send(f"https://127.0.0.1:{server.port}/", b"{}", {})
    assert time.monotonic() - began < 2
    server.stopped.set()


def test_an_endpoint_without_tls_is_a_failure(listen: Listen) -> None:
    server = listen(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with open_pool() as connections, pytest.raises(OSError, match=r"SSL|reset"):
        connections.send(f"https://127.0.0.1:{server.port}/", b"{}", {})


def test_many_threads_share_connections(listen: Listen) -> None:
    requests: list[bytes] = []
    server = listen(answer_all(OK, requests))
    with open_pool() as connections:

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


def test_a_look_up_that_hangs_delays_its_own_host_alone(listen: Listen) -> None:
    server, released, asked = listen(answer_all(OK, [])), threading.Event(), Counter[str]()

    def resolve(host: str) -> list[str]:
        asked[host] += 1
        if host != "quick.example":
            released.wait(30)
        return ["127.0.0.1"]

    with open_pool(resolve=resolve) as connections:

        def start(host: str) -> Future[Response]:
            return LOOP.start(connections.post(f"http://{host}:{server.port}/", b"{}", {}))

        hanging = [start(f"dead-{number}.example") for number in range(100) for _ in range(4)]
        until(lambda: asked.total() == 400, what="the look-ups")
        assert start("quick.example").result(5).status == 200
        assert not any(one.done() for one in hanging)
        released.set()
        assert {one.result(30).status for one in hanging} == {200}


def test_a_header_with_a_line_break_is_not_sent(listen: Listen) -> None:
    server = listen(answer_all(OK, []))
    with open_pool() as connections:
        for value in ("a\r\nX: y", "a\nX: y"):
            with pytest.raises(ValueError, match="line break"):
                connections.send(f"http://127.0.0.1:{server.port}/", b"{}", {"webhook-id": value})
    assert server.accepted == 0


def test_a_post_that_is_cancelled_closes_its_connection(listen: Listen) -> None:
    begun, ended = threading.Event(), threading.Event()

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        begun.set()
        assert not connection.recv(1)
        ended.set()

    server = listen(handle)
    with open_pool() as connections:
        posting = LOOP.start(connections.post(f"http://127.0.0.1:{server.port}/", b"{}", {}))
        assert begun.wait(5)
        posting.cancel()
        assert ended.wait(5)

"""The endpoint of `denzel listen`, over real sockets, with signatures by the package standardwebhooks."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook
from support.ports import find_free_port
from support.waiting import until
from support.whsec import OTHER_SECRET, SECRET

from denzel.errors import PortTaken, SettingInvalid
from denzel.webhooks.listener import ReceivedCallback, listening

BODY = '{"a123": "Iris-setosa", "name": "ü"}'


class Ear:
    """A listening endpoint, and a sender for it."""

    def __init__(self, port: int, arrivals: Iterator[ReceivedCallback]) -> None:
        self.port = port
        self.arrivals = arrivals

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            assert answer.read() == b""
            return answer.status
        finally:
            connection.close()

    def receive(
        self, body: str = BODY, headers: dict[str, str] | None = None, path: str = "/stash"
    ) -> ReceivedCallback:
        assert self.request("POST", path, body.encode(), headers) == 204
        return next(self.arrivals)


def signed(
    webhook_id: str = "task-1", *, secret: str = SECRET, when: datetime | None = None, body: str = BODY
) -> dict[str, str]:
    """The headers of a callback, made by the package standardwebhooks."""
    when = when or datetime.now(UTC)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(when.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, when, body),
    }


@pytest.fixture
def ear() -> Iterator[Ear]:
    port = find_free_port()
    with listening("127.0.0.1", port, secret=lambda: SECRET, body_limit=1000) as arrivals:
        yield Ear(port, arrivals)


def test_a_callback_is_answered_204_and_queued_as_it_came(ear: Ear) -> None:
    before = datetime.now(UTC).timestamp()
    arrival = ear.receive(headers=signed(), path="/stash?a=b")
    assert (arrival.path, arrival.webhook_id, arrival.body) == ("/stash?a=b", "task-1", BODY.encode())
    assert before <= arrival.when <= datetime.now(UTC).timestamp()
    assert not arrival.repeated


def test_callbacks_are_queued_in_the_order_of_arrival(ear: Ear) -> None:
    names = [f"task-{number}" for number in range(50)]
    assert [ear.request("POST", "/stash", b"{}", {"webhook-id": name}) for name in names] == [204] * 50
    assert [next(ear.arrivals).webhook_id for _ in names] == names


def test_a_good_signature_has_no_fault(ear: Ear) -> None:
    arrival = ear.receive(headers=signed())
    assert (arrival.signed, arrival.fault) == (True, "")


def test_one_good_signature_among_several_is_enough(ear: Ear) -> None:
    headers, others = signed(), signed(secret=OTHER_SECRET)
    both = f"v1a,nonsense {others['webhook-signature']} {headers['webhook-signature']}"
    assert ear.receive(headers={**headers, "webhook-signature": both}).fault == ""


def test_a_callback_without_a_signature_is_not_signed(ear: Ear) -> None:
    arrival = ear.receive(headers={"webhook-id": "task-1"})
    assert (arrival.signed, arrival.fault) == (False, "")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"webhook-id": "task-2"}, "made with a secret other than"),
        ({"webhook-signature": "v2,abc"}, "no signature of version v1"),
        ({"webhook-signature": "v1"}, "made with a secret other than"),
        ({"webhook-signature": "v1,\xfc"}, "made with a secret other than"),
        ({"webhook-signature": ""}, "no signature of version v1"),
        ({"webhook-timestamp": "soon"}, "webhook-timestamp is 'soon'"),
        ({"webhook-timestamp": "-1"}, "webhook-timestamp is '-1'"),
        ({"webhook-timestamp": ""}, "webhook-timestamp is ''"),
    ],
)
def test_a_changed_header_makes_a_bad_signature(ear: Ear, changes: dict[str, str], fault: str) -> None:
    arrival = ear.receive(headers={**signed(), **changes})
    assert arrival.signed
    assert fault in arrival.fault


def test_another_secret_or_another_body_makes_a_bad_signature(ear: Ear) -> None:
    assert "a secret other than" in ear.receive(headers=signed(secret=OTHER_SECRET)).fault
    assert "another body" in ear.receive(body="{}", headers=signed()).fault


@pytest.mark.parametrize(("age", "fault"), [(-310, "s from now"), (-290, ""), (290, ""), (310, "s ago")])
def test_a_signature_is_good_within_five_minutes(ear: Ear, age: int, fault: str) -> None:
    arrival = ear.receive(headers=signed(when=datetime.now(UTC) - timedelta(seconds=age)))
    assert bool(arrival.fault) == bool(fault)
    assert fault in arrival.fault


def test_without_a_secret_no_signature_is_good() -> None:
    port = find_free_port()
    with listening("127.0.0.1", port, secret=lambda: "") as arrivals:
        assert "no CALLBACK_SECRET" in Ear(port, arrivals).receive(headers=signed()).fault


def test_a_webhook_id_that_came_before_is_a_repeat(ear: Ear) -> None:
    ids = ["task-1", "task-2", "task-1", "task-1"]
    assert [ear.receive(headers=signed(one)).repeated for one in ids] == [False, False, True, True]


def test_callbacks_without_an_id_are_no_repeats(ear: Ear) -> None:
    assert [ear.receive().repeated, ear.receive().repeated] == [False, False]


def test_only_post_is_for_callbacks(ear: Ear) -> None:
    assert [ear.request(method, "/") for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS")] == [405] * 6
    assert ear.receive().path == "/stash"


def test_a_body_over_the_bound_is_413_and_is_not_read(ear: Ear) -> None:
    assert ear.request("POST", "/", b"x" * 1000) == 204
    assert len(next(ear.arrivals).body) == 1000
    assert ear.request("POST", "/", b"x" * 1001) == 413
    assert ear.request("POST", "/", headers={"Content-Length": "9" * 5000}) == 413
    assert ear.receive().path == "/stash"


def test_a_sender_that_breaks_the_connection_is_ignored(ear: Ear, capsys: pytest.CaptureFixture[str]) -> None:
    for begun in (b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf", b"POST /"):
        with socket.create_connection(("127.0.0.1", ear.port)) as connection:
            # Closed with a reset, as by a process that was killed.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.sendall(begun)
    assert ear.receive().path == "/stash"
    assert capsys.readouterr().err == ""


def test_a_slow_sender_does_not_delay_others(ear: Ear) -> None:
    with socket.create_connection(("127.0.0.1", ear.port)) as slow:
        slow.sendall(b"POST /slow HTTP/1.1\r\nContent-Length: 4\r\n\r\nha")
        assert ear.receive().path == "/stash"
        slow.sendall(b"lf")
        assert next(ear.arrivals).body == b"half"


def test_a_taken_port_is_named_with_the_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with (
            pytest.raises(PortTaken, match=f"Port {port} is already taken") as taken,
            listening("127.0.0.1", port, secret=lambda: SECRET),
        ):
            pass
    assert "--port" in taken.value.hint


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_an_address_of_another_machine_is_named_with_the_option(host: str) -> None:
    with pytest.raises(SettingInvalid, match=f"at {host}") as invalid, listening(host, 9000, secret=lambda: ""):
        pass
    assert "--host" in invalid.value.hint


def test_the_port_is_free_again_afterwards(free_port: int) -> None:
    for _ in range(2):
        with listening("127.0.0.1", free_port, secret=lambda: SECRET) as arrivals:
            Ear(free_port, arrivals).receive()
    until(lambda: _refuses(free_port), what="the port to be free")


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0

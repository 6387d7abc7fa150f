"""The drill's callback receiver, and its faults."""

from __future__ import annotations

import socket
import threading
from http.client import HTTPConnection, RemoteDisconnected

import pytest
from support.waiting import until

from denzel.errors import PortTaken
from denzel.loadtest.drill.receiver import Behaviour, Receiver


def post(receiver: Receiver, number: int | str = 0, *, timeout: float = 5) -> int:
    connection = HTTPConnection("127.0.0.1", receiver.port, timeout=timeout)
    try:
        path = "/" + receiver.address("127.0.0.1", 0).split("/", 3)[3][:-1]
        connection.request("POST", f"{path}{number}", body=b"{}", headers={"Webhook-Id": f"task-{number}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_port_that_is_taken_is_refused() -> None:
    with Receiver("127.0.0.1", 0, secret="") as other, pytest.raises(PortTaken) as caught:
        Receiver("127.0.0.1", other.port, secret="").__enter__()
    assert str(caught.value) == f"The receiver cannot listen on port {other.port}: Address already in use."


def test_a_receiver_accepts_callbacks_on_its_own_paths() -> None:
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        assert post(receiver, 3) == 204
        assert post(receiver, "x") == 404
        assert post(receiver, "../3") == 404
        assert [(receipt.number, receipt.task_id) for receipt in receiver.receipts] == [(3, "task-3")]


def test_a_receiver_answers_500_hangs_is_down_and_recovers() -> None:
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        receiver.set_behaviour(Behaviour.ERROR)
        assert post(receiver) == 500
        receiver.set_behaviour(Behaviour.HANG)
        with pytest.raises(TimeoutError):
            post(receiver, timeout=0.2)
        receiver.set_behaviour(Behaviour.DOWN)
        with pytest.raises(ConnectionRefusedError):
            post(receiver)
        assert receiver.receipts == []
        receiver.set_behaviour(Behaviour.ACCEPT)
        assert post(receiver) == 204
        assert len(receiver.receipts) == 1


@pytest.mark.parametrize(
    ("length", "status"),
    [("", 411), ("-1", 411), ("many", 411), ("1.5", 411), (str(65 * 2**20), 413), ("9" * 5000, 413)],
    ids=lambda value: str(value)[:10],
)
def test_a_receiver_reads_no_unbounded_body(length: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    header = f"Content-Length: {length}\r\n" if length else ""
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        path = "/" + receiver.address("127.0.0.1", 0).split("/", 3)[3]
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n".encode())
            assert connection.makefile("rb").readline().startswith(f"HTTP/1.0 {status} ".encode())
        assert post(receiver) == 204
        assert len(receiver.receipts) == 1
    assert capsys.readouterr().err == ""


def test_a_receiver_that_is_down_is_not_reached_over_an_earlier_connection() -> None:
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        path = "/" + receiver.address("127.0.0.1", 0).split("/", 3)[3]
        connection = HTTPConnection("127.0.0.1", receiver.port, timeout=10)
        connection.request("POST", path, body=b"{}")
        assert connection.getresponse().read() == b""
        receiver.set_behaviour(Behaviour.DOWN)
        with pytest.raises(ConnectionRefusedError):
            connection.request("POST", path, body=b"{}")
        connection.close()


def test_a_receiver_that_ends_closes_the_connections_it_left_hanging() -> None:
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        receiver.set_behaviour(Behaviour.HANG)
        ends: list[Exception] = []

        def wait() -> None:
            try:
                post(receiver, timeout=20)
            except OSError as error:
                ends.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: receiver.hanging, what="the callback to hang")
    thread.join(5)
    assert [type(error) for error in ends] == [RemoteDisconnected]

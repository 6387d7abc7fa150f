"""addresses.py and callback_uri.py: URIs of callbacks, and addresses in any notation."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
import requests

from app.serving.callback_uri import check_uri, endpoint_of
from app.serving.callbacks import addresses
from app.serving.callbacks.addresses import look_up, parse_literal

GOOD = [
    "http://receiver.example/stash",
    "https://receiver.example",
    "HTTP://receiver.example/",
    "http://receiver.example:9000/a?b=c&d=%20#e",
    "http://user:password@receiver.example/",
    "http://127.0.0.1:9000/stash",
    "http://[::1]:9000/stash",
    "http://receiver",
]
BAD = [
    "",
    "stash",
    "/stash",
    "receiver.example/stash",
    "ftp://receiver.example/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "redis://redis:6379",
    "http:",
    "http://",
    "http:///stash",
    "http://:9000/",
    "http://receiver.example:0/",
    "http://receiver.example:99999/",
    "http://receiver.example:port/",
    "http://[::1/",
    "http://[nonsense]/",
    "http://receiver example/",
    " http://receiver.example/",
    "http://receiver.example/\n",
    "http://receiver.example/\r\nX-Header: injected",
    "http://receiver.example/\x00",
    "http://receiver.exämple/",
    "http://a..b/",
    f"http://{'a' * 64}.example/",
]


@pytest.mark.parametrize("uri", GOOD)
def test_a_valid_uri_is_returned_unchanged(uri: str) -> None:
    assert check_uri(uri) == uri


@pytest.mark.parametrize("uri", BAD)
def test_an_invalid_uri_is_rejected_and_quoted(uri: str) -> None:
    with pytest.raises(ValueError, match=r"callback_uri must be (an http or https address|ASCII .*), not ") as refused:
        check_uri(uri)
    assert repr(uri) in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "kind"), [(1, "int"), (True, "bool"), ([], "list"), ({"a": 1}, "dict"), (1.5, "float")]
)
def test_a_uri_that_is_no_text_is_rejected_by_its_type(uri: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=f"^callback_uri must be text, not {kind}$"):
        check_uri(uri)


@pytest.mark.parametrize("uri", GOOD)
def test_a_valid_uri_can_be_sent_to(uri: str) -> None:
    prepared = requests.Request("POST", uri).prepare()
    assert prepared.url is not None
    assert prepared.url.lower().startswith("http")


@pytest.mark.parametrize(
    ("uri", "receiver"),
    [
        ("http://Receiver.example/a", "receiver.example:80"),
        ("https://receiver.example", "receiver.example:443"),
        ("https://user:secret@receiver.example:9000/", "receiver.example:9000"),
        ("http://[::1]:9000/", "::1:9000"),
    ],
)
def test_an_endpoint_is_a_host_and_a_port(uri: str, receiver: str) -> None:
    assert endpoint_of(uri) == receiver


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("0x7f.0.0.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("017700000001", "127.0.0.1"),
        ("169.254.43518", "169.254.169.254"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("0:0:0:0:0:ffff:7f00:1", "127.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_every_notation_of_an_address_is_parsed(host: str, address: str) -> None:
    assert [str(one) for one in parse_literal(host)] == [address]


@pytest.mark.parametrize(
    "host", ["receiver", "receiver.example", "1.2.3.4.example", "127.0.0.1.5", "256.1.1.1", "0x", "a"]
)
def test_a_name_is_not_parsed_as_an_address(host: str) -> None:
    assert parse_literal(host) == ()


def test_an_address_of_this_machine_is_recognised() -> None:
    for address in ("127.0.0.1", "127.1.2.3", "::1"):
        assert addresses.is_of_this_machine(ipaddress.ip_address(address))
    for address in ("192.0.2.1", "2001:db8::1", "224.0.0.1"):
        assert not addresses.is_of_this_machine(ipaddress.ip_address(address))


def test_this_machine_resolves_names() -> None:
    assert "127.0.0.1" in look_up("localhost")
    for nothing in ("does-not-exist.invalid", f"{'a' * 64}.example"):
        with pytest.raises(
            OSError,
            match=r"^does-not-exist.invalid cannot be looked up: |^aaaa.* (is no host name|cannot be looked up)",
        ):
            look_up(nothing)

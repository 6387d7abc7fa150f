"""egress.py: hosts that are permitted and blocked, by name and by address in any notation."""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.serving.callbacks import egress
from app.serving.callbacks.addresses import EgressDenied
from app.serving.callbacks.egress import EgressPolicy
from app.serving.settings import SettingError, Settings

PUBLIC = "93.184.216.34"
BLOCKED = {
    "127.0.0.1": "a loopback address",
    "127.200.3.4": "a loopback address",
    "::1": "a loopback address",
    "169.254.169.254": "a link-local address",
    "fe80::1": "a link-local address",
    "224.0.0.1": "a multicast address",
    "ff02::1": "a multicast address",
    "0.0.0.0": "an unspecified address",
    "0.1.2.3": "an unspecified address",
    "::": "an unspecified address",
    "255.255.255.255": "a reserved address",
    "240.0.0.1": "a reserved address",
    # IPv4 within IPv6: mapped, compatible, 6to4, Teredo, NAT64.
    "::ffff:127.0.0.1": "a loopback address",
    "::ffff:a9fe:a9fe": "a link-local address",
    "::127.0.0.1": "a loopback address",
    "2002:7f00:1::": "a loopback address",
    "2002:a9fe:a9fe::1": "a link-local address",
    "2001:0:5db8:d822:0:0:80ff:fffe": "a loopback address",
    "64:ff9b::7f00:1": "a loopback address",
    "64:ff9b::a9fe:a9fe": "a link-local address",
    "64:ff9b:1::7f00:1": "a loopback address",
    # Metadata of AWS (instances, containers), Google, Oracle, Alibaba, Azure, Scaleway, Akamai.
    "fd00:ec2::254": "an address of a cloud's metadata",
    "fd00:ec2::23": "an address of a cloud's metadata",
    "fd20:ce::254": "an address of a cloud's metadata",
    "fd00:c1::a9fe:a9fe": "an address of a cloud's metadata",
    "192.0.0.192": "an address of a cloud's metadata",
    "100.100.100.200": "an address of a cloud's metadata",
    "168.63.129.16": "an address of a cloud's metadata",
    "64:ff9b::a83f:8110": "an address of a cloud's metadata",
    "fd00:42::42": "an address of a cloud's metadata",
    "fd00:a9fe:a9fe::1": "an address of a cloud's metadata",
}
PERMITTED = [
    PUBLIC,
    "10.1.2.3",
    "172.16.5.6",
    "192.168.1.2",
    "100.64.0.1",
    "2606:2800:220:1::1",
    "fd00::5",
    "2002:5db8:d822::1",
]


class Names:
    """A resolver with these answers, which records the look-ups."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.looked_up: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.looked_up.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.answers[host]


def no_look_up(host: str) -> list[str]:
    raise AssertionError(f"{host} was looked up")


@pytest.mark.parametrize(("address", "kind"), BLOCKED.items())
def test_a_name_with_a_blocked_address_is_denied(address: str, kind: str) -> None:
    shown = ipaddress.ip_address(address)
    shown = getattr(shown, "ipv4_mapped", None) or shown
    with pytest.raises(EgressDenied) as denied:
        EgressPolicy(resolve=Names(trap_example=[address])).addresses("trap.example", 80)
    assert (
        str(denied.value)
        == f"callbacks are not sent to trap.example, which is {shown}, {kind} (CALLBACK_ALLOW opens it)"
    )


@pytest.mark.parametrize("address", PERMITTED)
def test_other_addresses_are_permitted_private_networks_too(address: str) -> None:
    assert EgressPolicy(resolve=Names(receiver_example=[address])).addresses("receiver.example", 80) == [address]
    EgressPolicy(resolve=no_look_up).check_literal(f"http://{f'[{address}]' if ':' in address else address}/")


def test_of_several_addresses_the_permitted_ones_are_used() -> None:
    names = Names(mixed_example=["127.0.0.1", PUBLIC, "::1", "fd00::5", "::ffff:10.0.0.1"])
    assert EgressPolicy(resolve=names).addresses("mixed.example", 80) == [PUBLIC, "fd00::5", "10.0.0.1"]


def test_a_name_is_resolved_once_for_each_connection() -> None:
    names = Names(receiver_example=[PUBLIC])
    policy = EgressPolicy(resolve=names)
    policy.addresses("receiver.example", 80)
    assert names.looked_up == ["receiver.example"]
    names.answers["receiver.example"] = ["127.0.0.1"]
    with pytest.raises(EgressDenied):
        policy.addresses("receiver.example", 80)
    assert names.looked_up == ["receiver.example"] * 2


def test_a_name_without_an_address_is_an_error_and_not_denied() -> None:
    """The callback is tried again: the name may have an address later."""
    with pytest.raises(OSError, match="Name or service not known"):
        EgressPolicy(resolve=Names()).addresses("nowhere.example", 80)


@pytest.mark.parametrize(
    "host",
    [
        *(f"[{address}]" if ":" in address else address for address in BLOCKED),
        "2130706433",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "127.1",
        "0",
        "localhost",
        "LOCALHOST.",
        "anything.localhost",
        "user@127.0.0.1",
        "user:password@127.1",
        "receiver.example@127.0.0.1",
        "receiver.example:80@127.0.0.1",
        "receiver.example\\@127.0.0.1",
        "[fe80::1%25eth0]",
    ],
)
def test_a_blocked_address_in_the_uri_is_denied_without_a_lookup(host: str) -> None:
    with pytest.raises(EgressDenied, match=r"^callback_uri must not lead to "):
        EgressPolicy(resolve=no_look_up).check_literal(f"http://{host}/stash")


@pytest.mark.parametrize(
    "uri", ["http://receiver.example/", "https://localhost.example:9000/", "http://redis.example/"]
)
def test_the_check_of_a_request_resolves_no_name(uri: str) -> None:
    EgressPolicy(resolve=no_look_up, own_services=["redis", "api"]).check_literal(uri)


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "127.1", "0x7f000001", "127.0.0.1", "localhost"])
def test_no_notation_of_a_blocked_address_is_permitted(host: str) -> None:
    with pytest.raises(EgressDenied):
        EgressPolicy(resolve=no_look_up).addresses(host, 80)


@pytest.mark.parametrize(
    "host", ["kubernetes", "kubernetes.default", "KUBERNETES.default.svc.", "kubernetes.default.svc.cluster.local"]
)
def test_the_api_of_a_cluster_is_denied_by_its_names_unless_allowed(host: str) -> None:
    with pytest.raises(EgressDenied, match=r"^callback_uri must not lead to \S+, the API of a cluster"):
        EgressPolicy(resolve=no_look_up).check_literal(f"https://{host}/")
    with pytest.raises(EgressDenied):
        EgressPolicy(resolve=Names()).addresses(host, 443)
    EgressPolicy(resolve=no_look_up, allow=[host]).check_literal(f"https://{host}/")


@pytest.mark.parametrize("host", ["kubernetes.io", "my-kubernetes.default", "kubernetes.default.example"])
def test_other_names_are_not_those_of_a_cluster(host: str) -> None:
    EgressPolicy(resolve=no_look_up).check_literal(f"https://{host}/")


@pytest.mark.parametrize("service_host", ["10.96.0.1", "fd00:10:96::1"])
def test_the_api_of_this_cluster_is_denied_by_its_address(
    service_host: str, read_settings: Callable[..., Settings]
) -> None:
    policy = EgressPolicy.of(read_settings(KUBERNETES_SERVICE_HOST=service_host))
    with pytest.raises(EgressDenied, match=r", the API of this cluster \(CALLBACK_ALLOW opens it\)$"):
        policy.addresses(service_host, 443)
    allowing = EgressPolicy.of(read_settings(KUBERNETES_SERVICE_HOST=service_host, CALLBACK_ALLOW=service_host))
    assert allowing.addresses(service_host, 443) == [service_host]


def test_loopback_is_permitted_by_a_setting() -> None:
    policy = EgressPolicy(loopback=True, resolve=Names(here_example=["127.0.0.1", "::1"]))
    assert policy.addresses("here.example", 80) == ["127.0.0.1", "::1"]
    assert policy.addresses("localhost", 80) == ["127.0.0.1", "::1"]
    assert policy.addresses("::ffff:127.0.0.1", 80) == ["127.0.0.1"]
    policy.check_literal("http://127.0.0.1:9000/")
    for blocked in ("169.254.169.254", "0.0.0.0"):
        with pytest.raises(EgressDenied):
            policy.addresses(blocked, 80)


@pytest.mark.parametrize(
    ("word", "host", "address"),
    [
        ("trap.example", "trap.example", "127.0.0.1"),
        ("TRAP.example", "trap.EXAMPLE.", "127.0.0.1"),
        ("*.example", "trap.example", "169.254.1.1"),
        ("*.example", "a.trap.example", "169.254.1.1"),
        ("127.0.0.1", "trap.example", "127.0.0.1"),
        ("127.0.0.0/8", "trap.example", "127.3.4.5"),
        ("::1", "trap.example", "::1"),
        ("[::1]", "trap.example", "::1"),
        ("169.254.0.0/16", "trap.example", "::ffff:169.254.1.1"),
    ],
)
def test_the_allow_list_permits_blocked_addresses(word: str, host: str, address: str) -> None:
    names = Names(trap_example=[address], a_trap_example=[address])
    assert len(EgressPolicy(allow=[word], resolve=names).addresses(host, 80)) == 1
    with pytest.raises(EgressDenied):
        EgressPolicy(allow=["else.example"], resolve=names).addresses(host, 80)


@pytest.mark.parametrize(
    ("word", "host", "address"),
    [
        ("bad.example", "bad.example", PUBLIC),
        ("*.example", "bad.example", PUBLIC),
        (PUBLIC, "bad.example", PUBLIC),
        ("93.184.0.0/16", "bad.example", PUBLIC),
        ("10.0.0.0/8", "bad.example", "10.1.1.1"),
        ("10.0.0.0/8", "bad.example", "64:ff9b::a01:101"),
        ("fd00::/8", "bad.example", "fd12::1"),
    ],
)
def test_the_deny_list_overrides_the_allow_list(word: str, host: str, address: str) -> None:
    names = Names(bad_example=[address])
    with pytest.raises(EgressDenied, match="which CALLBACK_DENY names"):
        EgressPolicy(deny=[word], allow=[host, "0.0.0.0/0", "::/0"], resolve=names).addresses(host, 80)
    assert EgressPolicy(deny=["*.bad.example", "11.0.0.0/8"], resolve=names).addresses(host, 80) == [address]


def test_the_check_of_a_request_applies_the_deny_list() -> None:
    policy = EgressPolicy(deny=["10.0.0.0/8", "bad.example"], resolve=no_look_up)
    for uri in ("http://10.1.2.3/", "http://167837955/", "http://bad.example/"):
        with pytest.raises(EgressDenied, match="which CALLBACK_DENY names"):
            policy.check_literal(uri)


@pytest.mark.parametrize("setting", ["allow", "deny"])
def test_an_invalid_network_is_a_setting_error(setting: str) -> None:
    with pytest.raises(SettingError, match=f"^CALLBACK_{setting.upper()} has '10.0.0.0/99', which is no network$"):
        EgressPolicy(**{setting: ["10.0.0.0/99"]})  # type: ignore[arg-type]


OWN = ["redis", "api", "host.docker.internal:8000"]


@pytest.mark.parametrize(
    ("host", "port", "denied"),
    [
        ("redis", 6379, True),
        ("redis", 80, True),
        ("REDIS.", 80, True),
        ("alias.example", 6379, True),
        ("172.20.0.2", 6379, True),
        ("mapped.example", 80, True),
        ("host.docker.internal", 8000, True),
        ("172.17.0.1", 8000, True),
        ("host.docker.internal", 9000, False),
        ("172.17.0.1", 9000, False),
        ("172.20.0.9", 80, False),
    ],
)
def test_own_services_are_blocked_by_name_and_by_address(host: str, port: int, denied: bool) -> None:
    names = Names(
        redis=["172.20.0.2"],
        host_docker_internal=["172.17.0.1"],
        alias_example=["172.20.0.2"],
        mapped_example=["::ffff:172.20.0.2"],
    )
    policy = EgressPolicy(own_services=OWN, allow=[host, "0.0.0.0/0"], resolve=names)
    if denied:
        with pytest.raises(EgressDenied, match="a service of this project"):
            policy.addresses(host, port)
    else:
        assert len(policy.addresses(host, port)) == 1


def test_the_check_of_a_request_denies_own_services() -> None:
    policy = EgressPolicy(own_services=[*OWN, "localhost:6379"], loopback=True, resolve=no_look_up)
    for uri in (
        "http://redis:6379/",
        "http://user:password@api/",
        "http://host.docker.internal:8000/",
        "http://localhost:6379/",
        "http://127.0.0.1:6379/",
        "http://127.9.9.9:6379/",
        "http://2130706433:6379/",
        "http://[::1]:6379/",
    ):
        with pytest.raises(EgressDenied, match="a service of this project"):
            policy.check_literal(uri)
    policy.check_literal("http://localhost:9000/")
    policy.check_literal("http://host.docker.internal:9000/")


def test_own_services_of_this_machine_are_blocked_at_each_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The api may listen on all interfaces."""
    monkeypatch.setattr(egress, "is_of_this_machine", lambda address: str(address) in ("127.0.0.1", "192.168.7.7"))
    policy = EgressPolicy(
        own_services=["localhost:8000"],
        loopback=True,
        resolve=Names(mine_example=["192.168.7.7"], other=["192.168.7.8"]),
    )
    with pytest.raises(EgressDenied, match="a service of this project"):
        policy.addresses("mine.example", 8000)
    assert policy.addresses("mine.example", 9000) == ["192.168.7.7"]
    assert policy.addresses("other", 8000) == ["192.168.7.8"]


def test_addresses_of_own_services_are_cached_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(redis=["172.20.0.2"], receiver_example=["172.20.0.3"])
    policy = EgressPolicy(own_services=["redis"], resolve=names)
    for _ in range(3):
        policy.addresses("receiver.example", 80)
    assert names.looked_up.count("redis") == 1
    names.answers["redis"] = ["172.20.0.3"]
    monkeypatch.setattr(egress, "OWN_ADDRESSES_TTL", 0)
    with pytest.raises(EgressDenied, match="a service of this project"):
        policy.addresses("receiver.example", 80)


def test_a_slow_lookup_of_own_services_delays_one_connection_at_a_time() -> None:
    slow, released = threading.Event(), threading.Event()

    def resolve(host: str) -> list[str]:
        if host == "redis" and slow.is_set():
            released.wait(30)
        return ["172.20.0.2"] if host == "redis" else [PUBLIC]

    policy = EgressPolicy(own_services=["redis"], resolve=resolve)
    policy.addresses("receiver.example", 80)
    slow.set()
    policy._own._resolved_at = float("-inf")
    waiting = threading.Thread(target=policy.addresses, args=("receiver.example", 80))
    waiting.start()
    began = time.monotonic()
    while not policy._own._resolving.locked():
        assert time.monotonic() - began < 5
    assert policy.addresses("receiver.example", 80) == [PUBLIC]
    released.set()
    waiting.join(5)
    assert not waiting.is_alive()


def test_an_own_service_without_an_address_blocks_nothing() -> None:
    assert EgressPolicy(own_services=["monitor"], resolve=Names(a=[PUBLIC])).addresses("a", 80) == [PUBLIC]


def test_the_policy_of_a_deployment_is_in_its_settings(read_settings: Callable[..., Settings]) -> None:
    policy = EgressPolicy.of(
        read_settings(
            CALLBACK_ALLOW="169.254.1.1",
            CALLBACK_DENY="10.0.0.0/8",
            CALLBACK_LOOPBACK="open",
            OWN_SERVICES="localhost:6379",
        )
    )
    assert policy.addresses("127.0.0.1", 80) == ["127.0.0.1"]
    assert policy.addresses("169.254.1.1", 80) == ["169.254.1.1"]
    for host, port in (("127.0.0.1", 6379), ("10.0.0.1", 80), ("169.254.1.2", 80)):
        with pytest.raises(EgressDenied):
            policy.addresses(host, port)


def test_an_own_service_whose_lookup_fails_for_a_while_remains_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "OWN_ADDRESSES_TTL", 0)
    names = Names(redis=["172.20.0.2"], evil_example=["172.20.0.2"])
    policy = EgressPolicy(own_services=["redis"], resolve=names)
    for _ in range(3):
        with pytest.raises(EgressDenied, match="a service of this project"):
            policy.addresses("evil.example", 6379)
        names.answers.pop("redis", None)
    names.answers["redis"] = ["172.20.0.7"]
    assert policy.addresses("evil.example", 6379) == ["172.20.0.2"]


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t{gateway}\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t{network}\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""


def kernel_format(address: str) -> str:
    return f"{int.from_bytes(ipaddress.ip_address(address).packed, sys.byteorder):08X}"


@pytest.fixture
def routes(tmp_path: Path) -> Path:
    """The routes of a container whose network is 172.18.0.0/16."""
    path = tmp_path / "route"
    path.write_text(ROUTES.format(gateway=kernel_format("172.18.0.1"), network=kernel_format("172.18.0.0")))
    return path


@pytest.mark.parametrize("host", ["172.18.0.1", "2886860801", "trap.example", "[::ffff:172.18.0.1]"])
def test_published_services_are_blocked_at_the_gateway_too(routes: Path, host: str) -> None:
    """Through the gateway of its network, a container reaches the machine, and what is published there."""
    names = Names(trap_example=["172.18.0.1"])
    policy = EgressPolicy(own_services=["_gateway:8000"], allow=["172.18.0.0/16"], resolve=names, routes=routes)
    with pytest.raises(EgressDenied, match="port 8000, a service of this project"):
        policy.addresses(host, 8000)
    assert policy.addresses(host, 9000) == ["172.18.0.1"]


def test_the_check_of_a_request_denies_the_gateway(routes: Path) -> None:
    policy = EgressPolicy(own_services=["_gateway:8000"], resolve=no_look_up, routes=routes)
    for host in ("172.18.0.1", "2886860801", "_gateway"):
        with pytest.raises(EgressDenied, match="a service of this project"):
            policy.check_literal(f"http://{host}:8000/predict")
    policy.check_literal("http://172.18.0.1:9000/")
    policy.check_literal("http://172.18.0.2:8000/")


@pytest.mark.parametrize("text", [None, "", ROUTES.splitlines()[0], "Iface\nnonsense\neth0 zz 00 00 0 0 0 0\n"])
def test_without_a_gateway_nothing_more_is_blocked(tmp_path: Path, text: str | None) -> None:
    routes = tmp_path / "route"
    if text is not None:
        routes.write_text(text)
    policy = EgressPolicy(own_services=["_gateway:8000"], resolve=no_look_up, routes=routes)
    assert policy.addresses("172.18.0.1", 8000) == ["172.18.0.1"]

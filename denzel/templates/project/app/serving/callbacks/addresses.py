"""IP addresses of endpoints: parsing in any notation, addresses embedded in others, and those that are blocked."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

Address = IPv4Address | IPv6Address

#: Resolver of a host name to its addresses; raises OSError when there is none.
Resolve = Callable[[str], list[str]]

#: The routing table of a machine, or of a container, on Linux.
ROUTES = Path("/proc/net/route")

LOCALHOST = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

#: Networks of IPv6 addresses with an IPv4 one in the last 32 bits: NAT64 (RFC 6052), local NAT64 (RFC 8215), and the
#: deprecated IPv4-compatible addresses (RFC 4291).
_EMBEDDING = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


#: Addresses outside link-local at which clouds serve credentials, or data of an instance, each as its cloud documents
#: it; of AWS and Oracle the networks, as there are several.
_METADATA = tuple(
    map(
        ip_network,
        (
            "fd00:ec2::/32",  # AWS: instances fd00:ec2::254, containers fd00:ec2::23
            "fd20:ce::254",  # Google
            "fd00:c1::/32",  # Oracle: fd00:c1::a9fe:a9fe
            "192.0.0.192",  # Oracle Cloud Classic
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure
            "fd00:42::42",  # Scaleway
            "fd00:a9fe:a9fe::1",  # Akamai (Linode)
        ),
    )
)

#: The names of the API of a Kubernetes cluster, inside it; also with the cluster's domain behind them.
_CLUSTER_API = re.compile(r"kubernetes(\.default(\.svc(\..+)?)?)?")


class EgressDenied(ValueError):
    """The policy permits no callback there, now or later; the message names the address and the reason."""


def look_up(host: str) -> list[str]:
    """The addresses of a host by this machine's resolver; raises OSError when there is none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(f"{host} cannot be looked up: {error.strerror}") from error
    except UnicodeError as error:
        raise OSError(f"{host} is no host name") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def parse_literal(host: str) -> tuple[Address, ...]:
    """The address of a host that is no name, in any notation: 127.1, 2130706433, 0177.0.0.1, ::1."""
    if host == "localhost" or host.endswith(".localhost"):
        return LOCALHOST
    try:
        return (canonical(host),)
    except ValueError:
        pass
    try:
        return (IPv4Address(socket.inet_aton(host)),)
    except OSError:
        return ()


def embedded_addresses(address: Address | str) -> list[Address]:
    """An address, and the IPv4 ones embedded in it that its packets may reach: 6to4 (RFC 3056), Teredo (RFC 4380: the
    server and the client), NAT64 and IPv4-compatible.
    """
    address = canonical(address)
    if isinstance(address, IPv4Address):
        return [address]
    found: list[Address] = [address]
    if address.sixtofour:
        found.append(address.sixtofour)
    if address.teredo:
        found.extend(address.teredo)
    if any(address in network for network in _EMBEDDING) and int(address) > 1:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def blocked_reason(address: Address) -> str:
    """The reason why callbacks are not sent to an address by default; empty when there is none."""
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified or (address.version == 4 and address in ip_network("0.0.0.0/8")):
        return "an unspecified address"
    if address.version == 4 and address.is_reserved:
        return "a reserved address"
    if any(address in network for network in _METADATA):
        return "an address of a cloud's metadata"
    return ""


def is_cluster_api(host: str) -> bool:
    """True for a name of the API of a Kubernetes cluster."""
    return _CLUSTER_API.fullmatch(host) is not None


def is_of_this_machine(address: Address) -> bool:
    """True when the address belongs to this machine: a socket can be bound to it."""
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return not address.is_multicast


def gateways(routes: Path = ROUTES) -> tuple[Address, ...]:
    """The IPv4 addresses of the default gateways; none where the routing table cannot be read.

    In a container, that is the machine that runs it.
    """
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return ()
    found = (_gateway(line.split()) for line in lines)
    return tuple(dict.fromkeys(address for address in found if address is not None))


def _gateway(route: list[str]) -> IPv4Address | None:
    """The gateway of a default route, given as the columns of /proc/net/route; None for any other route."""
    try:
        destination, gateway, mask = (int(route[column], 16) for column in (1, 2, 7))
    except (IndexError, ValueError):
        return None
    if destination or mask or not gateway:
        return None
    # The kernel prints the bytes as one number, in this machine's byte order.
    return IPv4Address(gateway.to_bytes(4, sys.byteorder))


def canonical(address: Address | str) -> Address:
    """An address without its zone; an IPv4-mapped one, ::ffff:1.2.3.4, as IPv4."""
    if isinstance(address, str):
        address = ip_address(address.strip("[]").partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def host_name(host: str) -> str:
    """A host in canonical form: without brackets and trailing dot, in lower case."""
    return host.strip("[]").lower().rstrip(".")

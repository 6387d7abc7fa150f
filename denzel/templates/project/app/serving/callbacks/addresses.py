"""The addresses of receivers: what is one, in which spelling, and of which kind."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

Address = IPv4Address | IPv6Address

#: Looks up the addresses of a host name; raises OSError when it has none.
Resolve = Callable[[str], list[str]]

#: Where Linux tells the routes of a machine, or of a container.
ROUTES = Path("/proc/net/route")

LOCALHOST = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

#: Networks through which an IPv4 address is reached by an IPv6 one, in its last 32 bits.
_EMBEDDING = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


class EgressDenied(ValueError):
    """A callback is not sent there, whatever happens; the message says which address, and why."""


def look_up(host: str) -> list[str]:
    """The addresses of a host, as this machine resolves it; raises OSError when there is none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(f"{host} cannot be looked up: {error.strerror}") from error
    except UnicodeError as error:
        raise OSError(f"{host} is no host name") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def parse_literal(host: str) -> tuple[Address, ...]:
    """The address that a host is when it is no name, however it is spelled: 127.1, 2130706433, 0177.0.0.1, ::1."""
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
    """An address, and those that packets to it may reach: IPv4 addresses within IPv6 ones."""
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
    """What makes an address one that callbacks are not sent to; empty when nothing does."""
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
    return ""


def is_of_this_machine(address: Address) -> bool:
    """Whether this machine itself answers at the address: then a socket can be bound to it."""
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
    """The IPv4 addresses of the machines through which this one reaches all that is not near; none where it cannot be
    told. In a container, it is the machine that runs it.
    """
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return ()
    found = (_gateway(line.split()) for line in lines)
    return tuple(dict.fromkeys(address for address in found if address is not None))


def _gateway(route: list[str]) -> IPv4Address | None:
    """The gateway of a default route, in the columns of /proc/net/route; None for any other route."""
    try:
        destination, gateway, mask = (int(route[column], 16) for column in (1, 2, 7))
    except (IndexError, ValueError):
        return None
    if destination or mask or not gateway:
        return None
    # The kernel writes the bytes as one number of this machine.
    return IPv4Address(gateway.to_bytes(4, sys.byteorder))


def canonical(address: Address | str) -> Address:
    """An address without its zone; an IPv4 one that is written as ::ffff:1.2.3.4 is IPv4."""
    if isinstance(address, str):
        address = ip_address(address.strip("[]").partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def host_name(host: str) -> str:
    """A host without brackets and final dot, in lower case: spelled so, the same are equal."""
    return host.strip("[]").lower().rstrip(".")

"""Where a callback may be sent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from app.settings import SettingError, Settings

Address = IPv4Address | IPv6Address

#: Looks up the addresses of a host name; raises OSError when it has none.
Resolve = Callable[[str], list[str]]

#: Seconds for which the addresses of the project's own services are believed.
OWN_ADDRESSES_FOR = 10.0

LOCALHOST = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

#: Networks through which an IPv4 address is reached by an IPv6 one, in its last 32 bits.
_EMBEDDING = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


class Refused(ValueError):
    """A callback is not sent there, whatever happens; the message says which address, and why."""


def check_uri(uri: Any) -> str:
    """`uri` when a callback can be sent there; raises ValueError saying what is wrong with it."""
    if not isinstance(uri, str):
        raise ValueError(f"callback_uri must be text, not {type(uri).__name__}")
    problem = f"callback_uri must be an http or https address, not {uri!r}"
    if not uri.isascii() or not uri.isprintable() or " " in uri:
        raise ValueError(problem)
    try:
        parts = urlsplit(uri)
        (parts.hostname or "").encode("idna")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(problem)
    return uri


def receiver_of(uri: str) -> str:
    """Who answers at `uri`, as host:port: what is said of one callback there counts for the others."""
    return f"{urlsplit(uri).hostname}:{port_of(uri)}"


def port_of(uri: str) -> int:
    """The port that `uri` names, or that its scheme has."""
    parts = urlsplit(uri)
    return parts.port or (443 if parts.scheme == "https" else 80)


def look_up(host: str) -> list[str]:
    """The addresses of a host, as this machine resolves it; raises OSError when there is none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host} is no host name") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


@dataclass(frozen=True)
class Receivers:
    """Receivers that a setting names: host names, *.domains, addresses and networks."""

    names: frozenset[str]
    networks: tuple[Any, ...]

    @classmethod
    def read(cls, key: str, words: Iterable[str]) -> Receivers:
        """Those that the setting `key` lists; raises SettingError for a word that looks like a network and is none."""
        names, networks = set(), []
        for word in words:
            try:
                networks.append(ip_network(word.strip("[]"), strict=False))
            except ValueError:
                if "/" in word:
                    raise SettingError(f"{key} has {word!r}, which is no network") from None
                names.add(_name(word))
        return cls(frozenset(names), tuple(networks))

    def has_name(self, host: str) -> bool:
        """Whether the host is named, or is within a domain that is: *.example.com has a.example.com."""
        labels = host.split(".")
        return host in self.names or any(
            f"*.{'.'.join(labels[start:])}" in self.names for start in range(1, len(labels))
        )

    def has_address(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


class OwnServices:
    """The project's own services: `redis` closes every port of its addresses, `localhost:6379` this one alone."""

    def __init__(self, words: Iterable[str], resolve: Resolve) -> None:
        self._resolve = resolve
        self._words = [(_name(host), int(port) if port else None) for host, port in map(_partition, words)]
        self._literal = {name: literal(name) for name, _ in self._words}
        self._resolved: dict[str, tuple[Address, ...]] = {}
        self._resolved_at = float("-inf")
        self._resolving = threading.Lock()

    def has_name(self, host: str, port: int) -> bool:
        return any(name == host and own in (None, port) for name, own in self._words)

    def has_address(self, address: Address, port: int, *, resolve: bool) -> bool:
        """Whether one is at this address and port; without `resolve`, only those count that are known by address."""
        names = [name for name, own in self._words if own in (None, port)]
        if resolve and names:
            self._refresh()
        return any(
            address in self._addresses(name)
            # What listens on this machine may listen on all of its addresses.
            or (any(own.is_loopback for own in self._addresses(name)) and is_of_this_machine(address))
            for name in names
        )

    def _addresses(self, name: str) -> tuple[Address, ...]:
        return self._literal[name] or self._resolved.get(name, ())

    def _refresh(self) -> None:
        """Look the services up when that was too long ago; one thread does, while others go by what was true then."""
        if not self._is_old() or not self._resolving.acquire(blocking=not self._resolved):
            return
        try:
            if self._is_old():
                self._resolved = {name: self._look_up(name) for name, known in self._literal.items() if not known}
                self._resolved_at = time.monotonic()
        finally:
            self._resolving.release()

    def _is_old(self) -> bool:
        return time.monotonic() - self._resolved_at > OWN_ADDRESSES_FOR

    def _look_up(self, name: str) -> tuple[Address, ...]:
        try:
            return tuple(form for found in self._resolve(name) for form in forms(found))
        except OSError:
            # A service that is not there has no address to protect.
            return ()


class Policy:
    """Which receivers callbacks may go to. The first that applies: own services never; CALLBACK_DENY closes;
    CALLBACK_ALLOW opens; loopback, link-local and the like are closed; all others are open, private networks too.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        own_services: Iterable[str] = (),
        loopback: bool = False,
        resolve: Resolve = look_up,
    ) -> None:
        self._allow = Receivers.read("CALLBACK_ALLOW", allow)
        self._deny = Receivers.read("CALLBACK_DENY", deny)
        self._own = OwnServices(own_services, resolve)
        self._loopback = loopback
        self._resolve = resolve

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """The policy of a deployment; raises SettingError."""
        return cls(
            allow=settings.callback_allow,
            deny=settings.callback_deny,
            own_services=settings.own_services,
            loopback=settings.callback_loopback,
        )

    def check_literal(self, uri: str) -> None:
        """Raise Refused for a usable `uri` that is known to be closed with no look-up: by its name, or by an address
        in whichever spelling.
        """
        host, port = _name(urlsplit(uri).hostname or ""), port_of(uri)
        try:
            self._check_name(host, port)
            self._permitted(host, port, map(str, literal(host)), resolve=False)
        except Refused as refused:
            raise Refused(f"callback_uri must not lead to {refused}") from None

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses at which a callback to this host may be sent, looked up now; raises Refused when there is none,
        and OSError when the host has no address.
        """
        host = _name(host)
        try:
            self._check_name(host, port)
            found = [str(address) for address in literal(host)] or self._resolve(host)
            return self._permitted(host, port, found, resolve=True)
        except Refused as refused:
            raise Refused(f"callbacks are not sent to {refused}") from None

    def _permitted(self, host: str, port: int, found: Iterable[str], *, resolve: bool) -> list[str]:
        permitted, refusals = [], []
        for text in found:
            # The address to connect to is written anew: IPv4 within IPv6 as IPv4, and without a zone.
            address = _unmapped(text)
            try:
                self._check_address(host, port, address, resolve=resolve)
                permitted.append(str(address))
            except Refused as refused:
                refusals.append(refused)
        if refusals and not permitted:
            raise refusals[0]
        return permitted

    def _check_name(self, host: str, port: int) -> None:
        if self._own.has_name(host, port):
            raise Refused(f"{host}:{port}, a service of this project")
        if self._deny.has_name(host):
            raise Refused(f"{host}, which CALLBACK_DENY names")

    def _check_address(self, host: str, port: int, address: Address, *, resolve: bool) -> None:
        named = f"{host}, which is {address}, " if host != str(address) else f"{host}, "
        for form in forms(address):
            if self._own.has_address(form, port, resolve=resolve):
                raise Refused(f"{named}port {port}, a service of this project")
            if self._deny.has_address(form):
                raise Refused(f"{named}which CALLBACK_DENY names")
            if self._allow.has_name(host) or self._allow.has_address(form):
                continue
            kind = closed_kind(form)
            if kind and not (kind == "a loopback address" and self._loopback):
                raise Refused(f"{named}{kind} (CALLBACK_ALLOW opens it)")


def literal(host: str) -> tuple[Address, ...]:
    """The address that a host is when it is no name, however it is spelled: 127.1, 2130706433, 0177.0.0.1, ::1."""
    if host == "localhost" or host.endswith(".localhost"):
        return LOCALHOST
    try:
        return (_unmapped(host),)
    except ValueError:
        pass
    try:
        return (IPv4Address(socket.inet_aton(host)),)
    except OSError:
        return ()


def forms(address: Address | str) -> list[Address]:
    """An address, and those that packets to it may reach: IPv4 addresses within IPv6 ones."""
    address = _unmapped(address)
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


def closed_kind(address: Address) -> str:
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


def _unmapped(address: Address | str) -> Address:
    """An address without its zone; an IPv4 one that is written as ::ffff:1.2.3.4 is IPv4."""
    if isinstance(address, str):
        address = ip_address(address.strip("[]").partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _name(host: str) -> str:
    return host.strip("[]").lower().rstrip(".")


def _partition(word: str) -> tuple[str, str]:
    """The host and the port of a word, which may have none; an IPv6 address needs brackets to have one."""
    host, colon, port = word.rpartition(":")
    if colon and port.isdigit() and (host.endswith("]") or ":" not in host):
        return host, port
    return word, ""

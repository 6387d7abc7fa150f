"""Which receivers callbacks may be sent to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.serving.callback_uri import port_of
from app.serving.callbacks.addresses import (
    ROUTES,
    Address,
    EgressDenied,
    Resolve,
    blocked_reason,
    canonical,
    embedded_addresses,
    gateways,
    host_name,
    is_of_this_machine,
    look_up,
    parse_literal,
)
from app.serving.settings import SettingError, Settings

#: The name of the machine's gateways, as systemd's resolver has it too: no host can be called so.
GATEWAY = "_gateway"

#: Seconds for which the addresses of the project's own services are believed.
OWN_ADDRESSES_FOR = 10.0


@dataclass(frozen=True)
class HostList:
    """Receivers that a setting names: host names, *.domains, addresses and networks."""

    names: frozenset[str]
    networks: tuple[Any, ...]

    @classmethod
    def read(cls, key: str, words: Iterable[str]) -> HostList:
        """Those that the setting `key` lists; raises SettingError for a word that looks like a network and is none."""
        names, networks = set(), []
        for word in words:
            try:
                networks.append(ip_network(word.strip("[]"), strict=False))
            except ValueError:
                if "/" in word:
                    raise SettingError(f"{key} has {word!r}, which is no network") from None
                names.add(host_name(word))
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
    """The project's own services: `redis` closes every port of its addresses, `localhost:6379` this one alone, and
    `_gateway:8000` this one of the machine that runs the containers, at the address that leads out of their network.
    """

    def __init__(self, words: Iterable[str], resolve: Resolve, routes: Path = ROUTES) -> None:
        self._resolve = resolve
        self._words = [(host_name(host), int(port) if port else None) for host, port in map(_partition, words)]
        self._literal = {
            name: gateways(routes) if name == GATEWAY else parse_literal(name)
            for name in {name for name, _ in self._words}
        }
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

    @property
    def _names_to_look_up(self) -> list[str]:
        return [name for name, known in self._literal.items() if not known and name != GATEWAY]

    def _refresh(self) -> None:
        """Look the services up when that was too long ago; one thread does, while others go by what was true then."""
        if not self._is_old() or not self._resolving.acquire(blocking=not self._resolved):
            return
        try:
            if self._is_old():
                self._resolved = {name: self._look_up(name) for name in self._names_to_look_up}
                self._resolved_at = time.monotonic()
        finally:
            self._resolving.release()

    def _is_old(self) -> bool:
        return time.monotonic() - self._resolved_at > OWN_ADDRESSES_FOR

    def _look_up(self, name: str) -> tuple[Address, ...]:
        try:
            return tuple(form for found in self._resolve(name) for form in embedded_addresses(found))
        except OSError:
            # A look-up may fail while the service is there: what was known of it stays closed.
            return self._resolved.get(name, ())


class EgressPolicy:
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
        routes: Path = ROUTES,
    ) -> None:
        self._allow = HostList.read("CALLBACK_ALLOW", allow)
        self._deny = HostList.read("CALLBACK_DENY", deny)
        self._own = OwnServices(own_services, resolve, routes)
        self._loopback = loopback
        self._resolve = resolve

    @classmethod
    def of(cls, settings: Settings) -> EgressPolicy:
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
        host, port = host_name(urlsplit(uri).hostname or ""), port_of(uri)
        try:
            self._check_name(host, port)
            self._permitted(host, port, map(str, parse_literal(host)), resolve=False)
        except EgressDenied as refused:
            raise EgressDenied(f"callback_uri must not lead to {refused}") from None

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses at which a callback to this host may be sent, looked up now; raises Refused when there is none,
        and OSError when the host has no address.
        """
        host = host_name(host)
        try:
            self._check_name(host, port)
            found = [str(address) for address in parse_literal(host)] or self._resolve(host)
            return self._permitted(host, port, found, resolve=True)
        except EgressDenied as refused:
            raise EgressDenied(f"callbacks are not sent to {refused}") from None

    def _permitted(self, host: str, port: int, found: Iterable[str], *, resolve: bool) -> list[str]:
        permitted, refusals = [], []
        for text in found:
            # The address to connect to is written anew: IPv4 within IPv6 as IPv4, and without a zone.
            address = canonical(text)
            try:
                self._check_address(host, port, address, resolve=resolve)
                permitted.append(str(address))
            except EgressDenied as refused:
                refusals.append(refused)
        if refusals and not permitted:
            raise refusals[0]
        return permitted

    def _check_name(self, host: str, port: int) -> None:
        if self._own.has_name(host, port):
            raise EgressDenied(f"{host}:{port}, a service of this project")
        if self._deny.has_name(host):
            raise EgressDenied(f"{host}, which CALLBACK_DENY names")

    def _check_address(self, host: str, port: int, address: Address, *, resolve: bool) -> None:
        named = f"{host}, which is {address}, " if host != str(address) else f"{host}, "
        for form in embedded_addresses(address):
            if self._own.has_address(form, port, resolve=resolve):
                raise EgressDenied(f"{named}port {port}, a service of this project")
            if self._deny.has_address(form):
                raise EgressDenied(f"{named}which CALLBACK_DENY names")
            if self._allow.has_name(host) or self._allow.has_address(form):
                continue
            kind = blocked_reason(form)
            if kind and not (kind == "a loopback address" and self._loopback):
                raise EgressDenied(f"{named}{kind} (CALLBACK_ALLOW opens it)")


def _partition(word: str) -> tuple[str, str]:
    """The host and the port of a word, which may have none; an IPv6 address needs brackets to have one."""
    host, colon, port = word.rpartition(":")
    if colon and port.isdigit() and (host.endswith("]") or ":" not in host):
        return host, port
    return word, ""

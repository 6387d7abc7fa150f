"""Egress policy for callbacks: a guard against server-side request forgery (SSRF)."""

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
    is_cluster_api,
    is_of_this_machine,
    look_up,
    parse_literal,
)
from app.serving.callbacks.signature import read_secret
from app.serving.settings import SettingError, Settings

#: The name of the machine's gateways, as in systemd's resolver: no host can have it.
GATEWAY = "_gateway"

#: Seconds for which the addresses of the project's own services are cached.
OWN_ADDRESSES_TTL = 10.0


@dataclass(frozen=True)
class HostList:
    """Hosts that a setting lists: names, *.domains, addresses and networks."""

    names: frozenset[str]
    networks: tuple[Any, ...]

    @classmethod
    def read(cls, key: str, words: Iterable[str]) -> HostList:
        """Parse the words of the setting `key`; raises SettingError for one with a slash that is no network."""
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
        """True when the host, or a domain that it is in, is listed: *.example.com has a.example.com."""
        labels = host.split(".")
        return host in self.names or any(
            f"*.{'.'.join(labels[start:])}" in self.names for start in range(1, len(labels))
        )

    def has_address(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


class OwnServices:
    """The project's own services, to which no callback may go: `redis` blocks every port of its addresses,
    `localhost:6379` this port alone, and `_gateway:8000` this port of the machine that runs the containers, at the
    gateway of their network.
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
        """True when a service is at this address and port; without `resolve`, only services given by address count."""
        names = [name for name, own in self._words if own in (None, port)]
        if resolve and names:
            self._refresh()
        return any(
            address in self._addresses(name)
            # A service on this machine may listen on all of its addresses.
            or (any(own.is_loopback for own in self._addresses(name)) and is_of_this_machine(address))
            for name in names
        )

    def _addresses(self, name: str) -> tuple[Address, ...]:
        return self._literal[name] or self._resolved.get(name, ())

    @property
    def _names_to_look_up(self) -> list[str]:
        return [name for name, known in self._literal.items() if not known and name != GATEWAY]

    def _refresh(self) -> None:
        """Look the services up when the cache has expired; one thread does, while others use the cached addresses."""
        if not self._is_old() or not self._resolving.acquire(blocking=not self._resolved):
            return
        try:
            if self._is_old():
                self._resolved = {name: self._look_up(name) for name in self._names_to_look_up}
                self._resolved_at = time.monotonic()
        finally:
            self._resolving.release()

    def _is_old(self) -> bool:
        return time.monotonic() - self._resolved_at > OWN_ADDRESSES_TTL

    def _look_up(self, name: str) -> tuple[Address, ...]:
        try:
            return tuple(form for found in self._resolve(name) for form in embedded_addresses(found))
        except OSError:
            # A look-up may fail while the service is up: its known addresses stay blocked.
            return self._resolved.get(name, ())


class EgressPolicy:
    """The rules for the hosts of callbacks. The first that applies: own services are blocked; CALLBACK_DENY blocks;
    CALLBACK_ALLOW permits; loopback, link-local, clouds' metadata, a cluster's API and the like are blocked; all others
    are permitted, private networks too.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        own_services: Iterable[str] = (),
        loopback: bool = False,
        cluster_api: str = "",
        resolve: Resolve = look_up,
        routes: Path = ROUTES,
    ) -> None:
        self._allow = HostList.read("CALLBACK_ALLOW", allow)
        self._deny = HostList.read("CALLBACK_DENY", deny)
        self._own = OwnServices(own_services, resolve, routes)
        self._loopback = loopback
        self._cluster_api = parse_literal(host_name(cluster_api))
        self._resolve = resolve

    @classmethod
    def of(cls, settings: Settings) -> EgressPolicy:
        """The policy of a deployment; raises SettingError."""
        return cls(
            allow=settings.callback_allow,
            deny=settings.callback_deny,
            own_services=settings.own_services,
            loopback=settings.callback_loopback,
            cluster_api=settings.kubernetes_service_host,
        )

    def check_literal(self, uri: str) -> None:
        """Raise EgressDenied for a valid `uri` that is blocked without a look-up: by its name, or by an address in any
        notation.
        """
        host, port = host_name(urlsplit(uri).hostname or ""), port_of(uri)
        try:
            self._check_name(host, port)
            self._permitted(host, port, map(str, parse_literal(host)), resolve=False)
        except EgressDenied as denied:
            raise EgressDenied(f"callback_uri must not lead to {denied}") from None

    def addresses(self, host: str, port: int) -> list[str]:
        """The permitted addresses of a host, looked up now; raises EgressDenied when none of them is permitted, and
        OSError when the host has no address.
        """
        host = host_name(host)
        try:
            self._check_name(host, port)
            found = [str(address) for address in parse_literal(host)] or self._resolve(host)
            return self._permitted(host, port, found, resolve=True)
        except EgressDenied as denied:
            raise EgressDenied(f"callbacks are not sent to {denied}") from None

    def _permitted(self, host: str, port: int, found: Iterable[str], *, resolve: bool) -> list[str]:
        permitted, denials = [], []
        for text in found:
            # The connection is made to the canonical address, which is the one that is checked.
            address = canonical(text)
            try:
                self._check_address(host, port, address, resolve=resolve)
                permitted.append(str(address))
            except EgressDenied as denied:
                denials.append(denied)
        if denials and not permitted:
            raise denials[0]
        return permitted

    def _check_name(self, host: str, port: int) -> None:
        if self._own.has_name(host, port):
            raise EgressDenied(f"{host}:{port}, a service of this project")
        if self._deny.has_name(host):
            raise EgressDenied(f"{host}, which CALLBACK_DENY names")
        if is_cluster_api(host) and not self._allow.has_name(host):
            raise EgressDenied(f"{host}, the API of a cluster (CALLBACK_ALLOW opens it)")

    def _check_address(self, host: str, port: int, address: Address, *, resolve: bool) -> None:
        named = f"{host}, which is {address}, " if host != str(address) else f"{host}, "
        for form in embedded_addresses(address):
            if self._own.has_address(form, port, resolve=resolve):
                raise EgressDenied(f"{named}port {port}, a service of this project")
            if self._deny.has_address(form):
                raise EgressDenied(f"{named}which CALLBACK_DENY names")
            if self._allow.has_name(host) or self._allow.has_address(form):
                continue
            reason = "the API of this cluster" if form in self._cluster_api else blocked_reason(form)
            if reason and not (reason == "a loopback address" and self._loopback):
                raise EgressDenied(f"{named}{reason} (CALLBACK_ALLOW opens it)")


def check_settings(settings: Settings) -> None:
    """Raise SettingError where the sender could not start: better no worker than one whose callbacks cannot be sent."""
    EgressPolicy.of(settings)
    read_secret(settings.callback_secret)


def _partition(word: str) -> tuple[str, str]:
    """The host of a word, and its port or an empty text; an IPv6 address needs brackets to have a port."""
    host, colon, port = word.rpartition(":")
    if colon and port.isdigit() and (host.endswith("]") or ":" not in host):
        return host, port
    return word, ""

# SPDX-License-Identifier: Apache-2.0
"""Waits until the lab really forwards, by packets and not by what processes say of themselves.

Asks again and again, until all that should answer has answered or one of the processes has ended.
A question needs the routers and a client that run; while one of them is killed or a link is cut,
there is nobody to ask, and the hosts that start are only required to stay alive.

With an internet, a director is asked by the border router of its PoP, once that has a route of its
own to it; and what a director would send to a backend comes from one that runs. A pool with health
checks may have nothing in reach, as no servers run yet, and then VIPs are not announced: so its
directors have to listen, and no more.
"""

import contextlib
import time
from collections.abc import Iterator

from limpet.core.errors import LimpetError
from limpet.core.model import Address
from limpet.lab import configuration, probe
from limpet.lab.network import netns_of
from limpet.lab.paths import walk
from limpet.lab.service import Service
from limpet.lab.state import State
from limpet.lab.topology import OWNERS, Host, Role

WAIT_S = 20.0
ANSWER_WAIT_S = 0.1


class Forwarding:
    """One round of questions about the hosts given, all of them running."""

    def __init__(self, now: State, hosts: list[Host]) -> None:
        self.now = now
        self.hosts = hosts
        self.sequence = 0

    def wait(self) -> None:
        """Raises LimpetError, with the log of who is to blame, when it does not come to forward."""
        deadline = time.monotonic() + WAIT_S
        client = self._client()
        for host in self.hosts:
            while not self._forwards(host, client):
                self._check_alive()
                if time.monotonic() > deadline:
                    says = Service(self.now.lab, host).says()
                    raise LimpetError(
                        f"{host.name} does not forward after {WAIT_S:.0f} s; its log:\n{says}"
                    )
        self._check_alive()

    def _client(self) -> Host | None:
        owners = {host.name for host in self.now.topology.host if host.role in OWNERS}
        if owners & self.now.killed or self.now.impairments:
            return None
        clients = self.now.topology.hosts(Role.CLIENT)
        return next((host for host in clients if host.name not in self.now.killed), None)

    def _check_alive(self) -> None:
        for host in self.hosts:
            if not self.now.processes[host.name].is_alive():
                raise Service(self.now.lab, host).died()

    def _forwards(self, host: Host, client: Host | None) -> bool:
        if client is None:
            return True
        with self._listeners(self._asker(host, client)) as listeners:
            ask = self._ask_director if host.role is Role.DIRECTOR else self._ask_backend
            return all(
                ask(host, vip.address, listeners[vip.address.version])
                for vip in self.now.topology.vip
            )

    def _asker(self, host: Host, client: Host) -> Host:
        if self.now.topology.internet is None or host.role is not Role.DIRECTOR:
            return client
        return self.now.topology.border_of(host.pop or "")

    @contextlib.contextmanager
    def _listeners(self, client: Host) -> Iterator[dict[int, probe.Listener]]:
        netns = netns_of(self.now.lab, client)
        addresses = self.now.topology.addresses(client)
        first = {version: next(a for a in addresses if a.version == version) for version in (4, 6)}
        with probe.Listener(netns, first[4]) as ipv4, probe.Listener(netns, first[6]) as ipv6:
            yield {4: ipv4, 6: ipv6}

    def _ask_director(self, host: Host, vip: Address, listener: probe.Listener) -> bool:
        self.sequence += 1
        # Behind an adopted program there may be a daemon that is still starting.
        if not Service(self.now.lab, host).is_listening():
            time.sleep(ANSWER_WAIT_S / 4)
            return False
        if self.now.topology.may_announce_nothing():
            return True
        if self.now.topology.internet is not None:
            border = self.now.topology.border_of(host.pop or "")
            if walk(self.now, border, vip).director != host.name:
                time.sleep(ANSWER_WAIT_S / 4)
                return False
        listener.ask(vip, self.sequence)
        return listener.hears(vip, self.sequence, ANSWER_WAIT_S)

    def _ask_backend(self, host: Host, vip: Address, listener: probe.Listener) -> bool:
        self.sequence += 1
        topology = self.now.topology
        backend = topology.backend_address(host)
        sender = self._sender()
        if sender is None:
            return True
        source = configuration.outer_source(topology, backend.version)
        request = listener.request(vip, self.sequence)
        probe.send_encapsulated(
            netns_of(self.now.lab, sender),
            source,
            backend,
            probe.packet(listener.client, vip, request),
        )
        return listener.hears(vip, self.sequence, ANSWER_WAIT_S)

    def _sender(self) -> Host | None:
        """Who can send to backends as a director does."""
        topology = self.now.topology
        if topology.internet is None:
            return topology.router()
        directors = topology.hosts(Role.DIRECTOR)
        return next((host for host in directors if host.name not in self.now.killed), None)

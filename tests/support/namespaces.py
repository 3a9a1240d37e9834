"""Hosts of their own on one machine: network namespaces on a bridge, each with one wire that can be pulled.

    with Network(4) as network:
        program.start("worker", within=network.within(0))     # it reaches us at network.address
        network.cut(0)
        network.heal(0)

Only root can make them, and not in every container.
"""

from __future__ import annotations

import os
import random
import subprocess
from typing import Self


class NamespacesMissingError(Exception):
    """No network namespaces can be made here."""


class Network:
    """A bridge with our address, and so many hosts on it.

    Raises:
        NamespacesMissingError: on entering.
    """

    def __init__(self, hosts: int) -> None:
        # An interface's name may have fifteen characters.
        self._mark = f"nl{os.getpid() % 1_000_000}"
        chance = random.SystemRandom()
        self._prefix = f"10.{chance.randint(192, 254)}.{chance.randint(1, 254)}"
        self._hosts = range(hosts)

    @property
    def address(self) -> str:
        """Where the hosts reach us."""
        return f"{self._prefix}.1"

    def __enter__(self) -> Self:
        try:
            self._make()
        except (OSError, subprocess.CalledProcessError) as error:
            self._remove()
            said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            message = f"no network namespaces: {said}"
            raise NamespacesMissingError(message) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def within(self, host: int) -> list[str]:
        """What runs a command on a host: it and its arguments follow."""
        return ["ip", "netns", "exec", f"{self._mark}-{host}"]

    def cut(self, host: int) -> None:
        """Pull a host's wire: packets are lost, and nobody is told."""
        _ip("link", "set", f"{self._mark}h{host}", "down")

    def heal(self, host: int) -> None:
        """Put it back."""
        _ip("link", "set", f"{self._mark}h{host}", "up")

    def _make(self) -> None:
        bridge = f"{self._mark}b"
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in self._hosts:
            name, ours, theirs = f"{self._mark}-{host}", f"{self._mark}h{host}", f"{self._mark}n{host}"
            _ip("netns", "add", name)
            _ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
            _ip("link", "set", ours, "master", bridge, "up")
            _ip("-n", name, "address", "add", f"{self._prefix}.{host + 10}/24", "dev", theirs)
            _ip("-n", name, "link", "set", theirs, "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for host in self._hosts:
            _ip("link", "delete", f"{self._mark}h{host}", check=False)
            _ip("netns", "delete", f"{self._mark}-{host}", check=False)
        _ip("link", "delete", f"{self._mark}b", check=False)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True, text=True)

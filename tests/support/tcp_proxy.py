"""A wire between a client and a server that can be cut, one way or both, without either of them being told.

with CuttableWire(target) as wire:
    ...                       # connect to ("127.0.0.1", wire.port)
    wire.cut()                # nothing arrives any more, and no connection ends
    wire.heal()               # what was under way arrives after all
    wire.tear()               # every connection ends at once
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Self

_CHUNK_BYTES = 64 * 1024


class CuttableWire:
    """Passes bytes on between clients on loopback and one server.

    Args:
        target: the server's Unix socket, or its host and port.
    """

    def __init__(self, target: Path | tuple[str, int]) -> None:
        self._target = target
        self._to_server = threading.Event()
        self._to_client = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.heal()
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Let nothing through in these directions from now on."""
        for flows, is_cut in ((self._to_server, to_server), (self._to_client, to_client)):
            if is_cut:
                flows.clear()

    def heal(self) -> None:
        """Let everything through again, what was held back first."""
        self._to_server.set()
        self._to_client.set()

    def tear(self) -> None:
        """End every connection."""
        with self._lock:
            ended, self._open = self._open, set()
        for each in ended:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        """Let go of everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.heal()
        self.tear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), name="wire", daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        # The first packet of a connection does not get through a cut wire either.
        self._to_server.wait()
        self._to_client.wait()
        try:
            server = self._reach()
        except OSError:
            client.close()
            return
        with self._lock:
            self._open |= {client, server}
        ways = ((client, server, self._to_server), (server, client, self._to_client))
        for way in ways:
            threading.Thread(target=self._pass_on, args=way, name="wire", daemon=True).start()

    def _reach(self) -> socket.socket:
        if isinstance(self._target, tuple):
            return socket.create_connection(self._target)
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._target))
        return server

    def _pass_on(self, source: socket.socket, sink: socket.socket, flows: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                flows.wait()
                sink.sendall(data)
        flows.wait()
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

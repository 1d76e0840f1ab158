"""The liveness monitor of the ranks: a thread on each that tells rank 0 how it is, and ends the process when one fails.

Rank 0 listens; every other rank keeps one TCP connection to it. Both sides send a line of JSON now and then: what the
rank is doing, that it failed, or that it leaves. A connection that ends without a word is a rank that died.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from compiler.errors import TargetError
from runtime.collectives.failure import STATUS_ERROR, Failure
from runtime.collectives.rank_status import Status, StatusRecorder, late, silent
from runtime.processes.addresses import connected, own_addresses
from runtime.processes.lines import Lines

GRACE = 3.0
"""Seconds that mpirun has to tell, with its signal, of a rank that died, before the monitor tells of it."""

_LINGER = 20.0
_CONNECT = 20.0


class LivenessMonitor:
    """One rank's liveness monitor. Rank 0 makes one and gives its `address` to the others, which `connect`."""

    def __init__(self, rank: int, hosts: Sequence[str], activity: StatusRecorder, *, timeout: float) -> None:
        self.rank, self.hosts, self._activity = rank, dict(enumerate(hosts)), activity
        self._interval = min(1.0, timeout / 4)
        self._parent = os.getppid()
        self._leaving = False
        self._peers: dict[int, Lines] = {}
        self._lost: dict[int, float] = {}
        self._seen: dict[int, Status] = {}
        self._token = ""
        self._server: socket.socket | None = None

    def listen(self) -> dict[str, Any]:
        """Rank 0: wait for connections; returns where, for `connect`."""
        self._token = secrets.token_hex(16)
        one_host = len(set(self.hosts.values())) == 1
        self._server = socket.create_server(("127.0.0.1" if one_host else "", 0), backlog=len(self.hosts))
        return {
            "addresses": ["127.0.0.1"] if one_host else own_addresses(),
            "port": self._server.getsockname()[1],
            "token": self._token,
        }

    def accept(self) -> None:
        """Rank 0: take the connections of all others, and start watching. TargetError if one does not come."""
        assert self._server is not None
        with self._server as server:
            server.settimeout(_CONNECT)
            while len(self._peers) < len(self.hosts) - 1:
                try:
                    lines = Lines(server.accept()[0])
                except OSError:
                    missing = min(self.hosts.keys() - self._peers.keys() - {0})
                    raise self._unreached(f"rank {missing} on {self.hosts[missing]} did not connect to it") from None
                hello = lines.wait(_CONNECT) or {}
                if hmac.compare_digest(str(hello.get("token")), self._token):
                    self._peers[int(hello["rank"])] = lines
        self._start()

    def connect(self, address: dict[str, Any]) -> None:
        """Other ranks: connect to rank 0, and start watching. TargetError if no address of it can be reached."""
        local = self.hosts[self.rank] == self.hosts[0]
        addresses = ["127.0.0.1"] if local else address["addresses"]
        try:
            lines = Lines(connected(addresses, address["port"], _CONNECT / 4))
        except OSError as error:
            places = ", ".join(addresses)
            raise self._unreached(f"it cannot reach rank 0 at {places}: {error.strerror or error}") from None
        lines.send({"token": address["token"], "rank": self.rank})
        self._peers[0] = lines
        self._start()

    def fail(self, failure: Failure) -> NoReturn:
        """End all ranks, with the failure of this one as the message."""
        if self.rank:
            self._peers[0].send({"failed": failure.to_json()})
            time.sleep(GRACE)  # rank 0 prints it and ends this process meanwhile
        self._tell(failure)

    def stand_down(self) -> None:
        """Rank 0: end the other ranks when this process ends; it says itself what is wrong."""
        self._leaving = True
        for lines in self._peers.values():
            lines.send({"end": True})

    def wait_for_end(self) -> NoReturn:
        """Other ranks: wait until rank 0 has told of a failure and ended."""
        time.sleep(_LINGER)
        os._exit(STATUS_ERROR)

    def leave(self) -> None:
        """Stop watching: all ranks are done."""
        self._leaving = True
        for lines in self._peers.values():
            lines.send({"bye": True})

    def _unreached(self, message: str) -> TargetError:
        return TargetError(
            f"rank {self.rank} on {self.hosts[self.rank]}: {message}",
            hint="let the hosts of the ranks connect to each other by TCP, on any port",
        )

    def _start(self) -> None:
        self._seen = {rank: Status("idle", "", 0.0, self._activity.status().limit) for rank in self._peers}
        threading.Thread(target=self._run, name="llmc-liveness", daemon=True).start()

    def _run(self) -> None:
        last = time.monotonic()
        pause = self._interval / (4 * max(1, len(self._peers)))
        while True:
            if not self._peers:
                time.sleep(pause)
            for rank, lines in list(self._peers.items()):
                for message in lines.receive(pause):
                    self._take(rank, message)
                if lines.ended:
                    self._mourn(rank)
            now = time.monotonic()
            if now - last >= self._interval:
                # Seconds in which this process itself was stopped do not count.
                self._beat(min(now - last, 2 * self._interval))
                last = now

    def _take(self, rank: int, message: dict[str, Any]) -> None:
        if "state" in message:
            self._seen[rank] = Status(**message)
        elif "failed" in message and not self._leaving:
            self._tell(Failure(**message["failed"]))
        elif "bye" in message:
            del self._seen[rank]
        elif "end" in message:
            self._linger(rank)

    def _beat(self, seconds: float) -> None:
        if os.getppid() != self._parent:  # mpirun is gone
            os._exit(STATUS_ERROR)
        own = self._activity.status()
        for rank, lines in self._peers.items():
            lines.send(asdict(own))
            if rank in self._seen:
                seen = self._seen[rank]
                self._seen[rank] = Status(seen.state, seen.what, seen.age, seen.limit, seen.silence + seconds)
        failure = silent(self._seen, self.hosts)
        if self.rank == 0:
            failure = failure or late({0: own, **self._seen}, self.hosts)
        if failure and not self._leaving:
            self._tell(failure)

    def _mourn(self, rank: int) -> None:
        """A rank's connection ended: tell of it, unless it left or mpirun tells of it first."""
        if self._leaving or rank not in self._seen:
            return
        since = self._lost.setdefault(rank, time.monotonic())
        if time.monotonic() - since > GRACE:
            hint = "its own messages are above, if it had any; the system's log says whether memory ran out"
            self._tell(Failure(rank, self.hosts[rank], "it ended without a message", hint, kind="TargetError"))

    def _linger(self, rank: int) -> NoReturn:
        """Rank 0 is about to end, with a message; ending before it would have mpirun cut it short."""
        until = time.monotonic() + _LINGER
        while time.monotonic() < until and not self._peers[rank].ended:
            self._peers[rank].receive(0.1)
        os._exit(STATUS_ERROR)

    def _tell(self, failure: Failure) -> NoReturn:
        """Print a failure, once over all ranks, and end the process; mpirun ends the others then."""
        if self.rank > 1:
            time.sleep(2 * GRACE)  # rank 1 tells of rank 0, and mpirun ends the others then
        sys.stderr.write(failure.text() + "\n")
        sys.stderr.flush()
        os._exit(failure.status)

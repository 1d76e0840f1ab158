"""How the liveness monitor's connections come about; what it does with them is seen on real ranks."""

import json
import socket
from contextlib import suppress
from typing import Any

import pytest

from compiler.errors import TargetError
from runtime.collectives.rank_status import StatusRecorder
from runtime.processes import liveness
from runtime.processes.liveness import LivenessMonitor


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread that would end this process, and short waits."""
    monkeypatch.setattr(LivenessMonitor, "_start", lambda self: None)
    monkeypatch.setattr(liveness, "_CONNECT", 2.0)


def made(rank: int) -> LivenessMonitor:
    return LivenessMonitor(rank, ["one", "one"], StatusRecorder(60.0), timeout=60.0)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[1, 2]\n",
        b'{"rank": 1}\n',
        b'{"token": "", "rank": 1}\n',
        b'{"token": "00000000000000000000000000000000", "rank": 1}\n',
    ],
)
def test_strangers_are_left_alone(sent: bytes) -> None:
    """Only who knows the token is taken for the rank that it says to be, and told when rank 0 leaves."""
    first = made(0)
    address = first.listen()
    place = ("127.0.0.1", address["port"])
    with socket.create_connection(place, 10.0) as stranger, socket.create_connection(place, 10.0) as rank:
        stranger.sendall(sent)
        rank.sendall(json.dumps({"token": address["token"], "rank": 1}).encode() + b"\n")
        first.accept()
        first.leave()
        assert json.loads(rank.makefile().readline()) == {"bye": True}
        with suppress(ConnectionResetError):
            assert stranger.recv(1000) == b""


def test_a_rank_connects_with_the_token_that_it_is_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        made(1).connect({"addresses": ["127.0.0.1"], "port": server.getsockname()[1], "token": "abc"})
        connection = server.accept()[0]
        with connection, connection.makefile() as lines:
            assert json.loads(lines.readline()) == {"token": "abc", "rank": 1}


def test_a_rank_that_does_not_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_CONNECT", 0.1)
    first = made(0)
    first.listen()
    with pytest.raises(TargetError, match="rank 0 on one: rank 1 on one did not connect to it") as error:
        first.accept()
    assert "by TCP" in str(error.value.hint)


def test_a_rank_that_cannot_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address: dict[str, Any] = {"addresses": ["127.0.0.1"], "port": server.getsockname()[1], "token": ""}
    with pytest.raises(TargetError, match=r"rank 1 on one: it cannot reach rank 0 at 127\.0\.0\.1"):
        made(1).connect(address)

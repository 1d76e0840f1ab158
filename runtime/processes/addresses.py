"""Where hosts find each other."""

from __future__ import annotations

import socket
from collections.abc import Sequence


def connected(addresses: Sequence[str], port: int, seconds: float) -> socket.socket:
    """A connection to the first of the addresses that takes one within `seconds`; OSError if none does."""
    problem = OSError("rank 0 gave no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=seconds)
        except OSError as error:
            problem = error
    raise problem


def own_addresses() -> list[str]:
    """The addresses of this host that others may reach, best first."""
    name = socket.gethostname()
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; picks the interface of the default route
            found.add(probe.getsockname()[0])
        except OSError:
            pass
    return [*sorted(found, key=lambda address: address.startswith("127.")), name]

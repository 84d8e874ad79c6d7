"""Which of this host's network interfaces reaches an address, and under which address."""

import array
import ipaddress
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from anybev import envs

_SIOCGIFCONF = 0x8912  # Linux: every IPv4 address of the host, also an interface's second one
_IFREQ_BYTES = 40
_INET6_TABLE = Path("/proc/net/if_inet6")


@dataclass(frozen=True)
class Interface:
    """One address of this host and the interface that holds it."""

    name: str
    address: str


def interfaces() -> list[Interface]:
    """Every address of this host, IPv4 first, in the kernel's order."""
    return [*_ipv4(), *_ipv6()]


def _ipv4() -> list[Interface]:
    import fcntl  # POSIX alone

    room = 128 * _IFREQ_BYTES
    records = array.array("B", bytes(room))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("iL", room, records.buffer_info()[0])
        (used,) = struct.unpack_from("i", fcntl.ioctl(probe.fileno(), _SIOCGIFCONF, request))
    data = records.tobytes()[:used]
    found = []
    for start in range(0, len(data), _IFREQ_BYTES):
        label = data[start : start + 16].split(b"\0", 1)[0].decode()
        address = socket.inet_ntoa(data[start + 20 : start + 24])
        # A second address may carry a label such as eth0:1; the interface is what stands before.
        found.append(Interface(label.split(":")[0], address))
    return found


def _ipv6() -> list[Interface]:
    if not _INET6_TABLE.exists():
        return []
    rows = [line.split() for line in _INET6_TABLE.read_text().splitlines()]
    return [Interface(row[-1], str(ipaddress.IPv6Address(int(row[0], 16)))) for row in rows]


def resolve(host: str, what: str = "--master-addr") -> str:
    """The address of ``host`` as numbers, which every socket call takes alike.

    Raises:
        MachineError: no such host.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise envs.MachineError(
            f"job: {what} must be an address or a name that this host can resolve, got {host!r} "
            f"({error.strerror}); try the IP address of node 0"
        ) from error
    return str(found[0][4][0])


def towards(address: str) -> Interface | None:
    """The interface whose packets reach ``address``; None where no route leads there.

    Args:
        address: IP address of another host, or one of this host's own.
    """
    version = ipaddress.ip_address(address).version
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing: the kernel only picks the route
        except OSError:
            return None
        own = probe.getsockname()[0]
    return next((found for found in interfaces() if found.address == own), None)

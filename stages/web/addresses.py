"""Decide which addresses may be contacted.

A URL found on the web can point into our own network: at a neighbour's admin page, or at the
address where a cloud hands out credentials. So only globally routable addresses are contacted.
The check stands where the connection is made: a host that is an address is checked before the
request, and a name is checked by ``GuardedResolver``, whose answer is the very one that is
connected to. A name whose answer changes in between (DNS rebinding) therefore gains nothing.
"""

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_UNICAST = IPv6Network("2000::/3")  # all of IPv6 that has been given out for global use
_NAT64 = IPv6Network("64:ff9b::/96")  # the last 32 bits are an IPv4 address, RFC 6052
_INTERNAL = (  # what Python 3.11 takes for global although it is not
    IPv4Network("168.63.129.16/32"),  # Azure's metadata: looks public, answers inside only
    IPv4Network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata is 192.0.0.192
    IPv4Network("192.88.99.0/24"),  # 6to4 relays, withdrawn by RFC 7526
    IPv6Network("3fff::/20"),  # documentation, RFC 9637
)
_CREDENTIALS: tuple[IPNetwork, ...] = (  # where clouds hand out keys: no setting opens these
    IPv4Network("169.254.0.0/16"),  # most clouds, and link-local altogether
    IPv4Network("100.100.100.200/32"),  # Alibaba
    IPv4Network("168.63.129.16/32"),  # Azure
    IPv4Network("192.0.0.192/32"),  # Oracle
    IPv6Network("fd00:ec2::254/128"),  # Amazon
    IPv6Network("fe80::/10"),
)
_LAST_LABEL_IS_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?$")


class ForbiddenAddress(Exception):
    """A name leads to an address that may not be contacted.

    It never leaves ``Fetch``, where it becomes the error ``forbidden_address`` of one row.
    """

    def __init__(self, host: str, ip: IPAddress, why: str) -> None:
        self.host, self.ip, self.why = host, ip, why
        super().__init__(host, ip, why)

    def __str__(self) -> str:
        return f"{self.host} is {self.ip}, which {self.why}"


@dataclass(frozen=True, slots=True)
class Guard:
    """Which addresses may be contacted."""

    allow_loopback: bool = False
    """Let 127.0.0.0/8 and ::1 pass: for tests and the quickstart."""
    allowed: tuple[IPNetwork, ...] = ()
    """Internal networks that may be asked; never those where clouds hand out credentials."""
    only_loopback: bool = False
    """Let nothing but loopback pass: we may not go out without naming a contact."""

    def why_not(self, ip: IPAddress) -> str:
        """Say why ``ip`` may not be contacted; "" if it may."""
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped  # the operating system connects to the IPv4 address
        named = _within(ip, self.allowed) and not _within(ip, _CREDENTIALS)
        if not named and forbidden(ip, self.allow_loopback):
            return "is not a public address"
        if self.only_loopback and not ip.is_loopback:
            return "may not be asked while fetch.contact names nobody"
        return ""


def _within(ip: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    return any(ip in network for network in networks if network.version == ip.version)


def forbidden(ip: IPAddress, allow_loopback: bool = False) -> bool:
    """Say whether ``ip`` may not be contacted because it is not globally routable.

    Private, loopback, link-local (cloud metadata among them), shared (CGNAT), multicast, reserved
    and unspecified addresses are forbidden, and so is an IPv6 address that carries one of them:
    IPv4-mapped, 6to4 or NAT64. Teredo is forbidden altogether.

    Args:
        ip: The address.
        allow_loopback: Let 127.0.0.0/8 and ::1 pass: for tests and the quickstart.

    References:
        IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890).
    """
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:  # the operating system connects to the IPv4 address
            return forbidden(ip.ipv4_mapped, allow_loopback)
        if ip.is_loopback:
            return not allow_loopback
        if ip in _NAT64:
            return forbidden(IPv4Address(int(ip) & 0xFFFF_FFFF))
        if ip.sixtofour is not None:
            return forbidden(ip.sixtofour)
        public = ip in _UNICAST and ip.is_global
    elif ip.is_loopback:
        return not allow_loopback
    else:
        public = ip.is_global and not ip.is_multicast and not ip.is_reserved
    return not public or any(ip in network for network in _INTERNAL)


def literal_ip(host: str) -> IPAddress | None:
    """Read a host that is an address rather than a name, the way browsers do.

    IPv4 may be written with one to four parts, each decimal, octal (``0177``) or hexadecimal
    (``0x7f``): 2130706433, 0177.0.0.1 and 0x7f.1 are all 127.0.0.1.

    Args:
        host: A host as it stands in a URL; IPv6 with or without its brackets.

    Returns:
        The address, or None if ``host`` is a name.

    Raises:
        ValueError: ``host`` ends in a number and yet is no address, so it can be nothing.

    References:
        WHATWG URL Standard, section 3.5, "Host parsing".
    """
    if "%" in host:
        raise ValueError(f"{host!r} names a network card, which only means something at home")
    if host[:1] == "[" and host[-1:] == "]":
        return IPv6Address(host[1:-1])
    if ":" in host or "[" in host:
        return IPv6Address(host)
    if not _LAST_LABEL_IS_NUMBER.search(host):
        return None
    *heads, last = (_number(part) for part in host.removesuffix(".").split("."))
    if len(heads) > 3 or any(head > 255 for head in heads) or last >= 256 ** (4 - len(heads)):
        raise ValueError(f"{host!r} is no IPv4 address")
    return IPv4Address(sum(head << 8 * (3 - i) for i, head in enumerate(heads)) + last)


def _number(part: str) -> int:
    """Read one part of an IPv4 address: decimal, octal or hexadecimal."""
    try:
        if part[:2] in ("0x", "0X"):
            return int(part[2:] or "0", 16)
        return int(part, 8 if part.startswith("0") else 10)
    except ValueError:
        raise ValueError(f"{part!r} is no part of an IPv4 address") from None


class GuardedResolver(AbstractResolver):
    """Resolve names, and refuse those that lead to a forbidden address.

    One forbidden address among several is enough: an honest name has none.
    """

    def __init__(self, resolver: AbstractResolver, guard: Guard) -> None:
        self._resolver = resolver
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``.

        Raises:
            ForbiddenAddress: One of them may not be contacted.
            OSError: The name cannot be resolved.
        """
        answers = await self._resolver.resolve(host, port, family)
        for answer in answers:
            ip = ip_address(answer["host"])
            if why := self._guard.why_not(ip):
                raise ForbiddenAddress(host, ip, why)
        return answers

    async def close(self) -> None:
        """Release the resolver underneath."""
        await self._resolver.close()

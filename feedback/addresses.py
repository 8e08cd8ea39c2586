"""Whose address a request came from, when proxies stand in between.

`X-Forwarded-For` and `Forwarded` (RFC 7239) are believed only as far as trusted proxies wrote them: from the right,
each hop that is a trusted proxy is passed over, and the first that is not is the client. Without trusted proxies the
headers mean nothing, and the peer is the client: whoever forges them changes nothing.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORWARDED_FOR = re.compile(r'for\s*=\s*(?:"([^"]*)"|([^;,\s]+))', re.IGNORECASE)
HOPS_MAX = 32
IPV6_PREFIX = 64
"""One customer's share of IPv6: limits per address count all of it as one."""


def read_networks(values: Iterable[str]) -> tuple[Network, ...]:
    """Networks in CIDR notation, or single addresses.

    Raises:
        ValueError: one is neither.
    """
    return tuple(ip_network(value) for value in values)


def client_address(
    peer: str, forwarded_for: str | None, forwarded: str | None, trusted: Sequence[Network]
) -> str:
    """The client's address: the peer, or what trusted proxies say of whom they serve."""
    address = _read(peer)
    if address is None:
        return peer
    hops = _hops(forwarded_for, forwarded)
    while _is_in(address, trusted) and hops:
        said = _read(hops.pop())
        if said is None:
            break
        address = said
    return _shared(address)


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether the peer is one of the trusted proxies."""
    address = _read(peer)
    return address is not None and _is_in(address, trusted)


def _hops(forwarded_for: str | None, forwarded: str | None) -> list[str]:
    if forwarded is not None:
        return [quoted or bare for quoted, bare in FORWARDED_FOR.findall(forwarded)][-HOPS_MAX:]
    return (forwarded_for or "").split(",")[-HOPS_MAX:] if forwarded_for else []


def _read(text: str) -> Address | None:
    """An address as proxies write it: bare, with a port, or `[IPv6]:port`."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _shared(address: Address) -> str:
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, IPV6_PREFIX), strict=False).network_address)
    return str(address)

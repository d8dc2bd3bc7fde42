"""Callers' callback URLs: which of them are taken, which addresses they may lead to, and what they share.

Decides by contract.md §5: http(s), a few ports, no user info, no address that is not public. Names are judged by their
shape alone; what they resolve to is judged again at each connection, by `refusal`. Nothing here resolves anything.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL: Final = 2048
MAX_NAME: Final = 140
"""Characters of an endpoint's name in the database."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(r"(?i:(https?))://([^/?#]*)((?:[/?][^#]*)?)")
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
# What the last label of an IPv4 address in one of its many old forms looks like (WHATWG URL, "ends in a number").
_NUMERIC: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")

# RFC 6890 and IANA's registries of special-purpose addresses, spelled out: the library's own lists change between
# versions of Python, and count multicast as global.
_SPECIAL: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by carriers (CGNAT)"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's own"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/32", "a tunnel (Teredo)"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "for documentation"),
        ("3fff::/20", "for documentation"),
    )
)
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = ipaddress.IPv6Network("2002::/16")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads: scheme, host as it was given in lower case (IPv6 without brackets), port."""

    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def allowed_port(port: int) -> bool:
    return port in (80, 443) or 8000 <= port <= 9999


def parse(url: str, allow: Sequence[Network] = ()) -> Place:
    """Where a callback URL leads; ValueError says, in words that stand after the field's name, why it is not taken."""
    if len(url) > MAX_URL:
        raise ValueError(f"must have at most {MAX_URL} characters")
    if not url.isascii() or not url.isprintable():
        raise ValueError("must consist of printable ASCII; write an international name in its xn-- form")
    if " " in url or "\\" in url:
        raise ValueError("must not hold spaces or backslashes; percent-encode them")
    found = _URL.fullmatch(url)
    if found is None:
        if "#" in url:
            raise ValueError("must not hold a fragment (#…)")
        raise ValueError("must begin with http:// or https://")
    scheme, authority = found[1].lower(), found[2]
    if "@" in authority:
        raise ValueError("must not hold a user name or password")
    host, port_text = _split(authority)
    port = _port(port_text) if port_text is not None else _DEFAULT_PORTS[scheme]
    if not allowed_port(port):
        raise ValueError("must use port 80, 443, or one from 8000 to 9999")
    _check_host(host, allow)
    return Place(scheme, host.lower(), port)


def _split(authority: str) -> tuple[str, str | None]:
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError("must be a URL with a valid host and port")
        return host, rest[1:] if rest else None
    host, colon, port = authority.partition(":")
    if not host or ":" in port:
        raise ValueError("must be a URL with a valid host and port")
    return host, port if colon else None


def _port(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text):
        raise ValueError("must be a URL with a valid host and port")
    return int(text)


def _check_host(host: str, allow: Sequence[Network]) -> None:
    address = _literal(host)
    if address is not None:
        why = refusal(address, allow)
        if why is not None:
            raise ValueError(f"must not lead to an address that is {why}; a network can be allowed by callbacks.allow")
        return
    if host.endswith("."):
        raise ValueError("must not have a dot at the end of its host")
    if not all(_LABEL.fullmatch(label) for label in host.split(".")) or len(host) > 253:
        raise ValueError("must be a URL with a valid host and port")
    if host.lower().split(".")[-1] == "localhost":
        loopback = ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")
        if all(refusal(one, allow) is not None for one in loopback):
            raise ValueError("must not lead to this machine itself; callbacks.allow can allow 127.0.0.0/8")


def _literal(host: str) -> Address | None:
    """The address that the host is written as; None for a name. ValueError: one that programs read in several ways."""
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("must be a URL with a valid host and port") from None
        if address.scope_id is not None:
            raise ValueError("must not hold a zone (%…) in its address")
        return address
    if not _NUMERIC.fullmatch(host.rstrip(".").split(".")[-1]):
        return None
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        raise ValueError("must write an IPv4 address as four numbers from 0 to 255") from None


def refusal(address: Address, allow: Iterable[Network] = ()) -> str | None:
    """What keeps a callback from an address ("private", "loopback"…); None: it may go there.

    An IPv6 address that carries an IPv4 address is judged by that as well.
    """
    allowed = tuple(allow)
    if isinstance(address, ipaddress.IPv4Address):
        return None if _within(address, allowed) else _special(address)
    if address.scope_id is not None:
        return "bound to one link (a zone)"
    if _within(address, allowed):
        return None
    if (special := _special(address)) is not None:
        return special
    carried = _carried(address)
    if carried is not None and (why := refusal(carried, allowed)) is not None:
        return why
    if address.ipv4_mapped is not None or address in _NAT64:
        return None  # nothing but the carried address
    return None if address in _GLOBAL_V6 else "not public"


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _special(address: Address) -> str | None:
    return next((what for network, what in _SPECIAL if _within(address, (network,))), None)


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address within a mapped, NAT64, 6to4 or ISATAP one: whoever routes it sends it on to that."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _SIX_TO_FOUR:
        return address.sixtofour
    if address in _NAT64 or (int(address) >> 32) & 0xFCFFFFFF == 0x00005EFE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def endpoint_name(owner: str, place: Place) -> str:
    """The name under which a caller's callbacks to one host and port are sent: what fails there fails for that alone.

    `@` stands in no name of the config, so it is nobody else's.
    """
    name = f"{owner}@{place.origin}"
    return name if len(name) <= MAX_NAME else f"{owner}@{hashlib.sha256(place.origin.encode()).hexdigest()[:32]}"

"""Which callback URLs are taken, and which addresses none of them may reach, however they are written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.domain.callbacks import MAX_NAME, endpoint_name, parse, refusal

GOOD = [
    ("https://shop.example.com/hook", "shop.example.com:443"),
    ("http://shop.example.com", "shop.example.com:80"),
    ("HTTPS://Shop.Example.COM/Hook?order=1&x=%20", "shop.example.com:443"),
    ("https://shop.example.com:8443/", "shop.example.com:8443"),
    ("http://shop.example.com:9999?x", "shop.example.com:9999"),
    ("http://8.8.8.8:8000/", "8.8.8.8:8000"),
    ("https://[2606:4700::1111]/", "[2606:4700::1111]:443"),
    ("https://[::ffff:8.8.8.8]/", "[::ffff:8.8.8.8]:443"),
    ("https://[64:ff9b::8.8.8.8]/", "[64:ff9b::8.8.8.8]:443"),
    ("https://[2606:4700::5efe:808:808]/", "[2606:4700::5efe:808:808]:443"),
    ("https://xn--bcher-kva.example/", "xn--bcher-kva.example:443"),
    ("http://intranet:8000/hook", "intranet:8000"),
    ("http://shop.example.com:8080/a@b:c", "shop.example.com:8080"),
]


@pytest.mark.parametrize(("url", "origin"), GOOD)
def test_what_leads_to_the_public_is_taken(url: str, origin: str) -> None:
    assert parse(url).origin == origin


BAD = [
    ("", "http"),
    ("ftp://shop.example.com/", "http"),
    ("//shop.example.com/", "http"),
    ("javascript:alert(1)", "http"),
    ("http:/shop.example.com", "http"),
    ("http:///hook", "host and port"),
    ("http://:80/", "host and port"),
    ("http://shop.example.com:/", "host and port"),
    ("http://shop.example.com:080/", "host and port"),
    ("http://shop.example.com:8000:8000/", "host and port"),
    ("http://shop.example.com:99999/", "port 80"),
    ("http://shop.example.com:22/", "port 80"),
    ("http://shop.example.com:7999/", "port 80"),
    ("http://shop.example.com:10000/", "port 80"),
    ("http://user@shop.example.com/", "user name"),
    ("http://user:pass@shop.example.com/", "user name"),
    ("http://shop.example.com@127.0.0.1/", "user name"),
    ("http://shop.example.com/#x", "fragment"),
    ("http://shop.example.com#@127.0.0.1/", "fragment"),
    ("http://shop.example.com\\@127.0.0.1/", "backslash"),
    ("http://shop.example.com/a b", "spaces"),
    ("http://shop.example.com/\n", "printable"),
    ("http://shop\u3002example\u3002com/", "xn--"),
    ("http://\uff11\uff12\uff17.0.0.1/", "xn--"),
    ("http://b\u00fccher.example/", "xn--"),
    ("http://shop.example.com./", "dot at the end"),
    ("http://127.0.0.1./", "four numbers"),
    ("http://shop..example.com/", "host and port"),
    ("http://-shop.example.com/", "host and port"),
    ("http://shop%2eexample.com/", "host and port"),
    ("http://127.1/", "four numbers"),
    ("http://0x7f000001/", "four numbers"),
    ("http://0x7f.0.0.1/", "four numbers"),
    ("http://2130706433/", "four numbers"),
    ("http://017700000001/", "four numbers"),
    ("http://127.0.0.01/", "four numbers"),
    ("http://1.2.3.4.5/", "four numbers"),
    ("http://256.1.1.1/", "four numbers"),
    ("http://localhost:8000/", "this machine"),
    ("http://LOCALHOST/", "this machine"),
    ("http://a.b.localhost/", "this machine"),
    ("http://127.0.0.1/", "loopback"),
    ("http://10.1.2.3/", "private"),
    ("http://172.16.0.1/", "private"),
    ("http://192.168.1.1/", "private"),
    ("http://100.64.0.1/", "CGNAT"),
    ("http://169.254.169.254/latest/meta-data", "link-local"),
    ("http://168.63.129.16/", "a cloud's own"),
    ("http://0.0.0.0/", "unspecified"),
    ("http://224.0.0.1/", "multicast"),
    ("http://240.0.0.1/", "reserved"),
    ("http://255.255.255.255/", "reserved"),
    ("http://192.0.2.7/", "documentation"),
    ("http://198.18.0.1/", "benchmarks"),
    ("http://[::1]/", "loopback"),
    ("http://[::]/", "unspecified"),
    ("http://[fe80::1]/", "link-local"),
    ("http://[fe80::1%25eth0]/", "host and port|zone"),
    ("http://[fe80::1%eth0]/", "zone"),
    ("http://[fd00::1]/", "private"),
    ("http://[fec0::1]/", "not public"),
    ("http://[ff02::1]/", "multicast"),
    ("http://[::ffff:127.0.0.1]/", "loopback"),
    ("http://[::ffff:7f00:1]/", "loopback"),
    ("http://[::127.0.0.1]/", "not public"),
    ("http://[64:ff9b::10.0.0.1]/", "private"),
    ("http://[64:ff9b:1::a00:1]/", "not public"),
    ("http://[2002:7f00:1::]/", "loopback"),
    ("http://[2002:0a00:0001::1]/", "private"),
    ("http://[2001:0:4136:e378:8000:63bf:f5ff:fffe]/", "Teredo"),
    ("http://[2001:db8::1]/", "documentation"),
    ("http://[2606:4700::5efe:10.0.0.1]/", "private"),
    ("http://[fe80::5efe:808:808]/", "link-local"),
    ("http://[fd00:ec2::5efe:808:808]/", "private"),
    ("http://[ff02::200:5efe:808:808]/", "multicast"),
    ("http://[2001:db8::5efe:808:808]/", "documentation"),
    ("http://[64:ff9b:1::5efe:808:808]/", "not public"),
    ("http://[5f00::5efe:808:808]/", "not public"),
    ("http://[::5efe:808:808]/", "not public"),
    ("http://[::1/", "host and port"),
    ("http://[127.0.0.1]/", "host and port"),
    ("http://shop.example.com/" + "x" * 2048, "2048"),
]


@pytest.mark.parametrize(("url", "why"), BAD)
def test_what_leads_elsewhere_is_refused_in_words(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(url)


def test_a_network_can_be_allowed() -> None:
    allow = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("fd00::/8")]
    for url in (
        "http://10.1.2.3/", "http://localhost:8000/", "http://127.0.0.1:9000/", "http://[fd00::1]/",
        "http://[::ffff:10.1.2.3]/", "http://[64:ff9b::10.1.2.3]/",
    ):  # fmt: skip
        parse(url, allow)
    for url in ("http://10.2.0.1/", "http://[::1]/", "http://127.1/", "http://10.1.2.3:22/"):
        with pytest.raises(ValueError, match=r"must"):
            parse(url, allow)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_in_every_ipv6_dress(address: ipaddress.IPv4Address) -> None:
    plain, number = refusal(address), int(address)
    for dressed in (
        ipaddress.IPv6Address(0xFFFF00000000 | number),
        ipaddress.IPv6Address((0x0064FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1),
        ipaddress.IPv6Address((0x26064700 << 96) | (0x00005EFE << 32) | number),
    ):
        assert refusal(dressed) == plain, dressed


@given(st.ip_addresses())
def test_whatever_the_library_calls_private_is_refused(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
    ):
        carried = isinstance(address, ipaddress.IPv6Address) and (
            address.ipv4_mapped or address.sixtofour or address in ipaddress.IPv6Network("64:ff9b::/96")
        )
        assert carried or refusal(address) is not None


@given(st.text(max_size=60))
def test_any_text_is_taken_or_refused_in_words(text: str) -> None:
    for url in (text, f"http://{text}", f"https://{text}/hook"):
        try:
            place, why = parse(url), "must"
        except ValueError as exc:
            place, why = None, str(exc)
        assert why.startswith("must")
        assert place is None or place.port in (80, 443) or 8000 <= place.port <= 9999


def test_an_endpoints_name_fits_and_tells_caller_and_host() -> None:
    assert endpoint_name("shop", parse("https://hooks.example.com/a")) == "shop@hooks.example.com:443"
    long = parse(f"https://{'a' * 60}.{'b' * 60}.{'c' * 60}.example/")
    name = endpoint_name("s" * 64, long)
    assert len(name) <= MAX_NAME
    assert name.startswith("s" * 64 + "@")
    assert name != endpoint_name("s" * 64, parse(f"https://{'d' * 60}.{'b' * 60}.{'c' * 60}.example/"))

import asyncio
import socket
from ipaddress import ip_address, ip_network

import pytest
from aiohttp.abc import AbstractResolver

from stages.web.addresses import ForbiddenAddress, Guard, GuardedResolver, forbidden, literal_ip

LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"]
INTERNAL = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",  # shared by a provider's customers
    "100.100.100.200",  # Alibaba's metadata
    "168.63.129.16",  # Azure's
    "169.254.169.254",  # most clouds'
    "172.16.0.1",
    "192.0.0.192",  # Oracle's
    "192.168.1.1",
    "192.88.99.1",
    "198.18.0.1",
    "203.0.113.7",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fc00::1",
    "fd00:ec2::254",  # Amazon's metadata
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "3fff::1",
    "::ffff:10.0.0.1",  # IPv4-mapped
    "::ffff:169.254.169.254",
    "::10.0.0.1",  # IPv4-compatible
    "2002:a9fe:a9fe::1",  # 6to4 of 169.254.169.254
    "2002:7f00:1::",
    "64:ff9b::10.0.0.1",  # NAT64
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]


@pytest.mark.parametrize("ip", LOOPBACK + INTERNAL)
def test_what_is_not_globally_routable_is_forbidden(ip):
    assert forbidden(ip_address(ip))


@pytest.mark.parametrize("ip", PUBLIC)
def test_a_public_address_is_not(ip):
    assert not forbidden(ip_address(ip))


@pytest.mark.parametrize("ip", LOOPBACK + INTERNAL)
def test_allowing_loopback_opens_loopback_and_nothing_else(ip):
    assert forbidden(ip_address(ip), allow_loopback=True) == (ip not in LOOPBACK)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0177.0.0.1", "0x7f.1", "0x7F000001", "017700000001", "127.1."],
)
def test_every_way_to_write_an_ipv4_address_is_read(host):
    assert str(literal_ip(host)) == "127.0.0.1"


@pytest.mark.parametrize("host", ["::1", "[::1]", "[0:0::0001]"])
def test_ipv6_is_read_with_and_without_brackets(host):
    assert str(literal_ip(host)) == "::1"


@pytest.mark.parametrize("host", ["example.com", "1.2.3.4.example.com", "face", "0x7f.com", ""])
def test_a_name_is_no_address(host):
    assert literal_ip(host) is None


@pytest.mark.parametrize(
    "host",
    [
        "1.2.3.4.5",
        "256.0.0.1",
        "1.16777216",
        "09.1",
        "4294967296",
        "a.1",
        "[fe80::1%eth0]",
        ":",
        "[",
        "[::1",
        "[a]",
    ],
)
def test_what_ends_in_a_number_and_is_no_address_can_be_nothing(host):
    with pytest.raises(
        ValueError, match=r"no IPv4|no part|network card|At least 3 parts|not permitted|Only hex"
    ):
        literal_ip(host)


class Answers(AbstractResolver):
    """Give the next of several answers at each question."""

    def __init__(self, *answers):
        self.answers = iter(answers)

    async def resolve(self, host, port=0, family=socket.AF_INET):
        return [
            {"hostname": host, "host": ip, "port": port, "family": family, "proto": 0, "flags": 0}
            for ip in next(self.answers)
        ]

    async def close(self):
        pass


def test_one_forbidden_address_among_several_is_enough():
    resolver = GuardedResolver(Answers(["8.8.8.8", "fd00::1"]), Guard())
    with pytest.raises(ForbiddenAddress, match=r"pictures\.test is fd00::1, which is not a public"):
        asyncio.run(resolver.resolve("pictures.test"))


def test_each_answer_is_checked_so_rebinding_gains_nothing():
    async def ask_twice():
        resolver = GuardedResolver(Answers(["8.8.8.8"], ["127.0.0.1"]), Guard())
        assert [answer["host"] for answer in await resolver.resolve("pictures.test")] == ["8.8.8.8"]
        await resolver.resolve("pictures.test")

    with pytest.raises(ForbiddenAddress, match=r"127\.0\.0\.1"):
        asyncio.run(ask_twice())


def test_loopback_may_be_allowed_by_name():
    resolver = GuardedResolver(Answers(["127.0.0.1"]), Guard(allow_loopback=True))
    assert asyncio.run(resolver.resolve("localhost", 80))[0]["host"] == "127.0.0.1"


@pytest.mark.parametrize("ip", ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1"])
def test_an_internal_network_may_be_allowed_by_name(ip):
    guard = Guard(allowed=(ip_network("10.0.0.0/8"), ip_network("fd12::/16")))
    assert guard.why_not(ip_address(ip)) == ""
    assert Guard().why_not(ip_address(ip)) == "is not a public address"
    assert guard.why_not(ip_address("192.168.0.1")) == "is not a public address"


@pytest.mark.parametrize(
    "ip",
    ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254",
     "::ffff:169.254.169.254"],
)  # fmt: skip
def test_no_network_opens_what_hands_out_credentials(ip):
    everything = Guard(allowed=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    assert everything.why_not(ip_address(ip)) == "is not a public address"


def test_without_a_contact_only_loopback_is_asked():
    guard = Guard(allow_loopback=True, only_loopback=True)
    assert guard.why_not(ip_address("::ffff:127.0.0.1")) == ""
    assert "fetch.contact" in guard.why_not(ip_address("8.8.8.8"))
    assert guard.why_not(ip_address("10.0.0.1")) == "is not a public address"
    named = Guard(allowed=(ip_network("10.0.0.0/8"),), only_loopback=True)
    assert "fetch.contact" in named.why_not(ip_address("10.0.0.1"))

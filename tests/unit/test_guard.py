"""Which addresses may be called, spelled in every way."""

from ipaddress import ip_network

import pytest

from workers.egress.guard import Guard

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "169.254.170.2", "100.64.0.1", "100.100.100.200", "100.118.28.1", "192.0.0.192", "168.63.129.16",
    "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.0.2.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
    "2002:a9fe:a9fe::1", "2001::1", "2001:db8::1", "100::1", "3fff::1", "5f00::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "52.95.110.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "2a00:1450:4001::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not Guard(()).allows(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_called(address: str) -> None:
    assert Guard(()).allows(address)


def test_a_network_that_the_operator_names_may_be_called_and_its_neighbour_not() -> None:
    guard = Guard((ip_network("10.1.0.0/16"), ip_network("fd00::/64")))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::5"):
        assert guard.allows(address)
    for address in ("10.2.0.1", "fd00:0:0:1::5", "127.0.0.1"):
        assert not guard.allows(address)

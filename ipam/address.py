"""Addresses, networks and addresses-with-a-prefix, as integers.

The arithmetic that the path of a pod needs of the standard `ipaddress`, which takes 4 ms to import
and is the oracle of this module's tests. An `Address` is a version and an integer; a `Network` never
has host bits; an `Interface` is an address and the length of its network's prefix ("10.1.0.5/16"),
named as in `ipaddress`. Nothing here knows of IPAM or of netlink.

`parse` is the way in: it raises ValueError, naming the text, for whatever is not exactly one of them.
"""

from __future__ import annotations

from cni.lean import NamedTuple, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

BITS = {4: 32, 6: 128}


class Address(NamedTuple):
    """One IP address; ordered by version, then value."""

    version: int
    value: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From dotted-quad or RFC 4291 text. No zone, no prefix, no leading zeros: what inet_pton(3) takes."""
        if ":" in text:
            try:
                packed = socket.inet_pton(socket.AF_INET6, text)
            except (OSError, ValueError):  # ValueError: a NUL or a lone surrogate inside
                raise ValueError(f"invalid IP address: {text!r}") from None
            return cls(6, int.from_bytes(packed, "big"))
        # Ourselves: without IPv6, host-local has no other use for sockets, and to import them takes 0.2 ms.
        value = 0
        octets = text.split(".")
        for octet in octets:
            plain = octet.isascii() and octet.isdigit() and len(octet) <= 3 and (octet[0] != "0" or octet == "0")
            if len(octets) != 4 or not plain or int(octet) > 255:
                raise ValueError(f"invalid IP address: {text!r}")
            value = value << 8 | int(octet)
        return cls(4, value)

    @classmethod
    def from_packed(cls, packed: bytes) -> Self:
        """From 4 or 16 bytes in network order."""
        return cls(4 if len(packed) == 4 else 6, int.from_bytes(packed, "big"))

    @property
    def packed(self) -> bytes:
        """4 or 16 bytes in network order."""
        return self.value.to_bytes(BITS[self.version] // 8, "big")

    def __str__(self) -> str:
        if self.version == 4:
            value = self.value
            return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}"
        text = socket.inet_ntop(socket.AF_INET6, self.packed)
        if "." in text:
            # libc writes ::/96 and ::ffff:0/96 with a dotted tail. Files are named after addresses, so there
            # is one spelling: RFC 5952's, without the tail.
            high, low = self.value >> 16 & 0xFFFF, self.value & 0xFFFF
            text = f"{text[: text.rindex(':') + 1]}{high:x}:{low:x}"
        return text

    def plus(self, count: int) -> Self:
        """The address `count` further on. Raises ValueError beyond either end of the family's space."""
        value = self.value + count
        if value < 0 or value >> BITS[self.version]:
            raise ValueError(f"{self} {count:+d} is not an IPv{self.version} address")
        return type(self)(self.version, value)

    def alone(self) -> Interface:
        """This address with a full-length prefix: /32 or /128."""
        return Interface(self, BITS[self.version])


class Network(NamedTuple):
    """An address block; `value` is its first address and has no bits beyond `length`."""

    version: int
    value: int
    length: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From CIDR text. Raises ValueError for host bits too: a typing error is likelier than a way of writing."""
        interface = Interface.parse(text)
        network = interface.network
        if network.value != interface.address.value:
            raise ValueError(f"{text} has host bits set; the network is {network}")
        return cls(*network)

    @property
    def first(self) -> Address:
        return Address(self.version, self.value)

    @property
    def last(self) -> Address:
        return Address(self.version, self.value | (1 << BITS[self.version] - self.length) - 1)

    def holds(self, address: Address) -> bool:
        """Whether the address lies inside (never, for another family)."""
        return self.version == address.version and not (self.value ^ address.value) >> BITS[self.version] - self.length

    def overlaps(self, other: Network) -> bool:
        """Whether any address lies in both."""
        return self.holds(other.first) or other.holds(self.first)

    def __str__(self) -> str:
        return f"{self.first}/{self.length}"


class Interface(NamedTuple):
    """An address together with the length of its network's prefix."""

    address: Address
    length: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "ADDRESS/LENGTH". Raises ValueError."""
        head, slash, tail = text.partition("/")
        if not slash or not (tail.isascii() and tail.isdigit()) or (len(tail) > 1 and tail[0] == "0"):
            raise ValueError(f"invalid CIDR address: {text!r}")
        address = Address.parse(head)
        if len(tail) > 3 or int(tail) > BITS[address.version]:
            raise ValueError(
                f"invalid CIDR address: {text!r} (IPv{address.version} prefixes end at {BITS[address.version]})"
            )
        return cls(address, int(tail))

    @property
    def network(self) -> Network:
        rest = BITS[self.address.version] - self.length
        return Network(self.address.version, self.address.value >> rest << rest, self.length)

    def __str__(self) -> str:
        return f"{self.address}/{self.length}"


def default_route(version: int) -> Network:
    """0.0.0.0/0 or ::/0."""
    return Network(version, 0, 0)

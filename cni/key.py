"""Who is attached: the key of an attachment, the tag that it leaves on the node, and what gave it addresses."""

from __future__ import annotations

from cni.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_BASE32 = "0123456789abcdefghijklmnopqrstuv"
_BASE32_DIGITS = frozenset(_BASE32)


def fnv1a(data: bytes) -> int:
    """The 64-bit FNV-1a hash: small, the same on every machine, and not sensitive to FIPS as hashlib is."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def digest(text: str) -> str:
    """The hash of a text in 16 digits, to end the name of what the text makes different from others of its kind."""
    return f"{fnv1a(text.encode('utf-8', 'surrogateescape')):016x}"


class Key(NamedTuple):
    """Names one attachment: a container's interface in a network, as one plugin made it."""

    network: str
    container_id: str
    ifname: str
    plugin: str

    def __str__(self) -> str:
        """`<network>/<containerID>@<ifname>@<plugin>`: no container ID has an `@`, and no network a slash."""
        return f"{self.network}/{self.container_id}@{self.ifname}@{self.plugin}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The inverse of `str`; None for text that is no key."""
        network, slash, rest = text.partition("/")
        container_id, first, rest = rest.partition("@")
        ifname, last, plugin = rest.rpartition("@")
        return cls(network, container_id, ifname, plugin) if slash and first and last and plugin else None

    @property
    def hash(self) -> int:
        return fnv1a(str(self).encode("utf-8", "surrogateescape"))

    @property
    def tag(self) -> str:
        """The name of the attachment's link on the node, and what marks everything on the node as its own.

        15 characters, as many as an interface's name may have: `pw` and a 64-bit hash of the key. It is the same
        each time, so that what a lost record leaves behind can still be found.
        """
        return _tag(self.hash)

    @property
    def ifb_tag(self) -> str:
        """The name of the attachment's ifb, where it has one."""
        return _tag(fnv1a(f"{self} ifb".encode("utf-8", "surrogateescape")))


def _tag(value: int) -> str:
    return "pw" + "".join([_BASE32[value >> shift & 31] for shift in range(60, -1, -5)])


def is_tag(text: str) -> bool:
    """Whether it can be what a key's `tag` is."""
    return len(text) == 15 and text.startswith("pw") and _BASE32_DIGITS.issuperset(text[2:])


def hash_of(tag: str) -> int:
    """The hash of the key that the tag was made of."""
    return int(tag[2:], len(_BASE32))


class Delegation(NamedTuple):
    """What a record keeps of an attachment's IPAM, so that releasing needs no current configuration."""

    type: str
    """The IPAM's `type`; "" for a network without addresses."""
    config: str
    """The network configuration of the ADD, verbatim."""
    args: str
    """CNI_ARGS of the ADD, verbatim."""

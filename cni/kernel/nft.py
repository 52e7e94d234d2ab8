"""nf_tables: the elements of our table's sets, by our own codec.

(linux/netfilter/nf_tables.h)
"""

from __future__ import annotations

from cni.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

TABLE: Final = "podwire"


class Claim(NamedTuple):
    """What an attachment has to itself on the node, where an element's key doesn't name the attachment."""

    resource: str
    """As in "tcp:8080" or "address:cni0:10.244.0.5"."""
    scope: str = ""
    """Two claims of one resource conflict where their scopes are equal, or one is all addresses: 0.0.0.0, ::."""


class Element(NamedTuple):
    """One element of a set or a map of our table, in nft's own words."""

    set: str
    type: str
    """Of the set, as its declaration has it: "ifname . ipv4_addr", or "inet_service : ipv4_addr" for a map."""
    text: str
    """Key and, behind " : ", value."""
    tag: str
    """Whose it is: the element's comment."""
    claim: Claim | None = None
    family: str = "inet"
    """Of the table: "inet" or "bridge"."""


class Fragment(NamedTuple):
    """Sets and chains that a network's configuration asks for, as nft text: constant rules, whatever pods there are."""

    name: str
    """Ends the name of each set and chain in it."""
    text: str

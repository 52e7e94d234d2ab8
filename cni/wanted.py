"""The words that features and the engine share: a pod, and what should exist for it.

A feature is a pure function from a `Pod`, in which everything has been chosen already, to a `Wanted`: the
kernel objects that should exist, in the groups in which they come to be. The engine makes them, finds them,
takes them away, and knows no feature; features know neither each other nor the engine.
"""

from __future__ import annotations

from cni.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from cni.kernel.conntrack import Flow
    from cni.kernel.inet import LinkAddress, LinkRoute
    from cni.kernel.link import Link
    from cni.kernel.linksettings import LinkSettings, PortMtu
    from cni.kernel.neighbour import FdbEntry, Neighbour
    from cni.kernel.netlink import Request, Socket
    from cni.kernel.nft import Element, Fragment
    from cni.kernel.ports import Bridge, BridgePort, Ifb, LinkUp, Veth
    from cni.kernel.sysctl import Sysctl
    from cni.kernel.tc import IngressQdisc, Redirect, TokenBucket
    from cni.key import Delegation, Key
    from cni.spec.result import Interface, IPConfig, Result, Route
    from ipam.address import Interface as Prefixed


class Pod(NamedTuple):
    """One attachment with everything chosen: its names, MACs and addresses, before anything of it exists."""

    key: Key
    netns: str
    """CNI_NETNS; goes into the result as `sandbox`."""
    ifname: str
    tag: str
    mac: str
    host_mac: str
    ips: tuple[IPConfig, ...]
    routes: tuple[Route, ...]
    seen: Mapping[str, Link]
    """The node's links that the main feature named in `needs`: as they are or, with index 0, as they will be made."""
    port: str = ""
    """The node's end of the pod's veth. Ours bears the tag; in a chain it is what an earlier member made."""
    iif: str = ""
    """The link by which the pod's packets reach the node's IP layer: the bridge, or the port where there is none."""
    mtu: int = 0
    """Of the port; 0 for the kernel's default."""


class Switch(NamedTuple):
    """A bridge that attachments share, with the addresses by which the node is their gateway."""

    bridge: Bridge
    gateways: tuple[Prefixed, ...]
    force: bool = False
    """Other gateway addresses go from it even if attachments use them."""


class Wanted(NamedTuple):
    """What should exist for an attachment, by group; each group is made after the one before."""

    switches: tuple[Switch, ...] = ()
    """Shared by attachments: ensured, and never taken away."""
    settings: tuple[Sysctl, ...] = ()
    """Of the node, shared."""
    fragments: tuple[Fragment, ...] = ()
    """Rules that depend on the network's configuration. Shared: made where they are missing, for `elements`."""
    elements: tuple[Element, ...] = ()
    openings: tuple[Opening, ...] = ()
    """In what belongs to others: where their firewall would drop the pod's packets."""
    veths: tuple[Veth, ...] = ()
    ifbs: tuple[Ifb, ...] = ()
    fences: tuple[Sysctl, ...] = ()
    """Of the node, on links that go with the attachment: against what the pod could do to it, so made before the pod's
    end is up. A kernel that lacks such a setting is in no such danger."""
    tuning: tuple[Sysctl, ...] = ()
    """Of the pod, on a link that goes with the attachment."""
    amends: tuple[Sysctl | LinkSettings, ...] = ()
    """Of the pod, on what others made: put back as it was when the attachment goes."""
    pod: tuple[LinkUp | LinkAddress | LinkRoute | Neighbour, ...] = ()
    node: tuple[NodeObject, ...] = ()
    flows: tuple[Flow, ...] = ()
    """What the kernel is to forget of earlier connections, when the attachment comes and when it goes."""
    interfaces: tuple[Interface, ...] = ()
    """Of the result; addresses point into them."""
    amended: tuple[Interface, ...] = ()
    """What is new of interfaces in the previous result, found by name and sandbox: their MAC and MTU, where said."""
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    reported: tuple[str, ...] = ()
    """Links of the pod that we don't give their addresses, and whose addresses the result shows all the same."""

    def and_also(self, other: Wanted) -> Wanted:
        """Both, with the indexes of the other's addresses moved behind our interfaces."""
        shift = len(self.interfaces)
        moved = other._replace(
            ips=tuple([ip if ip.interface is None else ip._replace(interface=ip.interface + shift) for ip in other.ips])
        )
        # Field by field, so that no group can be forgotten.
        return Wanted(*[ours + others for ours, others in zip(self, moved)])  # type: ignore[arg-type]  # each of its kind


if TYPE_CHECKING:

    class LinkObject(Protocol):
        """A kernel object that belongs to a link; messages about it need the link's index."""

        @property
        def link(self) -> str: ...

        def make(self, index: int) -> Request: ...

        def drop(self, index: int) -> Request: ...

        def find(self, nl: Socket, index: int) -> bool: ...

    Queueing = IngressQdisc | TokenBucket | Redirect
    NodeObject = BridgePort | FdbEntry | Neighbour | LinkRoute | LinkAddress | PortMtu | Queueing

    class Opening(Protocol):
        """Something in another's firewall that lets the pod's packets pass. Raises Refused, CNIError."""

        @property
        def resource(self) -> str:
            """What is opened, as part of a file's name. What several attachments want goes with the last of them."""

        def make(self) -> None:
            """There already is fine."""

        def drop(self) -> None:
            """Gone already is fine."""

        def find(self) -> bool: ...

    class Feature(Protocol):
        """One thing that happens to a pod.

        It may have besides, for what the kernel is to be asked about before anything is done: `tables`, the families
        of our tables that its elements need; `questions`, requests that change nothing and that a kernel refuses with
        what is `fine`, unless it lacks the `option`.
        """

        def wanted(self, pod: Pod) -> Wanted: ...

    class Main(Feature, Protocol):
        """The feature that makes the pod's link, of a plugin that does."""

        @property
        def needs(self) -> tuple[Bridge, ...]:
            """The node's links that `wanted` asks about, as they would be made where they don't exist. The first is
            the bridge whose port the pod's link becomes."""

        @property
        def mac(self) -> str:
            """The MAC that the pod's end must have; "" for any."""

        @property
        def mtu(self) -> int:
            """The MTU that the pod's link is to have; 0 for the bridge's, or else the kernel's default."""

    class Skeleton(Protocol):
        """What our tables are made of: sets and rules that are the same whatever is configured."""

        @property
        def version(self) -> str:
            """Stands in a table's comment; another skeleton has another."""

        def text(self, family: str) -> str:
            """The table of that family, in nft's words."""

    class Addresses(Protocol):
        """Where an attachment's addresses come from and go to. Raises CNIError."""

        delegation: Delegation

        def require(self) -> None:
            """Raises unless `acquire` can be tried. Asked before anything is done: what never ran needs no undoing."""

        def acquire(self, key: Key, netns: str) -> Result:
            """Reserves; all or nothing."""

        def release(self, key: Key, netns: str) -> None:
            """Gives back whatever the attachment holds; nothing held is fine."""

        def check(self, key: Key, netns: str, prev: Result) -> None: ...

        def status(self) -> None: ...

        def gc(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
            """Releases what belongs to no attachment in `valid`: (container ID, interface name)."""

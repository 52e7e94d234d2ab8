"""One call for one attachment, and the pod that it is about."""

from __future__ import annotations

from cni.lean import NamedTuple, posix
from cni.wanted import Pod, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attach.node import Node
    from cni.key import Key
    from cni.spec.result import DNS, Interface, IPConfig, Result
    from cni.wanted import Addresses, Feature, Main


class Call(NamedTuple):
    """One call for one attachment, parsed."""

    key: Key
    netns: str
    """CNI_NETNS; "" where a DEL has none."""
    own_netns_is_fine: bool
    """CNI_NETNS_OVERRIDE."""
    chained: bool
    """Whether the pod's link is another plugin's, as the previous result tells."""
    cni_version: str
    main: Main | None
    """The feature that makes the pod's link; None for a later member of a chain."""
    features: tuple[Feature, ...]
    """The others."""
    addresses: Addresses
    prev: Result | None
    dns: DNS | None
    """Overrides what IPAM says."""
    config: str
    """The configuration, verbatim, of a plugin that may be in a chain more than once; or else ""."""


def pod_of(node: Node, call: Call, main: Main, leased: Result) -> Pod:
    """A pod that gets its link from us. Chooses all that is left to choose: the MACs."""
    from cni.attach import shared

    seen = {bridge.name: shared.look(node, bridge) for bridge in main.needs}
    bridge = seen[main.needs[0].name] if main.needs else None
    return Pod(
        key=call.key,
        netns=call.netns,
        ifname=call.key.ifname,
        tag=call.key.tag,
        mac=main.mac or _new_mac(),
        host_mac=_new_mac(),
        ips=leased.ips,
        routes=leased.routes,
        seen=seen,
        port=call.key.tag,
        iif=bridge.name if bridge else call.key.tag,
        mtu=main.mtu or (bridge.mtu if bridge else 0),
    )


def _new_mac() -> str:
    """A random one, unicast and locally administered (IEEE 802: the two lowest bits of the first byte)."""
    octets = posix.urandom(6)
    return bytes([octets[0] & 0xFC | 0x02, *octets[1:]]).hex(":")


def wanted_of(call: Call, pod: Pod) -> Wanted:
    wanted = call.main.wanted(pod) if call.main else Wanted()
    for feature in call.features:
        wanted = wanted.and_also(feature.wanted(pod))
    return wanted


def _amended(prev: Result, wanted: Wanted) -> tuple[Interface, ...]:
    """The interfaces of the previous result, with what of each is said anew; of what isn't, the old word stands."""
    anew = {(one.name, one.sandbox): one for one in wanted.amended}
    found = []
    for one in prev.interfaces:
        new = anew.get((one.name, one.sandbox), one)
        found.append(one._replace(mac=new.mac or one.mac, mtu=new.mtu or one.mtu))
    return tuple(found)


def result_of(call: Call, wanted: Wanted, reported: tuple[IPConfig, ...], dns: DNS) -> Result:
    """The result of the ADD; in a chain, what there was before and us. CNIError if the version can't hold it."""
    from cni.spec.result import Result

    ours = Wanted(interfaces=wanted.interfaces, ips=wanted.ips + reported, routes=wanted.routes)
    if call.prev:
        before = Wanted(interfaces=_amended(call.prev, wanted), ips=call.prev.ips, routes=call.prev.routes)
        ours = before.and_also(ours)
        dns = call.prev.dns if dns.empty else dns
    result = Result(ours.interfaces, ours.ips, ours.routes, call.dns or dns)
    result.to_object(call.cni_version)
    return result

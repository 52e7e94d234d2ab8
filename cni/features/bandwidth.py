"""bandwidth: how fast a pod may receive and send.

What happens to a pod: what leaves the node for it waits at the node's end of its veth for its turn, and what it sends
waits at an ifb of its own (`cni.kernel.tc` draws both). What finds a full queue is dropped, which is how a sender
learns to slow down.

The burst is what passes at full speed after a pause, before the rate holds. A good one is a matter of the rate, and
those who ask for shaping mostly know no better than to name a rate; so where it is missing, or can't be meant, there
is a default. The words are the pod's: *ingress* is what it receives.
"""

from __future__ import annotations

from cni.kernel.ports import Ifb
from cni.kernel.tc import IngressQdisc, Redirect, TokenBucket
from cni.key import hash_of
from cni.lean import NamedTuple
from cni.spec.errors import INVALID_CONFIG, CNIError
from cni.spec.result import Interface
from cni.wanted import Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

    from cni.kernel.netlink import Request
    from cni.spec.netconf import NetConf
    from cni.spec.section import Section
    from cni.wanted import NodeObject, Pod

_KEYS: Final = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
_MOST: Final = (1 << 64) - 1

_LATENCY_US: Final = 25_000  # the reference's, which can't be changed there
_MOST_LATENCY_MS: Final = 10_000

# The bucket refills between two looks at it, and what doesn't fit in is lost: up to some milliseconds where the
# machine is busy. At low rates frames count. Three are enough to use all of a slow link; with eight or more, trains of
# packets reach the end of its queue at once, and TCP now and then waits for a timeout. (From 1 to 6 Mbit/s it nearly
# always had 0.955 of the rate, all that its headers leave; at worst 0.92 with 3 frames, 0.89 with 10, 0.71 with 8.)
_BURST_MS: Final = 10
_BURST_FRAMES: Final = 3
# With so small a burst the queue must hold what TCP sends before it hears of the other side (RFC 6928). In 25 ms a
# slow link sends less, and would drop part of what each connection begins with.
_QUEUE_FRAMES: Final = 10
_ETHERNET_MTU: Final = 1500
_HEADER_BYTES: Final = 18  # of Ethernet, with a VLAN tag

# Runtimes that hear of a rate alone fill in what they think is none: the largest number of some type, half a gigabyte
# (CRI-O: 2^31-1, containerd: 2^32-1), which at usual rates is minutes without any shaping. So is, of whoever's making,
# what takes this long to pass.
_NO_BURSTS: Final = ((1 << 31) - 1, (1 << 32) - 1)
_MOST_BURST_S: Final = 5


class BandwidthFeature(NamedTuple):
    """The configuration of `type: bandwidth`; a rate of 0 is no limit."""

    ingress_rate_bits_per_s: int
    ingress_burst_bits: int
    """0 for the default; and what can't be meant is treated alike."""
    egress_rate_bits_per_s: int
    egress_burst_bits: int
    latency_us: int
    """0 for the default."""

    @classmethod
    def parse(cls, conf: NetConf, static: Section) -> Self:
        """What the configuration itself says, in `static`, goes before what the runtime says: the whole of it.

        Raises CNIError 7.
        """
        told = static if any(static.has(key) for key in _KEYS) else conf.runtime_config.section("bandwidth")
        numbers = [told.integer(key, least=0, most=_MOST) for key in _KEYS]
        for i in (0, 2):
            if numbers[i + 1] and not numbers[i]:
                raise CNIError(
                    INVALID_CONFIG,
                    f"{told.where}: {_KEYS[i + 1]} is set, so {_KEYS[i]} must be too",
                    "a burst is what passes before a rate holds: name the rate, or remove the burst",
                )
        latency_ms = static.integer("latencyMs", least=1, most=_MOST_LATENCY_MS)
        return cls(numbers[0], numbers[1], numbers[2], numbers[3], latency_ms * 1000)

    @property
    def questions(self) -> tuple[Request, ...]:
        asked = [TokenBucket.ask()] if self.ingress_rate_bits_per_s or self.egress_rate_bits_per_s else []
        if self.egress_rate_bits_per_s:
            asked += [Ifb.ask(), IngressQdisc.ask(), Redirect.ask()]
        return tuple(asked)

    def wanted(self, pod: Pod) -> Wanted:
        if not (self.ingress_rate_bits_per_s or self.egress_rate_bits_per_s):
            return Wanted()
        if not pod.port:
            raise CNIError(
                INVALID_CONFIG,
                f"bandwidth: {pod.ifname} is not one end of a veth whose other is on the node, to be shaped there",
                "name it behind a plugin that makes one (bridge, ptp), or remove the limits of the pod",
            )
        node: list[NodeObject] = []
        ifbs: tuple[Ifb, ...] = ()
        if self.ingress_rate_bits_per_s:
            node.append(self._bucket(pod, pod.port, self.ingress_rate_bits_per_s, self.ingress_burst_bits))
        if self.egress_rate_bits_per_s:
            ifb = Ifb(pod.key.ifb_tag, pod.mtu, _mac(pod.key.ifb_tag))
            ifbs = (ifb,)
            # In this order, so that nothing ever comes to a queue that isn't there yet.
            node += [
                self._bucket(pod, ifb.name, self.egress_rate_bits_per_s, self.egress_burst_bits),
                IngressQdisc(pod.port),
                Redirect(pod.port, ifb.name, hash_of(pod.tag)),
            ]
        return Wanted(
            ifbs=ifbs,
            node=tuple(node),
            interfaces=tuple([Interface(ifb.name, ifb.mac, mtu=ifb.mtu) for ifb in ifbs]),
        )

    def _bucket(self, pod: Pod, link: str, rate_bits_per_s: int, burst_bits: int) -> TokenBucket:
        frame_bits = 8 * ((pod.mtu or _ETHERNET_MTU) + _HEADER_BYTES)
        # A bucket that is smaller than a frame would never let it pass.
        meant = frame_bits <= burst_bits <= rate_bits_per_s * _MOST_BURST_S and burst_bits not in _NO_BURSTS
        latency_us = self.latency_us or _LATENCY_US
        if not meant:
            burst_bits = max(_BURST_FRAMES * frame_bits, rate_bits_per_s * _BURST_MS // 1000)
            if not self.latency_us:
                latency_us = max(latency_us, _QUEUE_FRAMES * frame_bits * 1_000_000 // rate_bits_per_s)
        return TokenBucket(link, rate_bits_per_s, burst_bits, latency_us, hash_of(pod.tag))


def _mac(ifb_tag: str) -> str:
    """Of the attachment's ifb. No frame bears it: it is there for the result to tell."""
    return bytes([0x02, *hash_of(ifb_tag).to_bytes(8, "big")[:5]]).hex(":")

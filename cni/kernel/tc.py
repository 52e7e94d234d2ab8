"""tc: how fast packets leave a link, and where those that come in go first.

What a link sends may have to wait, and its root *qdisc* (queueing discipline) decides how long. Ours is a token
bucket, tbf: tokens flow into it at the rate, until it is full, which is the burst; a packet that leaves takes as
many as it has bytes, and waits while there are too few. So over any time no more gets through than the burst and what
the rate allows in that time.

Only what leaves a link can wait; what comes in is there already. So what a pod sends is taken away where the node
receives it, to a link of its own (`ports.Ifb`), and goes on from there as if it came in just then:

    to the pod      node ─▶ [tbf] port ══ veth ══▶ eth0
    from the pod    eth0 ══ veth ══▶ port [hook, redirect] ─▶ [tbf] ifb ─▶ node, as received by the port

Each object has `ask`, `make`, `drop` and `find` side by side. The first is a request that changes nothing anywhere: a
kernel that has the option refuses it for what is wrong with it. (tc(8), linux/pkt_sched.h, linux/pkt_cls.h).
"""

from __future__ import annotations

import errno

from cni.kernel import link as links
from cni.kernel.netlink import (
    ABSENT,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    Request,
    as_int,
    as_text,
    attribute,
    attributes,
    fixed,
    nested,
    text,
    u32,
)
from cni.lean import NamedTuple, struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.kernel.netlink import Message, Socket

# linux/rtnetlink.h
RTM_NEWQDISC: Final = 36
RTM_DELQDISC: Final = 37
RTM_GETQDISC: Final = 38
RTM_NEWTFILTER: Final = 44
RTM_DELTFILTER: Final = 45
RTM_GETTFILTER: Final = 46
RTM_NEWACTION: Final = 48
TCA_KIND: Final = 1
TCA_OPTIONS: Final = 2
TCA_INGRESS_BLOCK: Final = 13
TCA_ACT_TAB: Final = 1
# linux/pkt_sched.h
TC_H_ROOT: Final = 0xFFFFFFFF
TC_H_CLSACT: Final = 0xFFFFFFF1  # the parent that both the clsact qdisc and the older ingress qdisc have
TC_LINKLAYER_ETHERNET: Final = 1
TCA_TBF_PARMS: Final = 1
TCA_TBF_RATE64: Final = 4
TCA_TBF_BURST: Final = 6
# linux/pkt_cls.h
TC_ACT_STOLEN: Final = 4
TC_U32_TERMINAL: Final = 1
TCA_U32_SEL: Final = 5
TCA_U32_ACT: Final = 7
TCA_ACT_KIND: Final = 1
TCA_ACT_OPTIONS: Final = 2
# linux/tc_act/tc_mirred.h
TCA_EGRESS_REDIR: Final = 1
TCA_MIRRED_PARMS: Final = 2

_TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_TCAMSG = bytes(4)  # family, and nothing else
# tc_tbf_qopt: of its tc_ratespec link layer and rate, of the peak's the rate; limit, buffer (the burst as time), mtu
_TBF = struct.Struct("=xB6xI8xIIII")
# tc_u32_sel: flags, number of keys, and one key without a bit in its mask, which all packets have
_MATCH_ALL = struct.pack("=BxB13x16x", TC_U32_TERMINAL, 1)
_MIRRED = struct.Struct("=IIiiiiI")  # tc_mirred: index, capabilities, action, two counters, what to do, with which link

_U32 = (1 << 32) - 1
_HOOK = 0xFFFF0000  # ffff:, the handle of clsact and ingress qdiscs
_INCOMING = 0xFFFFFFF2  # where filters on what is received hang on either: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
_OUTGOING = 0xFFFFFFF3  # and of clsact those on what is sent: TC_H_MIN_EGRESS
_ALL_PROTOCOLS = as_int(b"\0\3")  # ETH_P_ALL of linux/if_ether.h, in network byte order
# What is the attachment's own on a link that others may use too is told by its numbers. Handles: above those that
# people give, below those that the kernel gives (8000:). Preferences: behind those that the kernel gives (49152).
_FIRST_HANDLE, _HANDLES = 0x1000, 0x7000
_FIRST_PREFERENCE, _PREFERENCES = 0xC001, 0x3FFE
_LO = 1  # its index, in each namespace
_NS_PER_TICK = 64  # what tc calls a tick: PSCHED_SHIFT of the kernel's, the second number of /proc/net/psched
_NS_PER_S = 1_000_000_000

_TBF_OPTION = "CONFIG_NET_SCH_TBF"
_CLSACT_OPTION = "CONFIG_NET_SCH_INGRESS"

# What isn't there, and what is there but isn't ours: another handle, another kind, a hook that is missing altogether.
_NOT_OURS: Final = ABSENT | {errno.EINVAL}


def _tcmsg(index: int, handle: int, parent: int, info: int = 0) -> bytes:
    return _TCMSG.pack(0, index, handle, parent, info)


def _asked(handle: int, parent: int, kind: str, more: bytes, option: str) -> Request:
    """A qdisc of `lo` that can't be made; there may be one already."""
    body = _tcmsg(_LO, handle, parent) + text(TCA_KIND, kind) + more
    fine = frozenset({errno.EINVAL, errno.EEXIST})
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, f"tc qdisc add dev lo {kind}", fine, option)


class TokenBucket(NamedTuple):
    """A link sends no faster than this (tbf), as its root qdisc.

    A packet that finds more than `limit_bytes` waiting is dropped. One that is larger than the burst is cut into the
    segments that it was made of, where it is a train of them (GSO), and is dropped too where it isn't.
    """

    link: str
    rate_bits_per_s: int
    burst_bits: int
    latency_us: int
    """How long the last packet of a full queue waits, beyond what the burst takes."""
    owner: int
    """Any number that others hardly have: the attachment's."""

    @property
    def handle(self) -> int:
        return _FIRST_HANDLE + self.owner % _HANDLES << 16

    @property
    def rate_bytes_per_s(self) -> int:
        """Not 0: the kernel takes that for no rate at all."""
        return max(1, self.rate_bits_per_s // 8)

    @property
    def burst_bytes(self) -> int:
        return min(_U32, self.burst_bits // 8)

    @property
    def limit_bytes(self) -> int:
        return min(_U32, self.rate_bytes_per_s * self.latency_us // 1_000_000 + self.burst_bytes)

    @staticmethod
    def ask() -> Request:
        """A token bucket without any parameters."""
        return _asked(_FIRST_HANDLE << 16, TC_H_ROOT, "tbf", b"", _TBF_OPTION)

    def make(self, index: int) -> Request:
        """The burst goes as bytes, and the kernel, which keeps it as the time that it takes, computes that itself. To
        send that time, in ticks of 64 ns, and a table of how long packets of each size take, is for kernels before
        3.14 (2014), which could not.

        Without EEXIST tolerance: a link that has a root qdisc already is shaped by somebody else, if only by another
        member of the chain.
        """
        parms = _TBF.pack(TC_LINKLAYER_ETHERNET, min(_U32, self.rate_bytes_per_s), 0, self.limit_bytes, 0, 0)
        options = attribute(TCA_TBF_PARMS, parms) + u32(TCA_TBF_BURST, self.burst_bytes)
        if self.rate_bytes_per_s > _U32:
            options += attribute(TCA_TBF_RATE64, struct.pack("=Q", self.rate_bytes_per_s))
        body = _tcmsg(index, self.handle, TC_H_ROOT) + text(TCA_KIND, "tbf") + nested(TCA_OPTIONS, options)
        what = (
            f"tc qdisc add dev {self.link} root handle {self.handle >> 16:x}: tbf rate {self.rate_bytes_per_s * 8}bit "
            f"burst {self.burst_bytes}b limit {self.limit_bytes}b"
        )
        return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, what, option=_TBF_OPTION)

    def drop(self, index: int) -> Request:
        body = _tcmsg(index, self.handle, TC_H_ROOT) + text(TCA_KIND, "tbf")
        what = f"tc qdisc del dev {self.link} root handle {self.handle >> 16:x}:"
        return Request(RTM_DELQDISC, 0, body, what, fine=_NOT_OURS)

    def find(self, nl: Socket, index: int) -> bool:
        """Whether the link has a token bucket of ours at its root, of this rate, burst and limit."""
        handle, found = _qdisc(nl, index, TC_H_ROOT, f"tc qdisc show dev {self.link} root")
        if handle != self.handle or as_text(found.get(TCA_KIND, b"")) != "tbf":
            return False
        options = attributes(found.get(TCA_OPTIONS, b""))
        _linklayer, rate, peak, limit, buffer, _mtu = fixed(_TBF, options.get(TCA_TBF_PARMS, b""))
        rate = as_int(options.get(TCA_TBF_RATE64, b"")) or rate
        return (rate, peak, limit) == (self.rate_bytes_per_s, 0, self.limit_bytes) and self._fills_in(buffer)

    def _fills_in(self, ticks: int) -> bool:
        """Whether that is how long the kernel thinks our bucket takes to fill, which is all that it tells of the burst.

        It rounds, to 2^-31 of the time and then to ticks, in each of which a fast link sends some bytes; and of the
        ticks it tells 32 bits, which a slow link may exceed.
        """
        expected = self.burst_bytes * _NS_PER_S // self.rate_bytes_per_s // _NS_PER_TICK
        return (ticks - expected + (slack := 1 + expected // 2_000_000)) & _U32 <= 2 * slack


class IngressQdisc(NamedTuple):
    """The hook for filters on what a link receives.

    It is a clsact qdisc, which is the older ingress qdisc and more: a link can have only one of the two, and most
    others who want to see a pod's packets (eBPF programs, policy agents) ask for clsact, and are content to find it.
    """

    link: str

    @staticmethod
    def ask() -> Request:
        """The hook, with filters that it shares with block 0, which there can't be. Not at a place where there can be
        no hook, as the root is: until 6.4 (6.1.33, 6.3.7) kernels made one there, by which `lo` passed nothing."""
        return _asked(_HOOK, TC_H_CLSACT, "clsact", u32(TCA_INGRESS_BLOCK, 0), _CLSACT_OPTION)

    def make(self, index: int) -> Request:
        """One that is there, of either kind, serves us too."""
        body = _tcmsg(index, _HOOK, TC_H_CLSACT) + text(TCA_KIND, "clsact")
        what = f"tc qdisc add dev {self.link} clsact"
        fine = frozenset({errno.EEXIST})
        return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, what, fine, _CLSACT_OPTION)

    def drop(self, index: int) -> Request:
        """With whatever filters hang on it: see `needed`. An ingress qdisc was never made by us, and stays."""
        body = _tcmsg(index, _HOOK, TC_H_CLSACT) + text(TCA_KIND, "clsact")
        return Request(RTM_DELQDISC, 0, body, f"tc qdisc del dev {self.link} clsact", fine=_NOT_OURS)

    def find(self, nl: Socket, index: int) -> bool:
        _handle, found = _qdisc(nl, index, TC_H_CLSACT, f"tc qdisc show dev {self.link} ingress")
        return as_text(found.get(TCA_KIND, b"")) in ("clsact", "ingress")

    def needed(self, nl: Socket, index: int) -> bool:
        """Whether any filter hangs on it, on either side: with ours gone, one of somebody else's."""
        for side, parent in (("ingress", _INCOMING), ("egress", _OUTGOING)):
            body = _tcmsg(index, 0, parent)
            if nl.dump(Request(RTM_GETTFILTER, 0, body, f"tc filter show dev {self.link} {side}", fine=_NOT_OURS)):
                return True
        return False


class Redirect(NamedTuple):
    """Whatever `link` receives leaves by `to` first: an ifb, which sends it back to be received.

    Behind all other filters of the hook: what comes back from the ifb skips the hook, so before another's filter, a
    firewall's perhaps, this would let pass what that is there to stop.
    """

    link: str
    to: str
    owner: int
    """As of a `TokenBucket`."""

    @property
    def preference(self) -> int:
        return _FIRST_PREFERENCE + self.owner % _PREFERENCES

    @staticmethod
    def ask() -> Request:
        """To redirect, but not where to. Whether there is u32 only a link with a hook would tell. In a user namespace
        the kernel doesn't say: there an action is made with its filter alone, and by itself for nobody (EPERM)."""
        action = nested(1, text(TCA_ACT_KIND, "mirred"))
        body = _TCAMSG + nested(TCA_ACT_TAB, action)
        fine = frozenset({errno.EINVAL, errno.EPERM})
        return Request(RTM_NEWACTION, NLM_F_CREATE, body, "tc actions add action mirred", fine, "CONFIG_NET_ACT_MIRRED")

    def make(self, index: int, to_index: int = 0) -> Request:
        """Of the second link's index the words of the request know nothing."""
        parms = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to_index)
        redirect = text(TCA_ACT_KIND, "mirred") + nested(TCA_ACT_OPTIONS, attribute(TCA_MIRRED_PARMS, parms))
        options = nested(TCA_U32_ACT, nested(1, redirect)) + attribute(TCA_U32_SEL, _MATCH_ALL)
        body = self._body(index) + nested(TCA_OPTIONS, options)
        what = (
            f"tc filter add dev {self.link} ingress pref {self.preference} protocol all u32 match u32 0 0 "
            f"action mirred egress redirect dev {self.to}"
        )
        option = "CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED"
        return Request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body, what, option=option)

    def drop(self, index: int) -> Request:
        what = f"tc filter del dev {self.link} ingress pref {self.preference} protocol all u32"
        return Request(RTM_DELTFILTER, 0, self._body(index), what, fine=_NOT_OURS)

    def find(self, nl: Socket, index: int) -> bool:
        """Whether our filter is there, and leads to the link that is called `to` now.

        Or nowhere, where there is no such link any more: it is ours still, and has to be taken away.
        """
        to = links.find(nl, self.to)
        what = f"tc filter show dev {self.link} ingress pref {self.preference} protocol all"
        # Asked as a list, of this link and place: a filter alone can be asked for by its handle only, which the kernel
        # chose.
        found = nl.dump(Request(RTM_GETTFILTER, 0, self._body(index), what, fine=_NOT_OURS))
        return (to.ifindex if to else 0) in [_redirected_to(message) for message in found]

    def _body(self, index: int) -> bytes:
        return _tcmsg(index, 0, _INCOMING, self.preference << 16 | _ALL_PROTOCOLS) + text(TCA_KIND, "u32")


def _qdisc(nl: Socket, index: int, parent: int, what: str) -> tuple[int, dict[int, bytes]]:
    """The handle of one qdisc of a link, and its attributes; none where the link has none there, or is gone.

    Up to Linux 6.6 the answer is sent as news, and to who asked only as their echo; and of a qdisc that every link has
    there is no answer, but an acknowledgement that there is none.
    """
    flags = NLM_F_ECHO | NLM_F_ACK
    message = nl.get(Request(RTM_GETQDISC, flags, _tcmsg(index, 0, parent), what, fine=_NOT_OURS | {0}))
    if not message:
        return 0, {}
    _family, _index, handle, _parent, _info = fixed(_TCMSG, message.body)
    return handle, attributes(message.body, _TCMSG.size)


def _redirected_to(message: Message) -> int:
    """The index of the link that a filter redirects everything to, 0 if that is gone; -1 if it does something else."""
    options = attributes(attributes(message.body, _TCMSG.size).get(TCA_OPTIONS, b""))
    first = attributes(attributes(options.get(TCA_U32_ACT, b"")).get(1, b""))
    if options.get(TCA_U32_SEL, b"")[:32] != _MATCH_ALL or as_text(first.get(TCA_ACT_KIND, b"")) != "mirred":
        return -1
    parms = attributes(first.get(TCA_ACT_OPTIONS, b"")).get(TCA_MIRRED_PARMS, b"")
    _index, _capabilities, _action, _references, _bindings, how, to = fixed(_MIRRED, parms)
    return to if how == TCA_EGRESS_REDIR else -1

"""tc: how fast packets leave a link, and where those that come in go first.

(linux/pkt_sched.h, linux/pkt_cls.h)
"""

from __future__ import annotations

from cni.lean import NamedTuple


class TokenBucket(NamedTuple):
    """A link sends no faster than this (tbf), as its root qdisc."""

    link: str
    rate_bits_per_s: int
    burst_bits: int
    latency_us: int


class IngressQdisc(NamedTuple):
    """The hook for filters on what a link receives."""

    link: str


class Redirect(NamedTuple):
    """Whatever `link` receives leaves by `to` first: an ifb, which sends it back to be received."""

    link: str
    to: str

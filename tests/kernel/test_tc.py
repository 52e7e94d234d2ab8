"""Shaping: made by us and seen by pyroute2 and by tc, found by us again, and gone when dropped, be it twice."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cni.kernel import link
from cni.kernel.netlink import NetlinkError, Socket
from cni.kernel.ports import Ifb
from cni.kernel.tc import IngressQdisc, Redirect, TokenBucket
from tests import namespaces, oracle, session
from tests.oracle import Filter, Qdisc

if TYPE_CHECKING:
    from pathlib import Path

    from cni.kernel.link import Link

MAC = "02:00:00:00:00:0a"
IFB = Ifb("pw0123456789abc", 1400, MAC)
BUCKET = TokenBucket("port0", 10_000_000, 125_000, 25_000, 0x6077)
HOOK = IngressQdisc("port0")
REDIRECT = Redirect("port0", IFB.name, 0x3FFD)

ROOT, CLSACT, INCOMING, OUTGOING = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
OURS, HOOKED = 0x70770000, 0xFFFF0000


def shown(netns: Path, name: str) -> list[dict[str, Any]]:
    """What tc says of a link's queues, without the counters and those that the kernel gives every link."""
    found = json.loads(namespaces.shell(netns, f"tc -s -j qdisc show dev {name}"))
    return [one for one in found if one["handle"] != "0:"]


@pytest.fixture
def ifb(nl: Socket) -> int:
    """The index of `IFB`, made."""
    nl.do(IFB.make())
    return link.need(nl, IFB.name).ifindex


# --- the ifb ----------------------------------------------------------------------------------------


def test_an_ifb_is_made_down_with_its_mac_and_mtu(netns: Path, nl: Socket) -> None:
    nl.do(IFB.make())

    made = oracle.link(netns, IFB.name)
    assert (made.kind, made.mac, made.mtu, made.up) == ("ifb", MAC, 1400, False)
    found = IFB.find(nl)
    assert found is not None
    assert (found.ifindex, found.kind, found.mac, found.mtu, found.up) == (made.index, "ifb", MAC, 1400, False)


def test_an_ifb_may_have_the_kernels_mtu(netns: Path, nl: Socket) -> None:
    nl.do(IFB._replace(mtu=0).make())

    assert oracle.link(netns, IFB.name).mtu == 1500


def test_an_ifb_may_be_dropped_twice(netns: Path, nl: Socket, ifb: int) -> None:
    nl.do(IFB.drop(ifb))
    nl.do(IFB.drop(ifb))

    assert IFB.find(nl) is None
    assert oracle.links(netns) == []


def test_a_name_that_another_link_has_is_an_error(nl: Socket, ifb: int) -> None:
    with pytest.raises(NetlinkError) as caught:
        nl.do(IFB.make())

    assert caught.value.errno == errno.EEXIST


# --- the bucket -------------------------------------------------------------------------------------


def test_a_bucket_is_the_links_root(netns: Path, nl: Socket, port: Link) -> None:
    assert not BUCKET.find(nl, port.ifindex)

    nl.do(BUCKET.make(port.ifindex))

    assert BUCKET.find(nl, port.ifindex)
    (seen,) = oracle.qdiscs(netns)
    # 15,625 bytes at 1,250,000 a second take 12.5 ms, of 64 ns each; and 25 ms more of them are 31,250.
    assert seen == Qdisc("port0", "tbf", OURS, ROOT, 1_250_000, 46_875, 195_312)
    (told,) = shown(netns, "port0")
    assert (told["kind"], told["handle"], told["root"]) == ("tbf", "7077:", True)
    # It computes back what it is told in ticks.
    assert told["options"] == pytest.approx({"rate": 1_250_000, "burst": 15_625, "lat": 25_000}, rel=0.001)


@pytest.mark.parametrize(
    "other",
    [
        BUCKET._replace(rate_bits_per_s=10_000_008),
        BUCKET._replace(burst_bits=125_008),
        BUCKET._replace(burst_bits=124_992),
        BUCKET._replace(latency_us=26_000),
        BUCKET._replace(rate_bits_per_s=40_000_000_000),
        BUCKET._replace(owner=7),
    ],
    ids=str,
)
def test_a_bucket_of_other_numbers_is_another(nl: Socket, port: Link, other: TokenBucket) -> None:
    nl.do(BUCKET.make(port.ifindex))
    assert not other.find(nl, port.ifindex)
    nl.do(BUCKET.drop(port.ifindex), other.make(port.ifindex))

    assert not BUCKET.find(nl, port.ifindex)
    assert other.find(nl, port.ifindex)


RATES = st.integers(0, 45).flatmap(lambda bits: st.integers(1, 1 << bits))
BURSTS = st.integers(4, 36).flatmap(lambda bits: st.integers(8, 1 << bits))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(RATES, BURSTS, st.integers(1, 10_000_000), st.integers(0, (1 << 64) - 1))
@example((1 << 64) - 1, (1 << 64) - 1, 1, 7)
@example(1, 8, 1, 7)
@example(1, (1 << 64) - 1, 10_000_000, 7)
@example(8 * ((1 << 32) - 1), 121_440, 25_000, 7)
@example(8 << 32, 121_440, 25_000, 7)
def test_whatever_is_made_is_found(nl: Socket, port: Link, rate: int, burst: int, latency: int, owner: int) -> None:
    bucket = TokenBucket("port0", rate, burst, latency, owner)

    nl.do(bucket.make(port.ifindex))

    try:
        assert bucket.find(nl, port.ifindex)
    finally:
        nl.do(bucket.drop(port.ifindex))
    assert not bucket.find(nl, port.ifindex)


def test_a_bucket_may_be_dropped_twice(netns: Path, nl: Socket, port: Link) -> None:
    nl.do(BUCKET.make(port.ifindex))

    nl.do(BUCKET.drop(port.ifindex))
    nl.do(BUCKET.drop(port.ifindex))

    assert oracle.qdiscs(netns) == []
    assert not BUCKET.find(nl, port.ifindex)


@pytest.mark.parametrize("handle", ["1:", "7077:"])
def test_a_queue_that_is_there_is_refused_and_kept(netns: Path, nl: Socket, port: Link, handle: str) -> None:
    namespaces.shell(netns, f"tc qdisc add dev port0 root handle {handle} tbf rate 1mbit burst 20000 limit 30000")
    before = oracle.qdiscs(netns)

    with pytest.raises(NetlinkError) as caught:
        nl.do(BUCKET.make(port.ifindex))

    assert caught.value.errno == errno.EEXIST
    assert not BUCKET.find(nl, port.ifindex)
    assert oracle.qdiscs(netns) == before


def test_the_queue_of_somebody_else_is_not_dropped(netns: Path, nl: Socket, port: Link) -> None:
    namespaces.shell(netns, "tc qdisc add dev port0 root handle 1: tbf rate 1mbit burst 20000 limit 30000")

    nl.do(BUCKET.drop(port.ifindex))

    assert [one.handle for one in oracle.qdiscs(netns)] == [0x10000]


@pytest.mark.parametrize(("more", "found"), [("", True), ("peakrate 20mbit mtu 1600", False)])
def test_a_bucket_is_the_wanted_one_when_nothing_about_it_differs(
    netns: Path, nl: Socket, port: Link, more: str, found: bool
) -> None:
    numbers = f"rate 10mbit burst {BUCKET.burst_bytes}b limit {BUCKET.limit_bytes}b {more}"
    namespaces.shell(netns, f"tc qdisc add dev port0 root handle 7077: tbf {numbers}")

    assert BUCKET.find(nl, port.ifindex) == found


def test_another_kind_of_queue_is_no_bucket(netns: Path, nl: Socket, port: Link) -> None:
    namespaces.shell(netns, "tc qdisc add dev port0 root handle 7077: pfifo")

    nl.do(BUCKET.drop(port.ifindex))

    assert not BUCKET.find(nl, port.ifindex)
    assert [one.kind for one in oracle.qdiscs(netns)] == ["pfifo"]


# --- the hook ---------------------------------------------------------------------------------------


def test_a_hook_is_made_once_found_and_dropped_twice(netns: Path, nl: Socket, port: Link) -> None:
    assert not HOOK.find(nl, port.ifindex)

    nl.do(HOOK.make(port.ifindex))
    nl.do(HOOK.make(port.ifindex))

    assert HOOK.find(nl, port.ifindex)
    assert oracle.qdiscs(netns) == [Qdisc("port0", "clsact", HOOKED, CLSACT)]

    nl.do(HOOK.drop(port.ifindex))
    nl.do(HOOK.drop(port.ifindex))

    assert not HOOK.find(nl, port.ifindex)
    assert oracle.qdiscs(netns) == []


def test_a_hook_of_the_older_kind_serves_and_is_kept(netns: Path, nl: Socket, port: Link, ifb: int) -> None:
    namespaces.shell(netns, "tc qdisc add dev port0 ingress")
    before = oracle.qdiscs(netns)

    nl.do(HOOK.make(port.ifindex), REDIRECT.make(port.ifindex, ifb))

    assert HOOK.find(nl, port.ifindex)
    assert REDIRECT.find(nl, port.ifindex)
    nl.do(REDIRECT.drop(port.ifindex), HOOK.drop(port.ifindex))
    assert oracle.qdiscs(netns) == before


@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_a_hook_is_needed_while_somebodys_filter_hangs_on_it(netns: Path, nl: Socket, port: Link, side: str) -> None:
    nl.do(HOOK.make(port.ifindex))
    assert not HOOK.needed(nl, port.ifindex)

    namespaces.shell(netns, f"tc filter add dev port0 {side} pref 7 protocol ip u32 match u32 0 0 flowid 1:1")

    assert HOOK.needed(nl, port.ifindex)


# --- the redirect -----------------------------------------------------------------------------------


def test_a_redirect_takes_everything_that_comes_in(netns: Path, nl: Socket, port: Link, ifb: int) -> None:
    nl.do(HOOK.make(port.ifindex))
    assert not REDIRECT.find(nl, port.ifindex)

    nl.do(REDIRECT.make(port.ifindex, ifb))

    assert REDIRECT.find(nl, port.ifindex)
    assert oracle.filters(netns, "port0", INCOMING) == [Filter("port0", "u32", INCOMING, 65534, IFB.name)]
    told = namespaces.shell(netns, "tc filter show dev port0 ingress")
    assert "protocol all pref 65534 u32" in told
    assert "match 00000000/00000000 at 0" in told
    assert f"mirred (Egress Redirect to device {IFB.name}) stolen" in told


def test_a_redirect_may_be_dropped_twice_and_without_its_hook(netns: Path, nl: Socket, port: Link, ifb: int) -> None:
    nl.do(HOOK.make(port.ifindex), REDIRECT.make(port.ifindex, ifb))

    nl.do(REDIRECT.drop(port.ifindex))
    nl.do(REDIRECT.drop(port.ifindex))

    assert oracle.filters(netns, "port0", INCOMING) == []
    assert not REDIRECT.find(nl, port.ifindex)
    nl.do(HOOK.drop(port.ifindex), REDIRECT.drop(port.ifindex))
    assert not REDIRECT.find(nl, port.ifindex)


def test_a_redirect_to_another_link_is_another(netns: Path, nl: Socket, port: Link, ifb: int) -> None:
    nl.do(HOOK.make(port.ifindex), REDIRECT.make(port.ifindex, port.peer))

    assert not REDIRECT.find(nl, port.ifindex)
    assert Redirect("port0", "eth0", 0x3FFD).find(nl, port.ifindex)


def test_a_redirect_whose_link_is_gone_is_found_to_be_taken_away(netns: Path, nl: Socket, port: Link, ifb: int) -> None:
    nl.do(HOOK.make(port.ifindex), REDIRECT.make(port.ifindex, ifb), IFB.drop(ifb))

    assert REDIRECT.find(nl, port.ifindex)
    nl.do(IFB.make())
    assert not REDIRECT.find(nl, port.ifindex)  # it still leads to the one that is gone


@pytest.mark.parametrize(
    "filter",
    [
        "u32 match u32 0 0 flowid 1:1",
        "u32 match ip dst 10.0.0.1/32 action mirred egress redirect dev {}",
        "u32 match u32 0 0 action mirred egress mirror dev {}",
    ],
)
def test_a_filter_that_does_something_else_is_none_of_ours(
    netns: Path, nl: Socket, port: Link, ifb: int, filter: str
) -> None:
    nl.do(HOOK.make(port.ifindex))
    namespaces.shell(netns, f"tc filter add dev port0 ingress pref 65534 protocol all {filter.format(IFB.name)}")

    assert not REDIRECT.find(nl, port.ifindex)


def test_other_filters_come_first_and_stay(netns: Path, nl: Socket, port: Link, ifb: int) -> None:
    nl.do(HOOK.make(port.ifindex))
    namespaces.shell(netns, "tc filter add dev port0 ingress protocol ip u32 match u32 0 0 flowid 1:1")
    before = oracle.filters(netns, "port0", INCOMING)

    nl.do(REDIRECT.make(port.ifindex, ifb))

    after = oracle.filters(netns, "port0", INCOMING)
    assert [one.preference for one in after] == [before[0].preference, 65534]
    nl.do(REDIRECT.drop(port.ifindex))
    assert oracle.filters(netns, "port0", INCOMING) == before


# --- kernels that lack something --------------------------------------------------------------------


ASKED = {"IFB": Ifb.ask(), "NET_SCH_TBF": TokenBucket.ask(), "NET_SCH_INGRESS": IngressQdisc.ask()}
ASKED |= {"NET_ACT_MIRRED": Redirect.ask()}


NEEDS_ROOT = {"NET_ACT_MIRRED": [pytest.mark.needs("root")]}


@pytest.mark.parametrize("option", [pytest.param(one, marks=NEEDS_ROOT.get(one, ())) for one in ASKED])
def test_a_kernel_can_be_asked_what_it_has_and_nothing_is_made(netns: Path, nl: Socket, option: str) -> None:
    kind = {"IFB": "ifb", "NET_SCH_TBF": "tbf", "NET_SCH_INGRESS": "clsact", "NET_ACT_MIRRED": "mirred"}[option]
    known, unknown = f"{kind}\0".encode(), f"{kind[:-1]}?\0".encode()
    asked = ASKED[option]
    show = "ip -o link; tc qdisc show; tc actions show action mirred"
    before = namespaces.shell(netns, show)

    nl.do(asked)
    with pytest.raises(NetlinkError, match=rf"does this kernel have CONFIG_{option}\?"):
        nl.do(asked._replace(body=asked.body.replace(known, unknown)))

    assert namespaces.shell(netns, show) == before


def test_whoever_is_root_in_a_user_namespace_alone_can_ask_too() -> None:
    """There a filter may be made with its action, but no action by itself."""
    code = """
from cni.kernel import ports, tc
from cni.kernel.netlink import Socket

with Socket() as nl:
    nl.do(*[one.ask() for one in (tc.TokenBucket, ports.Ifb, tc.IngressQdisc, tc.Redirect)])
"""

    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", code],
        cwd=session.TOP, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")


def test_no_kernel_is_asked_for_the_hook_where_an_older_one_would_make_it_and_lo_would_pass_nothing(
    netns: Path, nl: Socket
) -> None:
    """Up to 6.1.32 and 6.3.6 also as the root qdisc. So it is asked for at its place, and refused for its block."""
    asked = IngressQdisc.ask()

    with pytest.raises(NetlinkError, match="block index"):
        nl.do(asked._replace(fine=frozenset()))
    assert asked.body[12:16] == IngressQdisc("lo").make(1).body[12:16]  # tcm_parent


@pytest.mark.parametrize("option", ["IFB", "NET_SCH_TBF", "NET_SCH_INGRESS", "NET_CLS_U32", "NET_ACT_MIRRED"])
def test_what_the_kernel_lacks_is_named(nl: Socket, port: Link, ifb: int, option: str) -> None:
    """It says the same of what it was built without and of what has never been."""
    if option in ("NET_CLS_U32", "NET_ACT_MIRRED"):
        nl.do(HOOK.make(port.ifindex))
    redirect = REDIRECT.make(port.ifindex, ifb)
    request, kind = {
        "IFB": (IFB._replace(name="ifb9").make(), "ifb"),
        "NET_SCH_TBF": (BUCKET.make(port.ifindex), "tbf"),
        "NET_SCH_INGRESS": (HOOK.make(port.ifindex), "clsact"),
        "NET_CLS_U32": (redirect, "u32"),
        "NET_ACT_MIRRED": (redirect, "mirred"),
    }[option]
    known, unknown = f"{kind}\0".encode(), f"{kind[:-1]}?\0".encode()
    assert request.body.count(known) == 1

    with pytest.raises(NetlinkError, match=rf"does this kernel have .*CONFIG_{option}.*\?") as caught:
        nl.do(request._replace(body=request.body.replace(known, unknown)))

    assert str(caught.value).startswith(f"{request.what}: ")

"""What `type: bandwidth` makes of its configuration, and of a pod."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.features.bandwidth import BandwidthFeature
from cni.kernel.ports import Ifb
from cni.kernel.tc import IngressQdisc, Redirect, TokenBucket
from cni.key import Key, hash_of
from cni.spec.errors import CNIError
from cni.spec.netconf import NetConf
from cni.spec.result import Interface
from cni.wanted import Pod, Wanted

KEY = Key("lan", "a", "eth0", "bandwidth")
OWNER = hash_of(KEY.tag)
FRAME_BITS = 8 * 1518


def feature(**keys: object) -> BandwidthFeature:
    conf = NetConf.parse(json.dumps({"cniVersion": "1.1.0", "name": "lan", "type": "bandwidth", **keys}).encode())
    return BandwidthFeature.parse(conf, conf.keys)


def pod(key: Key = KEY, port: str = "port0", mtu: int = 1500) -> Pod:
    return Pod(key, "/run/netns/a", key.ifname, key.tag, "", "", (), (), {}, port, port, mtu)


def wanted(mtu: int = 1500, /, **keys: object) -> Wanted:
    return feature(**keys).wanted(pod(mtu=mtu))


def bucket(**keys: object) -> TokenBucket:
    (only,) = wanted(**keys).node
    assert isinstance(only, TokenBucket)
    return only


# --- the configuration ------------------------------------------------------------------------------

STATIC = {"ingressRate": 1_000_000, "ingressBurst": 200_000, "egressRate": 2_000_000, "egressBurst": 400_000}
TOLD = {"ingressRate": 3_000_000, "ingressBurst": 600_000, "egressRate": 4_000_000, "egressBurst": 800_000}


def test_everything_is_read() -> None:
    assert feature(**STATIC, latencyMs=50) == BandwidthFeature(1_000_000, 200_000, 2_000_000, 400_000, 50_000)


def test_what_the_runtime_says_is_read() -> None:
    asked = feature(runtimeConfig={"bandwidth": TOLD}, latencyMs=50)

    assert asked == BandwidthFeature(3_000_000, 600_000, 4_000_000, 800_000, 50_000)


@pytest.mark.parametrize("key", STATIC)
def test_the_configuration_goes_before_the_runtime_as_a_whole(key: str) -> None:
    rate = {} if key.endswith("Rate") else {key.replace("Burst", "Rate"): 5_000_000}
    static = {key: 500_000, **rate}

    assert feature(**static, runtimeConfig={"bandwidth": TOLD}) == feature(**static)


def test_a_rate_of_0_in_the_configuration_is_no_limit_whatever_the_runtime_says() -> None:
    assert wanted(ingressRate=0, runtimeConfig={"bandwidth": TOLD}) == Wanted()


def test_null_is_not_said() -> None:
    assert feature(ingressRate=None, runtimeConfig={"bandwidth": TOLD}) == feature(runtimeConfig={"bandwidth": TOLD})


def test_the_latency_is_the_references_unless_said() -> None:
    assert bucket(ingressRate=1_000_000, ingressBurst=200_000).latency_us == 25_000
    assert bucket(ingressRate=5_000_000).latency_us == 25_000


def test_a_section_may_be_somewhere_else() -> None:
    conf = NetConf.parse(b'{"cniVersion":"1.1.0","name":"lan","type":"x","bandwidth":{"egressRate":7,"latencyMs":1}}')

    assert BandwidthFeature.parse(conf, conf.keys.section("bandwidth")) == BandwidthFeature(0, 0, 7, 0, 1000)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"ingressRate": -1}, "bandwidth: ingressRate must be a whole number from 0 to 18446744073709551615, got -1"),
        ({"egressRate": "1M"}, 'bandwidth: egressRate must be a whole number, got "1M"'),
        ({"egressRate": 1.5}, "bandwidth: egressRate must be a whole number, got 1.5"),
        ({"ingressRate": 1 << 64}, "ingressRate must be a whole number from 0 to"),
        ({"ingressBurst": 8}, "bandwidth: ingressBurst is set, so ingressRate must be too"),
        ({"egressBurst": 8, "ingressRate": 8}, "bandwidth: egressBurst is set, so egressRate must be too"),
        ({"runtimeConfig": {"bandwidth": {"egressBurst": 8}}}, "runtimeConfig.bandwidth: egressBurst is set"),
        ({"runtimeConfig": {"bandwidth": {"egressRate": True}}}, "runtimeConfig.bandwidth: egressRate must be"),
        ({"runtimeConfig": {"bandwidth": 7}}, "runtimeConfig.bandwidth must be a JSON object, got 7"),
        ({"latencyMs": 0}, "bandwidth: latencyMs must be a whole number from 1 to 10000, got 0"),
        ({"latencyMs": 10_001}, "bandwidth: latencyMs must be a whole number from 1 to 10000, got 10001"),
    ],
)
def test_what_can_not_be_is_refused_and_named(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(CNIError) as caught:
        feature(**keys)

    assert caught.value.code == 7
    assert said in caught.value.msg


# --- the pod ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{}, {"runtimeConfig": {"bandwidth": {}}}, {"egressRate": 0, "egressBurst": 0}])
def test_nothing_asked_for_is_nothing_wanted_of_any_pod(keys: dict[str, Any]) -> None:
    assert feature(**keys).wanted(pod(port="")) == Wanted()


def test_what_a_pod_receives_waits_at_its_port() -> None:
    assert wanted(ingressRate=1_000_000, ingressBurst=200_000) == Wanted(
        node=(TokenBucket("port0", 1_000_000, 200_000, 25_000, OWNER),)
    )


def test_what_a_pod_sends_waits_at_an_ifb_which_the_result_tells_of() -> None:
    ifb = KEY.ifb_tag
    found = wanted(1400, egressRate=1_000_000, egressBurst=200_000)

    mac = found.ifbs[0].mac
    assert found == Wanted(
        ifbs=(Ifb(ifb, 1400, mac),),
        node=(
            TokenBucket(ifb, 1_000_000, 200_000, 25_000, OWNER),
            IngressQdisc("port0"),
            Redirect("port0", ifb, OWNER),
        ),
        interfaces=(Interface(ifb, mac, mtu=1400),),
    )


def test_both_at_once() -> None:
    found = wanted(**STATIC)

    assert [type(one) for one in found.node] == [TokenBucket, TokenBucket, IngressQdisc, Redirect]
    assert [one.link for one in found.node] == ["port0", KEY.ifb_tag, "port0", "port0"]


@given(st.builds(Key, *[st.text(max_size=8)] * 4))
def test_the_mac_of_an_ifb_is_a_hosts_and_local_and_always_the_same(key: Key) -> None:
    first, again = (feature(egressRate=1).wanted(pod(key)).ifbs[0].mac for _ in range(2))

    octets = bytes.fromhex(first.replace(":", ""))
    assert (len(octets), octets[0] & 3) == (6, 2)
    assert again == first


def test_two_attachments_of_a_container_have_two_ifbs() -> None:
    ours = [feature(egressRate=1).wanted(pod(KEY._replace(ifname=ifname))).ifbs[0] for ifname in ("eth0", "net1")]

    assert len({one.name for one in ours}) == len({one.mac for one in ours}) == 2


def test_a_pod_without_an_end_on_the_node_is_refused() -> None:
    with pytest.raises(CNIError) as caught:
        feature(ingressRate=1).wanted(pod(port=""))

    assert caught.value.code == 7
    assert "bandwidth: eth0 is not one end of a veth" in caught.value.msg


# --- the burst --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "burst"),
    [
        (1, 3 * FRAME_BITS),
        (1_000_000, 3 * FRAME_BITS),
        (12_144_000, 121_440),
        (100_000_000, 1_000_000),
        (1_000_000_000, 10_000_000),
    ],
)
@pytest.mark.parametrize("told", [{}, {"ingressBurst": 0}])
def test_a_burst_that_is_not_said_is_some_frames_or_some_milliseconds(
    told: dict[str, int], rate: int, burst: int
) -> None:
    assert bucket(ingressRate=rate, **told).burst_bits == burst


def test_beside_such_a_burst_a_slow_link_may_keep_ten_frames_waiting_unless_it_is_told_how_long() -> None:
    assert bucket(ingressRate=1_000_000).limit_bytes == (10 + 3) * 1518
    assert bucket(ingressRate=1_000_000, latencyMs=25).limit_bytes == 3125 + 3 * 1518


@pytest.mark.parametrize("burst", [(1 << 31) - 1, (1 << 32) - 1, 1 << 35, (1 << 64) - 1])
@pytest.mark.parametrize("rate", [8, 1_000_000, 100_000_000, 1_000_000_000, 6_000_000_000])
def test_a_burst_that_can_not_be_meant_is_one_that_is_not_said(rate: int, burst: int) -> None:
    assert bucket(ingressRate=rate, ingressBurst=burst) == bucket(ingressRate=rate)
    assert bucket(runtimeConfig={"bandwidth": {"ingressRate": rate, "ingressBurst": burst}}) == bucket(ingressRate=rate)


@pytest.mark.parametrize("burst", [1, 8, FRAME_BITS - 1])
def test_a_burst_that_holds_no_frame_is_one_that_is_not_said(burst: int) -> None:
    assert bucket(ingressRate=1_000_000, ingressBurst=burst) == bucket(ingressRate=1_000_000)


@pytest.mark.parametrize("burst", [FRAME_BITS, 1_000_000, 50_000_000])
def test_any_other_burst_is_kept(burst: int) -> None:
    assert bucket(ingressRate=10_000_000, ingressBurst=burst).burst_bits == burst


def test_a_larger_mtu_needs_a_larger_burst() -> None:
    (small,) = wanted(9000, ingressRate=1_000_000, ingressBurst=FRAME_BITS).node
    (unknown,) = wanted(0, ingressRate=1_000_000, ingressBurst=FRAME_BITS).node

    assert small == TokenBucket("port0", 1_000_000, 3 * 8 * 9018, 721_440, OWNER)
    assert unknown == TokenBucket("port0", 1_000_000, FRAME_BITS, 25_000, OWNER)


@given(st.integers(1, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, 65535))
def test_whatever_is_asked_for_a_frame_passes_and_the_rate_holds_soon(rate: int, burst: int, mtu: int) -> None:
    (only,) = wanted(mtu, ingressRate=rate, ingressBurst=burst).node

    assert isinstance(only, TokenBucket)
    frame_bits = 8 * ((mtu or 1500) + 18)
    assert only.rate_bits_per_s == rate
    assert frame_bits <= only.burst_bits <= max(10 * frame_bits, 5 * rate)

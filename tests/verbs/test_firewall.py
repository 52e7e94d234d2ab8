"""`firewall` behind a bridge: who gets packets from whom, and whose packets pass where others would drop them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.verbs.lab import NODE4, NODE6, OUTSIDE4, OUTSIDE6, PATIENCE_S, SILENCE_S, Chain, Lab
from tests.verbs.networks import host_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.calls import InProcess

PORT = 7000


def conflist(data_dir: Path, number: int, *more: dict[str, Any], version: str = "1.0.0", **keys: Any) -> dict[str, Any]:
    """A network of its own bridge and subnets, 10.<number>.0.0/24 and fd00:<number>::/64, and `firewall`."""
    bridge = {
        "type": "bridge",
        "bridge": f"br{number}",
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipam": host_local(data_dir, f"10.{number}.0.0/24", f"fd00:{number}::/64"),
    }
    return {
        "cniVersion": version,
        "name": f"net{number}",
        "plugins": [bridge, *more, {"type": "firewall", **keys}],
    }


class Pod(NamedTuple):
    netns: Path
    v4: str
    v6: str
    result: dict[str, Any]


@pytest.fixture
def attach(make_netns: Callable[[], Path]) -> Callable[..., Pod]:
    """`attach(chain, "a")`: a pod of the chain."""

    def attached(chain: Chain, pod: str, **told: object) -> Pod:
        netns = make_netns()
        result = chain.add(netns, pod, **told)
        v4, v6 = (ip["address"].partition("/")[0] for ip in result["ips"])
        return Pod(netns, v4, v6, result)

    return attached


class Asked(NamedTuple):
    who: str
    netns: Path
    whom: str
    address: str
    expected: bool


def differing(lab: Lab, questions: Iterable[Asked]) -> list[str]:
    """Those whose answers aren't as expected; asked at once, since each that isn't answered takes its time."""

    def ask(one: Asked) -> str:
        timeout = PATIENCE_S if one.expected else SILENCE_S
        heard = lab.ask(one.netns, "tcp", one.address, PORT, timeout=timeout)
        return "" if bool(heard) == one.expected else f"{one.who} → {one.whom} ({one.address}): {heard}"

    with ThreadPoolExecutor(16) as threads:
        return [line for line in threads.map(ask, questions) if line]


# --- isolation ------------------------------------------------------------------------------------------

POLICIES = [
    ("open", "open"),
    ("same-bridge", "open"),
    ("same-bridge", "same-bridge"),
    ("isolated", "open"),
    ("isolated", "same-bridge"),
    ("isolated", "isolated"),
]


@pytest.mark.parametrize("bridge_nf", [False, True], ids=["", "bridge-nf"])
@pytest.mark.parametrize("policies", POLICIES, ids="+".join)
def test_who_reaches_whom(
    lab: Lab,
    in_process: InProcess,
    data_dir: Path,
    attach: Callable[..., Pod],
    policies: tuple[str, str],
    bridge_nf: bool,
) -> None:
    lab.bridge_nf(bridge_nf)
    pods: dict[tuple[int, str], Pod] = {}
    for number, policy in enumerate(policies, 1):
        chain = Chain(lab.node, conflist(data_dir, number, ingressPolicy=policy), in_process)
        for name in ("a", "b"):
            pods[number, name] = attach(chain, f"{name}{number}")
        lab.route_back(f"10.{number}.0.0/24", f"fd00:{number}::/64")
    for netns, names in ((lab.outside, (OUTSIDE4, OUTSIDE6)), (lab.node, (NODE4, NODE6))):
        for address in names:
            lab.serve(netns, "tcp", address, PORT)
    for pod in pods.values():
        lab.serve(pod.netns, "tcp", pod.v4, PORT)
        lab.serve(pod.netns, "tcp", pod.v6, PORT)

    questions = []
    for (number, name), pod in pods.items():
        for (other, its), to in pods.items():
            if to is not pod:
                expected = "open" in policies if number != other else policies[number - 1] != "isolated"
                questions += [
                    Asked(f"{name}{number}", pod.netns, f"{its}{other}", one, expected) for one in (to.v4, to.v6)
                ]
        for netns, who in ((lab.outside, "outside"), (lab.node, "node")):
            questions += [Asked(who, netns, f"{name}{number}", one, True) for one in (pod.v4, pod.v6)]
        questions += [
            Asked(f"{name}{number}", pod.netns, "world", one, True) for one in (NODE4, NODE6, OUTSIDE4, OUTSIDE6)
        ]

    assert differing(lab, questions) == []

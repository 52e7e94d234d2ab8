"""Our own netlink codec beside pyroute2, for what one pod needs.

The decision to have a codec of our own rests on these figures, so they are taken anew with every run: it
can be taken back when pyroute2 gets cheaper. The same messages are made three ways:

- our messages, our sockets;
- pyroute2's message classes, our sockets;
- pyroute2's messages and sockets.

Runs inside a throw-away node (`python -m bench.codec`), and prints JSON.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.launch import Call, time_ns
from cni.cli import throwaway
from cni.kernel import inet, link, netlink
from cni.kernel.netns import Netns
from cni.kernel.ports import Bridge, LinkUp, Veth
from ipam.address import Address, Interface, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

S = TypeVar("S")
_BRIDGE = Bridge("cni0", "02:00:00:00:00:01", 0)
_GATEWAY = Address.parse("10.1.0.1")
_ADDRESS = Interface.parse("10.1.0.2/16")
_VETH = Veth("pw0123456789abc", "02:00:00:00:00:02", "eth0", "02:00:00:00:00:03", 1500, "cni0")


@dataclass(frozen=True, slots=True)
class Codec:
    """Medians."""

    encode_own_us: float
    encode_pyroute2_us: float
    setup_own_ms: float
    setup_pyroute2_messages_ms: float
    setup_pyroute2_ms: float
    import_own_ms: float
    import_pyroute2_ms: float


def measure(rounds: int) -> Codec:
    """From outside, in a node of its own."""
    command = [*throwaway.command(), sys.executable, "-m", "bench.codec", str(rounds)]
    done = subprocess.run(command, env=throwaway.environment(), stdout=subprocess.PIPE, check=True)
    return Codec(**json.loads(done.stdout))


# --- the messages -----------------------------------------------------------------------------------


def own_on_node(pod: int, bridge: int) -> bytes:
    """The pair; the pod's end in the namespace open as `pod`."""
    return netlink.frame(_VETH.make(pod, bridge), 1, netlink.NLM_F_ACK)


def own_in_pod(index: int) -> bytes:
    """All that is in the pod, in one datagram."""
    requests = (
        inet.LinkAddress("eth0", _ADDRESS).make(index),
        LinkUp("eth0").make(index),
        inet.LinkRoute("eth0", Network.parse("0.0.0.0/0"), _GATEWAY).make(index),
    )
    return b"".join(netlink.frame(request, n, netlink.NLM_F_ACK) for n, request in enumerate(requests, 1))


def pyroute2_on_node(pod: int, bridge: int) -> bytes:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    peer = {
        "attrs": [
            ("IFLA_IFNAME", _VETH.peer),
            ("IFLA_ADDRESS", _VETH.peer_mac),
            ("IFLA_NET_NS_FD", pod),
            ("IFLA_MTU", _VETH.mtu),
        ]
    }
    data = {"attrs": [("VETH_INFO_PEER", peer)]}
    attributes = [
        ("IFLA_IFNAME", _VETH.name),
        ("IFLA_ADDRESS", _VETH.mac),
        ("IFLA_MTU", _VETH.mtu),
        ("IFLA_MASTER", bridge),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}),
    ]
    made = {"flags": link.IFF_UP, "change": link.IFF_UP, "attrs": attributes}
    return _encode(ifinfmsg, link.RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, 1, made)


def pyroute2_in_pod(index: int) -> bytes:
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    ip = str(_ADDRESS.address)
    address = {
        "family": 2,
        "prefixlen": _ADDRESS.length,
        "index": index,
        "attrs": [
            ("IFA_LOCAL", ip),
            ("IFA_ADDRESS", ip),
            ("IFA_BROADCAST", str(_ADDRESS.network.last)),
            ("IFA_FLAGS", inet.IFA_F_PERMANENT),
        ],
    }
    up = {"index": index, "flags": link.IFF_UP, "change": link.IFF_UP}
    route = {
        "family": 2,
        "table": 254,
        "proto": 4,
        "type": 1,
        "attrs": [("RTA_GATEWAY", str(_GATEWAY)), ("RTA_OIF", index), ("RTA_TABLE", 254)],
    }
    new = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    return b"".join(
        (
            _encode(ifaddrmsg, inet.RTM_NEWADDR, new, 1, address),
            _encode(ifinfmsg, link.RTM_SETLINK, 0, 2, up),
            _encode(rtmsg, inet.RTM_NEWROUTE, new, 3, route),
        )
    )


def _encode(kind: Callable[[], Any], type_: int, flags: int, sequence: int, value: Mapping[str, object]) -> bytes:
    message = kind()
    message.update(value)
    flags |= netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
    message["header"].update(type=type_, flags=flags, sequence_number=sequence)
    message.encode()
    return bytes(message.data)


# --- the set-ups ------------------------------------------------------------------------------------


def _open_in(pod: Netns, kind: Callable[[], S]) -> S:
    """A socket of the pod's namespace: it belongs there wherever we go afterwards, so we return at once."""
    with Netns() as home, pod.inside(home):
        return kind()


def set_up(pod: Netns, on_node: Callable[[int, int], bytes], in_pod: Callable[[int], bytes]) -> None:
    """With our sockets."""
    with netlink.Socket() as node, _open_in(pod, netlink.Socket) as there:
        _exchange(node, on_node(pod.fd, link.need(node, "cni0").ifindex), 1)
        _exchange(there, in_pod(link.need(there, "eth0").ifindex), 3)


def _exchange(socket: netlink.Socket, datagram: bytes, answers: int) -> None:
    os.write(socket.fileno(), datagram)
    while answers:
        for message in netlink.messages(socket.receive()):
            if message.type != netlink.NLMSG_ERROR:
                continue
            code, hint = netlink.refusal(message)
            if code:
                raise netlink.NetlinkError(code, "codec bench", hint)
            answers -= 1


def set_up_pyroute2(pod: Netns) -> None:
    from pyroute2 import IPRoute

    # IPRoute(netns=...) starts a process to open the socket, which would cost 10 ms more (pyroute2 0.9).
    with IPRoute() as node, _open_in(pod, IPRoute) as there:
        (bridge,) = node.link_lookup(ifname="cni0")
        peer = {"ifname": _VETH.peer, "address": _VETH.peer_mac, "net_ns_fd": pod.fd, "mtu": _VETH.mtu}
        pair = {"ifname": _VETH.name, "address": _VETH.mac, "mtu": _VETH.mtu, "peer": peer}
        node.link("add", kind="veth", master=bridge, state="up", **pair)
        (index,) = there.link_lookup(ifname="eth0")
        there.addr("add", index=index, address=str(_ADDRESS.address), prefixlen=_ADDRESS.length)
        there.link("set", index=index, state="up")
        there.route("add", dst="0.0.0.0/0", gateway=str(_GATEWAY))


# --- measuring --------------------------------------------------------------------------------------


def _time_ns(action: Callable[[], object]) -> int:
    started_ns = time.perf_counter_ns()
    action()
    return time.perf_counter_ns() - started_ns


def _encoding_us(rounds: int, *ways: Callable[[], object]) -> list[float]:
    taken: list[list[int]] = [[] for _ in ways]
    for _ in range(rounds * 20):
        for way, times in zip(ways, taken):
            times.append(_time_ns(way))
    return [statistics.median(times) / 1e3 for times in taken]


def _set_up_ms(rounds: int, *ways: Callable[[], object]) -> list[float]:
    taken: list[list[int]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, times in zip(ways, taken):
            times.append(_time_ns(way))
            with netlink.Socket() as node:
                made = link.need(node, _VETH.name)
                node.do(link.drop(made.ifindex, made.name))
    # The first of each pays for what is done once: compiled structs, caches.
    return [statistics.median(times[1:]) / 1e6 for times in taken]


def _import_ms(rounds: int, modules: str, flags: str) -> float:
    """What a new process pays, beyond the interpreter's own start with the same flags."""
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r}); " if "S" in flags else ""
    environ = {"PATH": throwaway.PATH}
    taken: dict[str, list[int]] = {"pass": [], f"{path}import {modules}": []}
    for _ in range(rounds):
        for source, times in taken.items():
            times.append(time_ns(Call((sys.executable, flags, "-c", source), environ, b"")))
    without, with_it = (statistics.median(times) / 1e6 for times in taken.values())
    return with_it - without


def main(argv: Sequence[str]) -> int:
    rounds = int(argv[0])
    import_own_ms = _import_ms(rounds, "cni.kernel.netlink, cni.kernel.link, cni.kernel.ports, cni.kernel.inet", "-IS")
    import_pyroute2_ms = _import_ms(max(3, rounds // 10), "pyroute2", "-I")
    throwaway.furnish()
    pod = Netns(str(throwaway.make_netns("codec")))
    with netlink.Socket() as node:
        node.do(_BRIDGE.make())
        node.do(LinkUp("cni0").make(link.need(node, "cni0").ifindex))
    gc.collect()
    gc.disable()
    encode_own_us, encode_pyroute2_us = _encoding_us(
        rounds,
        lambda: (own_on_node(3, 2), own_in_pod(2)),
        lambda: (pyroute2_on_node(3, 2), pyroute2_in_pod(2)),
    )
    own, messages, all_pyroute2 = _set_up_ms(
        max(3, rounds // 4),
        lambda: set_up(pod, own_on_node, own_in_pod),
        lambda: set_up(pod, pyroute2_on_node, pyroute2_in_pod),
        lambda: set_up_pyroute2(pod),
    )
    found = Codec(
        encode_own_us=encode_own_us,
        encode_pyroute2_us=encode_pyroute2_us,
        setup_own_ms=own,
        setup_pyroute2_messages_ms=messages,
        setup_pyroute2_ms=all_pyroute2,
        import_own_ms=import_own_ms,
        import_pyroute2_ms=import_pyroute2_ms,
    )
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

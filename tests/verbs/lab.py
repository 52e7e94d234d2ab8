"""A node between its pods and the world outside: where packets are sent and the answer tells what became of them.

`Lab` joins an outside host to a node. Pods come from whatever plugin a test calls; `chain` runs several of them as a
runtime does. Servers answer every request with what they saw of it (`Heard`), so that a test says

    lab.serve(pod, "tcp", "0.0.0.0", 80, "pod a")
    assert lab.ask(lab.outside, "tcp", NODE4, 8080) == Heard("pod a", peer=OUTSIDE4, ...)

and an answer that doesn't come is None, within a bounded time. One thread answers for all servers of a lab; a socket
belongs to the namespace it was opened in, so nothing else has to be inside. Nothing here imports `cni`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

from tests import namespaces
from tests.verbs.networks import host_local

if TYPE_CHECKING:
    from tests.calls import Caller, Outcome

UPLINK = "up0"
"""The node's link to the outside."""

NODE4, NODE6 = "10.99.0.1", "fd99::1"
"""The node's addresses on it."""

OUTSIDE4, OUTSIDE6 = "10.99.0.2", "fd99::2"
"""The outside host's. It knows no way to any pod, so what it answers went there under the node's address."""

FAR4, FAR6 = "192.0.2.1", "2001:db8::1"
"""Of the outside host, in no subnet of the node's: somewhere in the internet, where its default routes lead."""

PATIENCE_S = 5.0
"""How long an answer may take that is sure to come: a busy machine is no failure."""

SILENCE_S = 0.3
"""How long to wait for an answer that must not come. Without an answer nothing says that there won't be one."""

AT_ONCE_S = 0.9
"""How long an answer may take if no packet was lost: TCP sends its first one again after a second."""

IPPROTO_SCTP = 132  # linux/in.h

NO_ANSWER = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT,
             errno.EPERM, errno.EACCES)  # fmt: skip
"""What a socket says when it gets no answer. EPERM: a rule dropped the packet where it began."""


class Heard(NamedTuple):
    """One request as a server saw it."""

    server: str
    """Its name."""
    peer: str
    """Where the request came from."""
    peer_port: int
    address: str
    """Where it arrived: one of the server's own addresses."""
    port: int


class Server:
    """A socket that answers. `heard` lists every request in order, answered or not."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.socket = sock
        self.heard: list[Heard] = []

    def hears(self, sock: socket.socket, peer: tuple[Any, ...]) -> bytes:
        """Notes a request that came by `sock`; returns the answer to it."""
        local = sock.getsockname()
        heard = Heard(self.name, _plain(peer[0]), peer[1], _plain(local[0]), local[1])
        self.heard.append(heard)
        return json.dumps(heard).encode() + b"\n"


class Answering(threading.Thread):
    """Answers for any number of servers, wherever their sockets are, until it is closed."""

    def __init__(self) -> None:
        super().__init__(name="answering", daemon=True)
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def add(self, server: Server) -> None:
        server.socket.setblocking(False)
        # epoll takes a new socket while another thread waits; the lock is for the selector's own books.
        with self._lock:
            self._selector.register(server.socket, selectors.EVENT_READ, server)

    def remove(self, server: Server) -> None:
        """The server ends, and its connections with it. What arrives from now on is refused."""
        with self._lock:
            for key in list(self._selector.get_map().values()):
                if key.data is server:
                    self._selector.unregister(key.fileobj)
                    _socket_of(key).close()

    def close(self) -> None:
        """Raises what ended the thread, if something did."""
        self._wake.close()
        self.join(PATIENCE_S)
        for key in list(self._selector.get_map().values()):
            _socket_of(key).close()
        self._selector.close()
        if self._failure:
            raise self._failure

    def run(self) -> None:
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is self._woken:
                        return
                    with self._lock:
                        if _socket_of(key).fileno() >= 0:  # else `remove` was faster
                            self._serve(_socket_of(key), key.data)
        except BaseException as error:  # noqa: BLE001  # raised by `close`, in the test's thread
            self._failure = error

    def _serve(self, sock: socket.socket, server: Server) -> None:
        try:
            if sock.type == socket.SOCK_DGRAM:
                _, peer = sock.recvfrom(1 << 16)
                answer = server.hears(sock, peer)
                sock.sendto(answer, peer)
            elif sock is server.socket:
                connection, _ = sock.accept()
                connection.setblocking(False)
                self._selector.register(connection, selectors.EVENT_READ, server)
            elif sock.recv(1 << 16):
                sock.send(server.hears(sock, sock.getpeername()))
            else:
                self._forget(sock)
        except OSError:  # the asker gave up, or there is no way back to it
            if sock is not server.socket:
                self._forget(sock)

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()


class Client:
    """A socket that asks, always from the same address and port: to conntrack, one flow for each that it asks."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def ask(self, address: str, port: int, timeout: float = PATIENCE_S) -> Heard | None:
        """Of a TCP client `address` and `port` must be the same each time."""
        try:
            if self.socket.type == socket.SOCK_DGRAM:
                self._forget()
            self.socket.settimeout(timeout)
            if self._peer() != (address, port):
                self.socket.connect((address, port))  # of UDP too: only then are we told of a refusal
            self.socket.send(b"?\n")
            answer = self.socket.recv(1 << 16)
        except TimeoutError:
            return None
        except OSError as error:
            if error.errno not in NO_ANSWER:
                raise
            return None
        return Heard(*json.loads(answer)) if answer else None

    def _peer(self) -> tuple[str, int] | None:
        try:
            host, port, *_ = self.socket.getpeername()
        except OSError:
            return None
        return host, port

    def _forget(self) -> None:
        """What came too late of earlier answers and refusals would be taken for those of the next question."""
        self.socket.setblocking(False)
        while True:
            try:
                self.socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                pass


class Flow(NamedTuple):
    """One entry of conntrack: the packet that began it, and the answer that it waits for."""

    protocol: str
    source: str
    target: str
    source_port: int
    target_port: int
    reply_source: str
    reply_target: str
    reply_source_port: int
    reply_target_port: int


class Lab:
    """The node, the outside host, and what is served. A context manager; leaving it ends all servers and clients."""

    def __init__(self, node: Path, outside: Path) -> None:
        """Joins the two. The node's default routes lead outside; the outside host knows its neighbour and no more."""
        self.node = node
        self.outside = outside
        self._answering = Answering()
        self._open = contextlib.ExitStack()
        namespaces.lo_up(outside)
        # No duplicate address detection: an address that is still being tried answers nobody.
        namespaces.shell(node, f"ip link add {UPLINK} type veth peer name eth0 netns {outside}")
        namespaces.shell(
            outside,
            f"ip address add {OUTSIDE4}/24 dev eth0; ip -6 address add {OUTSIDE6}/64 dev eth0 nodad;"
            f"ip link set eth0 up; ip address add {FAR4}/32 dev lo; ip -6 address add {FAR6}/128 dev lo nodad",
        )
        namespaces.shell(
            node,
            f"ip address add {NODE4}/24 dev {UPLINK}; ip -6 address add {NODE6}/64 dev {UPLINK} nodad;"
            f"ip link set {UPLINK} up; ip route add default via {OUTSIDE4}; ip -6 route add default via {OUTSIDE6}",
        )
        # IPv6 hears nobody's multicast until the kernel's watch over carriers has come by, a moment after both are up.
        for netns, link in ((node, UPLINK), (outside, "eth0")):
            namespaces.shell(netns, f"until ip -6 route show table local dev {link} | grep -q ff00::/8; do :; done")

    def __enter__(self) -> Self:
        self._answering.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._answering.close()

    # --- packets ------------------------------------------------------------------------------------

    def serve(self, netns: Path | None, protocol: str, address: str, port: int, name: str = "") -> Server:
        """A server in `netns` until the lab ends, or `end`. `protocol` is tcp, udp or sctp.

        Over UDP an answer comes from the address that the way back has, which on a host with several may be another
        than was asked: give that one as `address`, not 0.0.0.0.
        """
        sock = self._socket(netns, protocol, address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol != "udp":
            sock.listen(256)
        server = Server(name or str(netns), sock)
        self._answering.add(server)
        return server

    def end(self, server: Server) -> None:
        """What asks it from now on is refused, and its port is free."""
        self._answering.remove(server)

    def ask(
        self,
        netns: Path | None,
        protocol: str,
        address: str,
        port: int,
        *,
        source: str | None = None,
        timeout: float = PATIENCE_S,
    ) -> Heard | None:
        """What the server at `address` saw of one request from `netns`; None when none answers.

        `timeout`: `SILENCE_S` where no answer is expected, `AT_ONCE_S` where no packet may be lost.
        """
        with self._socket(netns, protocol, address) as sock:
            if source:
                sock.bind((source, 0))
            return Client(sock).ask(address, port, timeout)

    def client(self, netns: Path | None, protocol: str, source: str, port: int = 0) -> Client:
        """One that asks from `source` ("0.0.0.0", "::" for any), and from one port only, until the lab ends."""
        sock = self._open.enter_context(self._socket(netns, protocol, source))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((source, port))
        return Client(sock)

    def udp_client(self, netns: Path | None, source: str = "0.0.0.0", port: int = 0) -> Client:
        """What keeps its flow, and so the pod that it went to first: the classic of stale conntrack entries."""
        return self.client(netns, "udp", source, port)

    def _socket(self, netns: Path | None, protocol: str, address: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kinds = {
            "tcp": (socket.SOCK_STREAM, 0),
            "udp": (socket.SOCK_DGRAM, 0),
            "sctp": (socket.SOCK_STREAM, IPPROTO_SCTP),
        }
        try:
            sock = namespaces.inside(netns, lambda: socket.socket(family, *kinds[protocol]))
        except OSError as error:
            if error.errno != errno.EPROTONOSUPPORT:
                raise
            pytest.skip(f"lacks: {protocol.upper()} in the kernel")
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return sock

    # --- the node and the world ---------------------------------------------------------------------

    def route_back(self, *subnets: str) -> None:
        """The outside host learns that the way to these is the node: pods are seen there under their own addresses."""
        for subnet in subnets:
            via = NODE6 if ":" in subnet else NODE4
            namespaces.shell(self.outside, f"ip route add {subnet} via {via}")

    def bridge_nf(self, on: bool, netns: Path | None = None) -> None:
        """Whether bridged packets of the node pass its IP firewall too, as kube-proxy's documentation demands.

        The kernel's own setting is 1 in a new namespace, where it has br_netfilter at all; without, 0 is what it does.
        """

        def write() -> None:
            for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
                Path("/proc/sys/net/bridge", name).write_text(f"{on:d}\n")

        try:
            namespaces.inside(netns or self.node, write)
        except OSError as error:
            if on or error.errno != errno.ENOENT:
                pytest.skip(f"lacks: net.bridge.bridge-nf-call-iptables ({error.strerror})")

    def nft(self, text: str, netns: Path | None = None) -> None:
        """Loads nft text on the node, as one transaction."""
        self._run(netns, "nft", "-f", "-", given=text)

    def ruleset(self, netns: Path | None = None) -> list[tuple[str, dict[str, Any]]]:
        """All of nftables on the node, iptables-nft's included: ("rule", {"family": "inet", "table": …}), …"""
        objects = json.loads(self._run(netns, "nft", "-j", "list", "ruleset"))["nftables"]
        return [(kind, value) for one in objects for kind, value in one.items() if kind != "metainfo"]

    def rules(self, netns: Path | None = None) -> int:
        """How many rules there are in all tables of the node."""
        return sum(kind == "rule" for kind, _ in self.ruleset(netns))

    def elements(self, netns: Path | None = None) -> dict[str, int]:
        """How many elements each set and map of the node has: {"inet podwire pods4": 2}, the empty ones left out."""
        counts = {
            f"{value['family']} {value['table']} {value['name']}": len(value.get("elem", ()))
            for kind, value in self.ruleset(netns)
            if kind in ("set", "map")
        }
        return {name: count for name, count in counts.items() if count}

    def flows(self, netns: Path | None = None) -> list[Flow]:
        """What conntrack knows on the node, of either family."""
        lines = [
            line
            for family in ("ipv4", "ipv6")
            for line in self._run(netns, "conntrack", "-L", "-f", family).splitlines()
        ]
        return [flow for flow in map(_flow, lines) if flow]

    def _run(self, netns: Path | None, *command: str, given: str = "") -> str:
        where = netns or self.node
        done = subprocess.run(
            ["nsenter", f"--net={where}", *command],
            input=given, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}\n{given}"
        return done.stdout


def _plain(address: str) -> str:
    return address.partition("%")[0]


def _socket_of(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj


def _flow(line: str) -> Flow | None:
    found = re.findall(r"\b(src|dst|sport|dport)=(\S+)", line)
    sides = [value for key, value in found if key in ("src", "dst")], [value for key, value in found if "port" in key]
    if len(sides[0]) != 4 or len(sides[1]) != 4:
        return None  # of a protocol without ports
    (source, target, reply_source, reply_target), ports = sides[0], [int(port) for port in sides[1]]
    return Flow(line.split()[0], source, target, ports[0], ports[1], reply_source, reply_target, ports[2], ports[3])


# --- chains -------------------------------------------------------------------------------------------


def kubernetes(data_dir: Path, *subnets: str, version: str = "1.0.0") -> dict[str, Any]:
    """The reference's usual conflist on a Kubernetes node; `firewall` only where it speaks the version.

    Told of `portMappings` and `bandwidth` by the runtime.
    """
    plugins: list[dict[str, Any]] = [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": host_local(data_dir, *subnets),
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "firewall"},
        {
            "type": "tuning",
            "capabilities": {"mac": True},
            "sysctl": {"net.core.somaxconn": "77"},
            "dataDir": str(data_dir.with_name("tuning")),
        },
    ]
    if version == "0.3.1":
        plugins = [plugin for plugin in plugins if plugin["type"] != "firewall"]
    return {"cniVersion": version, "name": "pods", "plugins": plugins}


class Attached(NamedTuple):
    """What a runtime remembers of an ADD."""

    netns: Path
    result: dict[str, Any]
    """Empty when the ADD failed."""
    told: Mapping[str, object]
    """By capability."""


class Chain:
    """A conflist on a node, run as libcni runs it: prevResult passed along and kept, capabilities told to who asks.

    `caller` calls the plugins, ours in this process, ours by exec or the reference's; those of some types can be given
    another: `Chain(node, conflist, in_process, portmap=reference)`. `add` and `delete` are for what must succeed,
    `attach` and `detach` tell what came of it. `pod` names a pod: its container ID.
    """

    def __init__(self, node: Path, conflist: Mapping[str, Any], caller: Caller, **others: Caller) -> None:
        self.node = node
        self.conflist = conflist
        self._caller = caller
        self._others = others
        self.attached: dict[str, Attached] = {}

    @property
    def plugins(self) -> list[dict[str, Any]]:
        return list(self.conflist["plugins"])

    def attach(self, netns: Path, pod: str = "a", ifname: str = "eth0", **told: object) -> Outcome:
        """ADD by each plugin in order, until one fails: the last outcome. `told` is by capability: `portMappings=[…]`.

        It cleans nothing up: that is for the runtime's DEL (`detach`), as the specification has it.
        """
        self.attached[pod] = Attached(netns, {}, told)

        def outcomes() -> Iterator[Outcome]:
            result: dict[str, Any] = {}
            for plugin in self.plugins:
                outcome = self._call("ADD", plugin, netns, pod, ifname, told, result)
                yield outcome
                result = outcome.result
            self.attached[pod] = Attached(netns, result, told)

        return _first_failure(outcomes())

    def add(self, netns: Path, pod: str = "a", ifname: str = "eth0", **told: object) -> dict[str, Any]:
        return self.attach(netns, pod, ifname, **told).result

    def check(self, pod: str = "a", ifname: str = "eth0", *, but: Sequence[str] = ()) -> Outcome:
        """CHECK by each plugin in order, until one fails; not by those of a type in `but`."""
        netns, result, told = self.attached[pod]
        asked = [plugin for plugin in self.plugins if plugin["type"] not in but]
        return _first_failure(self._call("CHECK", plugin, netns, pod, ifname, told, result) for plugin in asked)

    def detach(
        self, pod: str = "a", ifname: str = "eth0", *, netns: bool = True, told: bool = True, prev: bool = True
    ) -> list[Outcome]:
        """DEL by each plugin in reverse, all of them. Without what the runtime has lost, or forgot, each False."""
        attached = self.attached.pop(pod, None)
        return [
            self._call(
                "DEL",
                plugin,
                attached.netns if attached and netns else None,
                pod,
                ifname,
                attached.told if attached and told else {},
                attached.result if attached and prev and self._tells_del else {},
            )
            for plugin in reversed(self.plugins)
        ]

    def delete(self, pod: str = "a", ifname: str = "eth0", **lost: bool) -> None:
        """A `detach` in which all succeed."""
        for outcome in self.detach(pod, ifname, **lost):
            assert (outcome.code, outcome.stdout) == (0, b""), outcome

    def collect(self, *valid: tuple[str, str]) -> list[Outcome]:
        """GC by each plugin, which leaves these (pod, interface name)."""
        attachments = [{"containerID": pod, "ifname": ifname} for pod, ifname in valid]
        more = {"cni.dev/valid-attachments": attachments}
        return [self._call("GC", {**plugin, **more}, None, "", "", {}, {}) for plugin in self.plugins]

    def status(self) -> Outcome:
        """STATUS by each plugin in order, until one fails."""
        return _first_failure(self._call("STATUS", plugin, None, "", "", {}, {}) for plugin in self.plugins)

    @property
    def _tells_del(self) -> bool:
        """Whether DEL is given the result: since version 0.4.0."""
        return tuple(map(int, self.conflist["cniVersion"].split("."))) >= (0, 4, 0)

    def _call(
        self,
        command: str,
        plugin: Mapping[str, Any],
        netns: Path | None,
        pod: str,
        ifname: str,
        told: Mapping[str, object],
        result: Mapping[str, Any],
    ) -> Outcome:
        asked = plugin.get("capabilities", {})
        runtime = {key: value for key, value in told.items() if asked.get(key)}
        config = {
            **plugin,  # with its `capabilities`: the specification wants them removed, libcni leaves them
            **{key: self.conflist[key] for key in ("cniVersion", "name")},
            **({"runtimeConfig": runtime} if runtime else {}),
            **({"prevResult": result} if result else {}),
        }
        kind = plugin["type"]
        return self._others.get(kind, self._caller)(
            kind, command, config, container_id=pod, netns=netns, ifname=ifname, node=self.node
        )


def _first_failure(outcomes: Iterable[Outcome]) -> Outcome:
    """The last one where there is none. Asks for no more of them after a failure."""
    last = None
    for last in outcomes:
        if last.code:
            break
    assert last, "a chain without plugins"
    return last

"""tuning: what a pod's network is like beyond its addresses: sysctls, and the MAC, MTU and queue of its link.

What happens to a pod: settings below /proc/sys/net are written in its namespace, and its link, which an earlier member
of the chain made, gets what is asked for while it is in use. All of it is put back when the attachment goes: how it
was is noted before it is changed, in the attachment's record and not, as the reference does, in a file under `dataDir`.

Everything below /proc/sys/net that a pod's namespace lets be written is the namespace's own. Nothing else can be asked
for, and an administrator may allow less (`cni.allowlist`).
"""

from __future__ import annotations

from cni import pods
from cni.kernel.linksettings import LinkSettings, PortMtu
from cni.kernel.sysctl import Sysctl
from cni.lean import NamedTuple
from cni.spec.errors import INVALID_CONFIG, CNIError, shown
from cni.spec.result import Interface
from cni.wanted import Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Self

    from cni.spec.netconf import NetConf
    from cni.spec.section import Section
    from cni.wanted import Pod

_IFNAME: Final = "IFNAME"
"""Stands for the pod's interface in the name of a sysctl."""
_LARGEST_QUEUE: Final = 0xFFFFFFFF
_SWAPPED: Final = str.maketrans("./", "/.")


class TuningFeature(NamedTuple):
    """The configuration of `type: tuning`; what is "", 0 or None is left as it is, and so is promisc when false."""

    sysctls: tuple[Sysctl, ...] = ()
    """In their paths, IFNAME stands for the pod's interface."""
    mac: str = ""
    mtu: int = 0
    promisc: bool = False
    allmulti: bool | None = None
    txqlen: int | None = None

    @classmethod
    def parse(cls, conf: NetConf, args: Mapping[str, str]) -> Self:
        """`args.cni` overrides what the configuration says. Raises CNIError 7, or 4 for CNI_ARGS."""
        keys = conf.keys
        keys.text("dataDir")  # we keep our state in the record, but it must be the name of a folder

        def who(key: str) -> Section:
            return conf.args if conf.args.has(key) else keys

        return cls(
            sysctls=cls.parse_sysctls(conf),
            mac=_mac(conf, args),
            mtu=who("mtu").integer("mtu", least=0, most=pods.LARGEST_MTU),
            promisc=who("promisc").flag("promisc"),
            allmulti=who("allmulti").flag("allmulti") if who("allmulti").has("allmulti") else None,
            txqlen=who("txQLen").integer("txQLen", least=0, most=_LARGEST_QUEUE)
            if who("txQLen").has("txQLen")
            else None,
        )

    @staticmethod
    def parse_sysctls(conf: NetConf) -> tuple[Sysctl, ...]:
        """Under `sysctl`, those of `args.cni` instead of the same ones of the configuration. Raises CNIError 7."""
        return tuple({**_sysctls(conf.keys), **_sysctls(conf.args)}.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sysctls, as sysctl(8) has them and with IFNAME as it was written."""
        return tuple([one.path.translate(_SWAPPED) for one in self.sysctls])

    def wanted(self, pod: Pod) -> Wanted:
        if self.mtu:
            pods.require_mtu(self.mtu, pods.versions_of(pod.ips), " of tuning, or take the IPv6 ranges out of ipam")
        link = LinkSettings(pod.ifname, self.mac, self.mtu or None, self.promisc or None, self.allmulti, self.txqlen)
        touched = link != LinkSettings(pod.ifname)
        amended = []
        if self.mac or self.mtu:
            amended.append(Interface(pod.ifname, self.mac, pod.netns, mtu=self.mtu))
        ports = self._port(pod)
        return Wanted(
            amends=(*self._settings(pod), *([link] if touched else [])),
            node=ports,
            amended=(*amended, *[Interface(port.link, mtu=port.mtu) for port in ports]),
        )

    def _settings(self, pod: Pod) -> tuple[Sysctl, ...]:
        """Of the pod. Raises CNIError for one that is there twice, once by IFNAME and once by that name."""
        found: dict[str, Sysctl] = {}
        for one in self.sysctls:
            path = one.path.replace(_IFNAME, pod.ifname)
            if path in found:
                raise _twice(path)
            found[path] = Sysctl(path, one.value)
        if self.mac:
            # The node may just have been told of the MAC before, and would keep to it for half a minute.
            for version in pods.versions_of(pod.ips):
                path = _ANNOUNCED[version].format(pod.ifname)
                found.setdefault(path, Sysctl(path, "1"))
        return tuple(found.values())

    def _port(self, pod: Pod) -> tuple[PortMtu, ...]:
        """The node's end of the pod's veth gets the MTU too. A bridge's port, only if that is more: the bridge has the
        least of its ports', so that all other pods would feel it."""
        if not (self.mtu and pod.port) or self.mtu == pod.mtu:
            return ()
        if pod.iif != pod.port and self.mtu < pod.mtu:
            return ()
        return (PortMtu(pod.port, self.mtu, pod.mtu),)


_ANNOUNCED: Final = {4: "net/ipv4/conf/{}/arp_notify", 6: "net/ipv6/conf/{}/ndisc_notify"}
"""What has the kernel tell the neighbours of another MAC, at once."""


def _sysctls(keys: Section) -> dict[str, Sysctl]:
    """By path, with IFNAME in it. Raises CNIError 7 for names that can't be, or are one and the same.

    As with sysctl(8), the first separator of a name says how it is to be read: net.ipv4.conf.eth0/1.arp_notify and
    net/ipv4/conf/eth0.1/arp_notify are one.
    """
    section = keys.section("sysctl")
    found: dict[str, Sysctl] = {}
    for name in section.unknown(()):
        path = _path(name)
        if not path:
            raise CNIError(
                INVALID_CONFIG,
                f"{section.where}: {shown(name)} is not the name of a network sysctl",
                "a pod has those below net to itself, as in net.ipv4.conf.IFNAME.arp_filter; no others can be set",
            )
        if path in found:
            raise _twice(path)
        found[path] = Sysctl(path, section.text(name))
    return found


def _path(name: str) -> str:
    """Below /proc/sys; "" for what can't be one, or isn't the network's."""
    dot, slash = name.find("."), name.find("/")
    path = name.translate(_SWAPPED) if dot >= 0 and (slash < 0 or dot < slash) else name
    parts = path.split("/")
    if parts[0] != "net" or len(parts) < 2 or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        return ""
    try:
        path.encode()
    except UnicodeEncodeError:
        return ""
    return path


def _twice(path: str) -> CNIError:
    return CNIError(
        INVALID_CONFIG,
        f"sysctl {path.translate(_SWAPPED)} is given twice",
        "dots and slashes separate alike, and IFNAME is the pod's interface: keep one of the two",
    )


def _mac(conf: NetConf, args: Mapping[str, str]) -> str:
    """The MAC asked for: args.cni before runtimeConfig before CNI_ARGS before the configuration."""
    if conf.args.has("mac"):
        return pods.mac_in(conf.args)
    return pods.mac_in(conf.runtime_config) or pods.mac_in_args(args) or pods.mac_in(conf.keys)

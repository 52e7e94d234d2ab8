"""What an attachment came to: interfaces, addresses, routes and DNS, in every version of the protocol.

In memory there is one form, that of version 1.1.0; `to_object` writes and `parsing` reads any of the seven
(specification, section 5, "Result types"). Older versions can say less, and lose what they can't say:

    0.1.0, 0.2.0    one address of each family, its routes beside it, no interfaces
    0.3.0 - 0.4.0   `version` beside each address; of an interface only name, mac, sandbox
    1.0.0, 1.1.0    everything

1.1.0 brought `mtu`, `socketPath`, `pciID` and the attributes of routes; like the reference we write them
in 1.0.0 too (those of routes from 0.3.0 on), since readers skip what they don't know and a chained plugin
may need them. Order is kept: the first address is the one that runtimes show.
"""

from __future__ import annotations

from cni.lean import NamedTuple, dumps
from cni.spec import versions
from cni.spec.errors import INVALID_CONFIG, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ipam.address import Address, Network
    from ipam.address import Interface as Prefixed

OLDEST: Final = ("0.1.0", "0.2.0")
"""One address of each family, and no list of anything."""
WITH_VERSION: Final = ("0.3.0", "0.3.1", "0.4.0")
"""Each address says of which family it is."""


class Interface(NamedTuple):
    """One interface that was made; `sandbox` is the netns it is in, "" for the node's."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""

    def to_object(self, version: str) -> dict[str, Any]:
        told: dict[str, Any] = {"name": self.name, "mac": self.mac, "sandbox": self.sandbox}
        if version not in WITH_VERSION:
            told.update(mtu=self.mtu, socketPath=self.socket_path, pciID=self.pci_id)
        return {key: value for key, value in told.items() if value or key == "name"}


class IPConfig(NamedTuple):
    """One address; `interface` is an index into the result's interfaces."""

    address: Prefixed
    gateway: Address | None = None
    interface: int | None = None

    def to_object(self, version: str) -> dict[str, Any]:
        told: dict[str, Any] = {"address": str(self.address)}
        if version in WITH_VERSION:
            told["version"] = str(self.address.address.version)
        if self.interface is not None:
            told["interface"] = self.interface
        if self.gateway is not None:
            told["gateway"] = str(self.gateway)
        return told


class Route(NamedTuple):
    """One route in the container. 0 is "not said" but for table and scope, where it means something."""

    dst: Network
    gw: Address | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None

    def to_object(self, version: str) -> dict[str, Any]:
        told: dict[str, Any] = {"dst": str(self.dst)}
        if self.gw is not None:
            told["gw"] = str(self.gw)
        if version in OLDEST:
            return told
        for key, value in (("mtu", self.mtu), ("advmss", self.advmss), ("priority", self.priority)):
            if value:
                told[key] = value
        if self.table is not None:
            told["table"] = self.table
        if self.scope is not None:
            told["scope"] = self.scope
        return told


class DNS(NamedTuple):
    """What a runtime may write into resolv.conf(5); names of servers are text, as the specification has it."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.nameservers or self.domain or self.search or self.options)

    def to_object(self) -> dict[str, Any]:
        told = {
            "nameservers": list(self.nameservers),
            "domain": self.domain,
            "search": list(self.search),
            "options": list(self.options),
        }
        return {key: value for key, value in told.items() if value}


class Result(NamedTuple):
    """The outcome of an ADD."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: DNS = DNS()

    def to_object(self, version: str) -> dict[str, Any]:
        """The result as JSON values in one of the supported versions.

        CNIError 7 if that version can't hold it: 0.1.0 and 0.2.0 need an address.
        """
        versions.require_supported(version)
        told: dict[str, Any] = {"cniVersion": version}
        if version in OLDEST:
            told.update(self._families(version))
        else:
            # An empty list says nothing, so it isn't written.
            if self.interfaces:
                told["interfaces"] = [one.to_object(version) for one in self.interfaces]
            if self.ips:
                told["ips"] = [one.to_object(version) for one in self.ips]
            if self.routes:
                told["routes"] = [one.to_object(version) for one in self.routes]
        if not self.dns.empty:
            told["dns"] = self.dns.to_object()
        return told

    def to_json(self, version: str) -> str:
        """`to_object` as one line for stdout."""
        return dumps(self.to_object(version))

    def _families(self, version: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for key, family in (("ip4", 4), ("ip6", 6)):
            first = next((ip for ip in self.ips if ip.address.address.version == family), None)
            if first is None:
                continue
            told[key] = {"ip": str(first.address)}
            if first.gateway is not None:
                told[key]["gateway"] = str(first.gateway)
            routes = [route.to_object(version) for route in self.routes if route.dst.version == family]
            if routes:
                told[key]["routes"] = routes
        if not told:
            raise CNIError(
                INVALID_CONFIG,
                "cannot convert: no valid IP addresses",
                f"a result without addresses can't be told in CNI {version}; set cniVersion to 0.3.0 or later",
            )
        return told

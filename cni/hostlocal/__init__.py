"""host-local: addresses from ranges in the configuration, reservations in a directory of this node.

The same keys, order and error texts as the reference's plugin, and its directory, so that either may
follow the other on a live node. What we do beyond it: an ADD that is repeated gets the same addresses,
several addresses are reserved all or none, CHECK compares, GC and STATUS exist, and DEL needs nothing of the
configuration but where the directory is. What was reserved in an earlier boot, or for an attachment that is gone
for certain, is taken back when the first or the last address is asked for.

Here is the protocol's side: configuration in (`plan`), `ipam`'s types out, and the verbs over them (`upkeep` has those
that no pod waits for). As a plugin of its own this runs through `executable`; for a main plugin of ours, in its
process, through `cni.addresses`. What only one verb needs is imported by that verb: each is a process of ten
milliseconds.
"""

from __future__ import annotations

from errno import ENOENT, ENOTDIR

from cni.key import Delegation
from cni.lean import JSONError, loads
from cni.spec.errors import CNIError
from cni.spec.section import Section
from ipam import releasing
from ipam.store import Busy, Directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Final, NoReturn, Self

    from cni.key import Key
    from cni.spec.netconf import NetConf
    from cni.spec.result import Result

    Departed = Callable[[str], Collection[tuple[str, str]]]
    """The attachments of a network that are gone for certain: (container ID, interface name)."""

DATA_DIR: Final = "/var/lib/cni/networks"
"""The reference's, whose reservations we may have to take over."""


def data_dir_of(ipam: Section, default: str = "") -> str:
    """Where the reservations of all networks are."""
    return ipam.text("dataDir") or default or DATA_DIR


class HostLocal:
    """An attachment's addresses, from ranges: `cni.wanted.Addresses` in this process."""

    def __init__(
        self,
        delegation: Delegation,
        data_dir: str,
        conf: NetConf | None = None,
        boot: str = "",
        departed: Departed | None = None,
    ) -> None:
        self.delegation = delegation
        self._data_dir = data_dir
        self._conf = conf
        self._boot = boot
        self._departed = departed

    @classmethod
    def of(cls, conf: NetConf, args: str, boot: str = "", departed: Departed | None = None, data_dir: str = "") -> Self:
        """For the verb that came with this configuration. Ranges aren't looked at before they are needed."""
        delegation = Delegation("host-local", conf.raw.decode(), args)
        return cls(delegation, data_dir_of(conf.ipam, data_dir), conf, boot, departed)

    @classmethod
    def reopened(cls, delegation: Delegation, boot: str = "", data_dir: str = "") -> Self:
        """For releasing what an earlier ADD reserved, with nothing of its configuration but the directory."""
        try:
            ipam = Section.of(loads(delegation.config), "config").section("ipam")
            return cls(delegation, data_dir_of(ipam, data_dir), boot=boot)
        except (JSONError, CNIError):
            return cls(delegation, data_dir or DATA_DIR, boot=boot)

    def require(self) -> None:
        """It is here."""

    def acquire(self, key: Key, netns: str) -> Result:
        """One address from each range set; the same ones when the attachment holds some already."""
        from cni.hostlocal.plan import Plan, read_resolv_conf
        from cni.spec.result import DNS, IPConfig, Result
        from ipam.allocator import AllocationError, allocate

        plan = Plan.parse(self._config(), self.delegation.args)
        dns = read_resolv_conf(plan.resolv_conf) if plan.resolv_conf else DNS()
        owner = owner_of(key.container_id, key.ifname)
        directory = Directory(self._data_dir, key.network, boot=self._boot, about=_about(self.delegation.args))
        try:
            with directory as reservations:
                leases = allocate(reservations, owner, plan.sets, plan.requested, lambda: self._gone(key.network))
        except (AllocationError, Busy, OSError) as error:
            _refuse(error, directory)
        return Result(ips=tuple([IPConfig(one.address, one.gateway) for one in leases]), routes=plan.routes, dns=dns)

    def release(self, key: Key, netns: str) -> None:
        """Gives back all that the attachment holds; nothing, and no directory, is fine."""
        directory = self._as_it_is(key.network)
        try:
            with directory as reservations:
                if not releasing.release(reservations, owner_of(key.container_id, key.ifname)):
                    # Long ago the reference wrote the container alone.
                    releasing.release(reservations, key.container_id)
                # Where nobody calls GC, an ADD that was killed has nobody but its DEL to clear up after it.
                reservations.sweep()
        except (Busy, OSError) as error:
            if not never_used(error):
                _refuse(error, directory)

    def check(self, key: Key, netns: str, prev: Result | None) -> None:
        """Every address of our ranges that the result names is reserved for the attachment, one of each set."""
        from cni.hostlocal import upkeep

        upkeep.check(self._as_it_is(key.network), key, self._config, prev)

    def status(self) -> None:
        """Whether an ADD could reserve: a readable configuration, and a directory that can be written.

        A full range makes no node unable to serve those that it has, and a NotReady would move them away: it counts
        only where the configuration says so.
        """
        from cni.hostlocal import upkeep

        conf = self._config()
        when_full = conf.ipam.flag("statusWhenFull")
        sets = upkeep.require_usable(Directory(self._data_dir, conf.name), conf)
        if when_full:
            upkeep.require_room(self._as_it_is(conf.name), sets, lambda: self._gone(conf.name))

    def gc(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        """Gives back what belongs to no attachment in `valid`, whoever reserved it."""
        from cni.hostlocal import upkeep

        upkeep.gc(self._as_it_is(network), valid)

    def _as_it_is(self, network: str) -> Directory:
        """The directory, where there is one: none is made."""
        return Directory(self._data_dir, network, create=False, boot=self._boot)

    def _gone(self, network: str) -> frozenset[str]:
        return frozenset([owner_of(*one) for one in self._departed(network)]) if self._departed else frozenset()

    def _config(self) -> NetConf:
        from cni.spec.netconf import NetConf

        return self._conf or NetConf.parse(self.delegation.config.encode())


def owner_of(container_id: str, ifname: str) -> str:
    """How a claim's file names an attachment."""
    return f"{container_id}\r\n{ifname}"


def _about(args: str) -> str:
    """The pod, as `namespace/name`, of a runtime that says so in CNI_ARGS; "" of others."""
    said = dict([pair.partition("=")[::2] for pair in args.split(";")])
    parts = [said.get(key, "") for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME")]
    return "_".join("/".join([part for part in parts if part]).split())


def never_used(error: Exception) -> bool:
    """Whether it says that there is no directory, so no reservation either."""
    return isinstance(error, OSError) and error.errno in (ENOENT, ENOTDIR)


def _refuse(error: Exception, directory: Directory) -> NoReturn:
    from cni.hostlocal import refusals

    raise refusals.told(error, directory) from error

"""host-local: addresses from ranges in the configuration, reservations in a directory of this node.

The same keys, order and error texts as the reference's plugin, and its directory, so that either may
follow the other on a live node. What we do beyond it: an ADD that is repeated gets the same addresses,
several addresses are reserved all or none, CHECK compares, GC and STATUS exist, and DEL needs nothing of the
configuration but where the directory is. What was reserved in an earlier boot, or for an attachment that is gone
for certain, is taken back when the first or the last address is asked for.

Which errors say "try again" (11)? A requested address that somebody else holds, because its owner is
expected to leave (a pod that moves with its address comes back before its old self is gone), and a lock
that was held for long. A full range does not (ADDRESSES_EXHAUSTED): nothing but more room or fewer pods will
clear it, which is what a person should read, and runtimes come back after any error.

Here is the protocol's side: configuration in, `ipam`'s types out, and the verbs over them. As a plugin of
its own this runs through `run`; for a main plugin of ours, in its process, through `cni.addresses`.
"""

from __future__ import annotations

from errno import ENOENT, ENOTDIR

from cni.lean import JSONError, NamedTuple, loads, posix
from cni.spec.errors import (
    ADDRESSES_EXHAUSTED,
    CHECK_FAILED,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    NOT_AVAILABLE,
    STATE_UNUSABLE,
    TRY_AGAIN_LATER,
    CNIError,
    config_error,
)
from cni.spec.netconf import NetConf
from cni.spec.request import parse_args
from cni.spec.result import DNS, IPConfig, Result, Route
from cni.spec.section import Section
from cni.wanted import Delegation, Key
from ipam.allocator import AllocationError, Exhausted, Taken, allocate, collect, release
from ipam.ranges import Range, RangeSet, address, exclusion, require_disjoint
from ipam.store import Busy, Directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Final, Self

    from cni.spec.request import Request
    from ipam.address import Address, Network

    Departed = Callable[[str], Collection[tuple[str, str]]]
    """The attachments of a network that are gone for certain: (container ID, interface name)."""

DATA_DIR: Final = "/var/lib/cni/networks"
"""The reference's, whose reservations we may have to take over."""

# MAC is the main plugin's, which hears the same CNI_ARGS.
_ARGS: Final = frozenset(("IP", "MAC"))
_ONE_PER_FAMILY: Final = ("0.1.0", "0.2.0")
_RESOLV_CONF_BYTES: Final = 1 << 20


class Plan(NamedTuple):
    """What an ADD is to give."""

    sets: tuple[RangeSet, ...]
    """One address from each."""
    requested: tuple[Address, ...]
    routes: tuple[Route, ...]
    resolv_conf: str
    """A file to take the DNS settings from; "" for none."""

    @classmethod
    def parse(cls, conf: NetConf, args: str) -> Self:
        """Raises CNIError."""
        sets = parse_sets(conf)
        if not sets:
            raise CNIError(
                INVALID_CONFIG,
                "no IP ranges specified",
                f'{conf.ipam.where} needs "ranges", as in [[{{"subnet": "10.1.0.0/16"}}]]',
            )
        return cls(
            sets,
            _requested(conf, args),
            tuple([Route.parse(one) for one in conf.ipam.sections("routes")]),
            conf.ipam.text("resolvConf"),
        )


def parse_sets(conf: NetConf) -> tuple[RangeSet, ...]:
    """The range sets: the runtime's, then the one that old configurations spell without a list, then `ranges`."""
    found = [*_nested(conf.runtime_config, "ipRanges")]
    if conf.ipam.has("subnet"):
        found.append([conf.ipam])
    found += _nested(conf.ipam, "ranges")
    excluded = _excluded(conf.ipam)
    try:
        sets = tuple([_range_set(i, one, conf.ipam, excluded) for i, one in enumerate(found)])
        require_disjoint(sets)
    except ValueError as error:
        raise CNIError(INVALID_CONFIG, str(error), f"correct the ranges in {conf.ipam.where}") from None
    if conf.cni_version in _ONE_PER_FAMILY:
        versions = [one.version for one in sets]
        if len(versions) != len(set(versions)):
            raise CNIError(
                INVALID_CONFIG,
                f"CNI version {conf.cni_version} does not support more than 1 address per family",
                "set cniVersion to 0.3.0 or later, or remove ranges",
            )
    return sets


def data_dir_of(ipam: Section) -> str:
    """Where the reservations of all networks are."""
    return ipam.text("dataDir") or DATA_DIR


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
    def of(cls, conf: NetConf, args: str, boot: str = "", departed: Departed | None = None) -> Self:
        """For the verb that came with this configuration. Ranges aren't looked at before they are needed."""
        return cls(Delegation("host-local", conf.raw.decode(), args), data_dir_of(conf.ipam), conf, boot, departed)

    @classmethod
    def reopened(cls, delegation: Delegation, boot: str = "") -> Self:
        """For releasing what an earlier ADD reserved, with nothing of its configuration but the directory."""
        try:
            ipam = Section.of(loads(delegation.config), "config").section("ipam")
            return cls(delegation, data_dir_of(ipam), boot=boot)
        except (JSONError, CNIError):
            return cls(delegation, DATA_DIR, boot=boot)

    def acquire(self, key: Key, netns: str) -> Result:
        """One address from each range set; the same ones when the attachment holds some already."""
        plan = Plan.parse(self._config(), self.delegation.args)
        dns = _read_resolv_conf(plan.resolv_conf) if plan.resolv_conf else DNS()
        owner = owner_of(key.container_id, key.ifname)
        directory = Directory(self._data_dir, key.network, boot=self._boot, about=_about(self.delegation.args))
        try:
            with directory as reservations:
                leases = allocate(reservations, owner, plan.sets, plan.requested, lambda: self._gone(key.network))
        except (AllocationError, Busy, OSError) as error:
            raise _told(error, directory) from error
        return Result(ips=tuple([IPConfig(one.address, one.gateway) for one in leases]), routes=plan.routes, dns=dns)

    def release(self, key: Key, netns: str) -> None:
        """Gives back all that the attachment holds; nothing, and no directory, is fine."""
        directory = Directory(self._data_dir, key.network, create=False, boot=self._boot)
        try:
            with directory as reservations:
                if not release(reservations, owner_of(key.container_id, key.ifname)):
                    # Long ago the reference wrote the container alone.
                    release(reservations, key.container_id)
                # Where nobody calls GC, an ADD that was killed has nobody but its DEL to clear up after it.
                reservations.sweep()
        except (Busy, OSError) as error:
            if not _never_used(error):
                raise _told(error, directory) from error

    def check(self, key: Key, netns: str, prev: Result | None) -> None:
        """Every address of our ranges that the result names is reserved for the attachment, one of each set."""
        directory = Directory(self._data_dir, key.network, create=False, boot=self._boot)
        try:
            held = _held(directory, key)
            if not held:
                raise CNIError(
                    CHECK_FAILED,
                    f"host-local: Failed to find address added by container {key.container_id}",
                    f"no file in {directory.path} names {key.container_id} {key.ifname}; delete and recreate the pod",
                )
            if prev is None:
                return
            told = [ip.address.address for ip in prev.ips]
            for index, ranges in enumerate(parse_sets(self._config())):
                ours = [one for one in told if ranges.range_of(one)]
                if not ours:
                    raise _mismatch(f"prevResult has no address of range set {index} ({ranges})", held)
                for one in ours:
                    if one not in held:
                        holder = directory.owner_of(one)
                        whose = "nobody" if holder is None else " ".join(holder.split()) or "an unknown owner"
                        raise _mismatch(
                            f"{one} is not reserved for container {key.container_id} {key.ifname} but for {whose}", held
                        )
        except (Busy, OSError) as error:
            raise _told(error, directory) from error

    def status(self) -> None:
        """Whether an ADD could reserve: a readable configuration, and a directory that can be written.

        A full range makes no node unable to serve those that it has, and a NotReady would move them away: it counts
        only where the configuration says so.
        """
        conf = self._config()
        when_full = conf.ipam.flag("statusWhenFull")
        sets = parse_sets(conf)
        # STATUS isn't told what the runtime will say at ADD, so ranges that come from there can't be missed here.
        if not sets and "ipRanges" not in conf.capabilities:
            Plan.parse(conf, "")
        directory = Directory(self._data_dir, conf.name)
        try:
            directory.require_usable(len(sets))
        except OSError as error:
            raise _unusable(error, directory, NOT_AVAILABLE) from error
        if when_full:
            self._require_room(conf.name, sets)

    def _require_room(self, network: str, sets: Sequence[RangeSet]) -> None:
        from ipam import census

        directory = Directory(self._data_dir, network, create=False, boot=self._boot)
        try:
            with directory as reservations:
                full = census.full(reservations, sets, lambda: self._gone(network))
        except Busy:
            return  # somebody is being served
        except OSError as error:
            if _never_used(error):
                return
            raise _unusable(error, directory, NOT_AVAILABLE) from error
        if full:
            raise CNIError(
                NOT_AVAILABLE,
                f"no IP addresses available in range set: {', '.join([str(one.ranges) for one in full])}",
                "; ".join(map(str, full)),
            )

    def gc(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        """Gives back what belongs to no attachment in `valid`, whoever reserved it."""
        containers = frozenset([container_id for container_id, _ in valid])

        def living(owner: str) -> bool:
            parts = tuple(owner.split())
            return parts in valid if len(parts) != 1 else parts[0] in containers

        directory = Directory(self._data_dir, network, create=False, boot=self._boot)
        try:
            with directory as reservations:
                reservations.look()
                collect(reservations, living)
                reservations.sweep()
                reservations.sweep_stamps()
        except (Busy, OSError) as error:
            if not _never_used(error):
                raise _told(error, directory) from error

    def _gone(self, network: str) -> frozenset[str]:
        return frozenset([owner_of(*one) for one in self._departed(network)]) if self._departed else frozenset()

    def _config(self) -> NetConf:
        return self._conf or NetConf.parse(self.delegation.config.encode())


def run(command: str, conf: NetConf, request: Request, boot: str = "") -> Result | None:
    """One verb of the host-local executable, in this boot. Only ADD has a result, and that names no interfaces."""
    if command in ("ADD", "CHECK", "STATUS") and not conf.keys.has("ipam"):
        raise CNIError(INVALID_CONFIG, "IPAM config missing 'ipam' key", 'the configuration needs an object "ipam"')
    addresses = HostLocal.of(conf, request.args, boot)
    key = Key(conf.name, request.container_id, request.ifname, "host-local")
    if command == "ADD":
        return addresses.acquire(key, request.netns)
    if command == "DEL":
        addresses.release(key, request.netns)
    elif command == "CHECK":
        addresses.check(key, request.netns, conf.prev_result)
    elif command == "STATUS":
        addresses.status()
    elif command == "GC" and conf.valid_attachments is not None:
        addresses.gc(conf.name, conf.valid_attachments)
    return None


def owner_of(container_id: str, ifname: str) -> str:
    """How a claim's file names an attachment."""
    return f"{container_id}\r\n{ifname}"


def _held(directory: Directory, key: Key) -> list[Address]:
    try:
        with directory as reservations:
            # Long ago the reference wrote the container alone.
            return reservations.held_by(owner_of(key.container_id, key.ifname)) or reservations.held_by(
                key.container_id
            )
    except OSError as error:
        if _never_used(error):
            return []
        raise


# --- configuration ------------------------------------------------------------------------------------


def _nested(keys: Section, key: str) -> list[list[Section]]:
    """A list of lists of objects."""
    outer = keys.raw(key)
    if outer is None:
        return []
    if not isinstance(outer, list) or not all(isinstance(inner, list) for inner in outer):
        raise keys.error(key, 'a list of lists of ranges, as in [[{"subnet": "10.1.0.0/16"}]]')
    return [
        [Section.of(one, f"{keys.where}.{key}[{i}][{j}]") for j, one in enumerate(inner)]
        for i, inner in enumerate(outer)
    ]


def _range_set(index: int, sections: Sequence[Section], ipam: Section, excluded: Sequence[Network]) -> RangeSet:
    try:
        return RangeSet.of([_range(keys, ipam).without(excluded) for keys in sections])
    except ValueError as error:
        raise ValueError(f"invalid range set {index}: {error}") from None


def _range(keys: Section, ipam: Section) -> Range:
    if not keys.has("subnet"):
        raise ValueError("a range has no subnet")
    found = Range.parse(keys.text("subnet"), keys.text("rangeStart"), keys.text("rangeEnd"), keys.text("gateway"))
    if keys is ipam:
        return found  # what is excluded there goes for all ranges
    excluded = _excluded(keys)
    for one in excluded:
        # Of another network: likelier a slip than a way of saying nothing.
        if not one.overlaps(found.network):
            raise ValueError(f"excluded {one} not in network {found.network}")
    return found.without(excluded)


def _excluded(keys: Section) -> list[Network]:
    found = []
    for i, text in enumerate(keys.texts("exclude")):
        try:
            found.append(exclusion(text))
        except ValueError as error:
            need = f"an IP address or a network in CIDR notation ({error})"
            raise config_error(keys.where, f"exclude[{i}]", text, need) from None
    return found


def _about(args: str) -> str:
    """The pod, as `namespace/name`, of a runtime that says so in CNI_ARGS; "" of others."""
    said = dict([pair.partition("=")[::2] for pair in args.split(";")])
    parts = [said.get(key, "") for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME")]
    return "_".join("/".join([part for part in parts if part]).split())


def _requested(conf: NetConf, args: str) -> tuple[Address, ...]:
    """From CNI_ARGS, from the network's `args`, from the runtime: all of them count."""
    found = []
    text = parse_args(args, _ARGS).get("IP")
    if text is not None:
        try:
            found.append(address(text.partition("/")[0]))
        except ValueError:
            raise CNIError(
                INVALID_ENVIRONMENT,
                f'ARGS: error parsing value of pair "IP={text}": invalid IP address {text}',
                "correct IP in CNI_ARGS",
            ) from None
    for keys in (conf.args, conf.runtime_config):
        for i, text in enumerate(keys.texts("ips")):
            try:
                found.append(address(text.partition("/")[0]))
            except ValueError:
                raise config_error(keys.where, f"ips[{i}]", text, "an IP address") from None
    return tuple(found)


def _read_resolv_conf(path: str) -> DNS:
    """The settings that resolv.conf(5) has and a result can tell."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
        try:
            data = posix.read(descriptor, _RESOLV_CONF_BYTES)
        finally:
            posix.close(descriptor)
    except OSError as error:
        raise CNIError(
            IO_FAILURE, f"open {path}: {error.strerror}", 'correct "resolvConf" in the configuration'
        ) from error
    nameservers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    domain = ""
    for line in data.decode("utf-8", "replace").splitlines():
        key, *values = line.split() or [""]
        if not values or key[0] in "#;":
            continue
        if key == "nameserver":
            nameservers.append(values[0])
        elif key == "domain":
            domain = values[0]
        elif key == "search":
            search += values
        elif key == "options":
            options += values
    return DNS(tuple(nameservers), domain, tuple(search), tuple(options))


# --- errors -------------------------------------------------------------------------------------------


def _told(error: Exception, directory: Directory) -> CNIError:
    """What went wrong in `ipam`, in the protocol's terms."""
    if isinstance(error, Exhausted):
        return CNIError(
            ADDRESSES_EXHAUSTED,
            str(error),
            f"each has a file in {directory.path} that names its owner; delete pods, let GC release what is gone, "
            "or give the network more ranges",
        )
    if isinstance(error, Taken):
        holder = " ".join(error.owner.split()) or "an unknown owner"
        return CNIError(
            TRY_AGAIN_LATER, str(error), f"{directory.path}/{error.address} belongs to {holder} until its DEL"
        )
    if isinstance(error, AllocationError):
        return CNIError(
            INVALID_CONFIG, str(error), "request addresses that lie in the network's ranges, one of each set"
        )
    if isinstance(error, Busy):
        return CNIError(TRY_AGAIN_LATER, f"host-local: {error}", "see which process holds it: fuser on that file")
    assert isinstance(error, OSError)
    return _unusable(error, directory, STATE_UNUSABLE)


def _unusable(error: OSError, directory: Directory, code: int) -> CNIError:
    file = error.filename.decode("utf-8", "replace") if isinstance(error.filename, bytes) else error.filename
    return CNIError(
        code,
        f"host-local: cannot keep reservations in {directory.path}: {error.strerror}",
        f'{file}: {error.strerror} (errno {error.errno}); "dataDir" in ipam moves them elsewhere' if file else "",
    )


def _never_used(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (ENOENT, ENOTDIR)


def _mismatch(what: str, held: Sequence[Address]) -> CNIError:
    return CNIError(CHECK_FAILED, f"host-local: {what}", f"reserved for it: {', '.join(map(str, held))}")

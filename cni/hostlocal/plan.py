"""What a configuration asks host-local for: ranges, requested addresses, routes, DNS settings."""

from __future__ import annotations

from cni.lean import NamedTuple, posix
from cni.spec import fields
from cni.spec.errors import INVALID_CONFIG, INVALID_ENVIRONMENT, IO_FAILURE, CNIError, config_error
from cni.spec.request import parse_args
from cni.spec.section import Section
from ipam.ranges import Range, RangeSet, address, exclusion, require_disjoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, Self

    from cni.spec.netconf import NetConf
    from cni.spec.result import DNS, Route
    from ipam.address import Address, Network

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
            tuple([fields.route(one) for one in conf.ipam.sections("routes")]),
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


def _requested(conf: NetConf, args: str) -> tuple[Address, ...]:
    """From CNI_ARGS, from the network's `args`, from the runtime: all of them count."""
    found = []
    text = parse_args(args).get("IP")
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


def read_resolv_conf(path: str) -> DNS:
    """The settings that resolv.conf(5) has and a result can tell."""
    from cni.spec.result import DNS

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

"""Results that others wrote, read: a chain's prevResult, a delegate's answer. In any version of the protocol.

Unknown keys are skipped. Raises CNIError 7 for what has another form than its version gives it.
"""

from __future__ import annotations

from cni.spec import versions
from cni.spec.errors import INCOMPATIBLE_VERSION, CNIError, config_error, shown
from cni.spec.result import DNS, OLDEST, WITH_VERSION, Interface, IPConfig, Result, Route
from cni.spec.section import Section
from ipam.address import Address
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_U32: Final = (1 << 32) - 1


def result(value: object, version: str, where: str = "result") -> Result:
    """From a JSON value, read by its own cniVersion, else by `version`.

    CNIError 1 for a version that we don't speak, 6 for what is no version.
    """
    keys = Section.of(value, where)
    version = keys.text("cniVersion") or version
    versions.parse(version)
    if version not in versions.SUPPORTED:
        raise CNIError(
            INCOMPATIBLE_VERSION,
            f"{where}: unsupported CNI result version {shown(version)}",
            f"supported are {', '.join(versions.SUPPORTED)}",
        )
    if version in OLDEST:
        return _oldest(keys)
    return Result(
        tuple([_interface(one) for one in keys.sections("interfaces")]),
        tuple([_ip(one, version) for one in keys.sections("ips")]),
        tuple([route(one) for one in keys.sections("routes")]),
        dns(keys.section("dns")),
    )


def route(keys: Section) -> Route:
    return Route(
        # Host bits are dropped, not refused: the reference lets them pass, and for IPv6 so does the kernel.
        _prefixed(keys, "dst").network,
        _address(keys, "gw"),
        keys.integer("mtu", least=0, most=_U32),
        keys.integer("advmss", least=0, most=_U32),
        keys.integer("priority", least=0, most=_U32),
        _optional(keys, "table", _U32),
        _optional(keys, "scope", 255),
    )


def dns(keys: Section) -> DNS:
    return DNS(keys.texts("nameservers"), keys.text("domain"), keys.texts("search"), keys.texts("options"))


def _interface(keys: Section) -> Interface:
    return Interface(
        keys.text("name"),
        keys.text("mac"),
        keys.text("sandbox"),
        keys.integer("mtu", least=0, most=_U32),
        keys.text("socketPath"),
        keys.text("pciID"),
    )


def _ip(keys: Section, version: str) -> IPConfig:
    address = _prefixed(keys, "address")
    # Absent is tolerated, though the specification requires it: the reference's loopback leaves it out (1.1.1).
    if version in WITH_VERSION and keys.text("version") not in ("", str(address.address.version)):
        raise keys.error("version", f'"{address.address.version}", the version of {address}')
    return IPConfig(address, _address(keys, "gateway"), _optional(keys, "interface", _U32))


def _oldest(keys: Section) -> Result:
    ips = []
    routes = []
    for key, family in (("ip4", 4), ("ip6", 6)):
        if keys.has(key):
            one = keys.section(key)
            address = _prefixed(one, "ip")
            if address.address.version != family:
                raise one.error("ip", f"an IPv{family} address")
            ips.append(IPConfig(address, _address(one, "gateway")))
            routes += [route(each) for each in one.sections("routes")]
    return Result((), tuple(ips), tuple(routes), dns(keys.section("dns")))


def _prefixed(keys: Section, key: str) -> Prefixed:
    text = keys.text(key)
    try:
        return Prefixed.parse(text)
    except ValueError:
        raise keys.error(key, "an address with its prefix length, as in 10.1.0.5/16") from None


def _address(keys: Section, key: str) -> Address | None:
    text = keys.text(key)
    if not text:
        return None
    try:
        return Address.parse(text)
    except ValueError:
        raise config_error(keys.where, key, text, "an IP address") from None


def _optional(keys: Section, key: str, most: int) -> int | None:
    return keys.integer(key, least=0, most=most) if keys.has(key) else None

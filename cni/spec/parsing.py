"""Results that others wrote, read: a chain's prevResult, a delegate's answer. In any version of the protocol.

Unknown keys are skipped. Raises CNIError 7 for what has another form than its version gives it.
"""

from __future__ import annotations

from cni.spec import versions
from cni.spec.errors import INCOMPATIBLE_VERSION, CNIError, shown
from cni.spec.fields import U32, address, optional, prefixed, route
from cni.spec.result import DNS, OLDEST, WITH_VERSION, Interface, IPConfig, Result
from cni.spec.section import Section


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


def dns(keys: Section) -> DNS:
    return DNS(keys.texts("nameservers"), keys.text("domain"), keys.texts("search"), keys.texts("options"))


def _interface(keys: Section) -> Interface:
    return Interface(
        keys.text("name"),
        keys.text("mac"),
        keys.text("sandbox"),
        keys.integer("mtu", least=0, most=U32),
        keys.text("socketPath"),
        keys.text("pciID"),
    )


def _ip(keys: Section, version: str) -> IPConfig:
    found = prefixed(keys, "address")
    # Absent is tolerated, though the specification requires it: the reference's loopback leaves it out (1.1.1).
    if version in WITH_VERSION and keys.text("version") not in ("", str(found.address.version)):
        raise keys.error("version", f'"{found.address.version}", the version of {found}')
    return IPConfig(found, address(keys, "gateway"), optional(keys, "interface", U32))


def _oldest(keys: Section) -> Result:
    ips = []
    routes = []
    for key, family in (("ip4", 4), ("ip6", 6)):
        if keys.has(key):
            one = keys.section(key)
            found = prefixed(one, "ip")
            if found.address.version != family:
                raise one.error("ip", f"an IPv{family} address")
            ips.append(IPConfig(found, address(one, "gateway")))
            routes += [route(each) for each in one.sections("routes")]
    return Result((), tuple(ips), tuple(routes), dns(keys.section("dns")))

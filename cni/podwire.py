"""podwire: a pod's whole network by one plugin, in one pass, with defaults for a node of Kubernetes.

Where the reference chains a bridge, port mapping, shaping, a firewall and tuning, this is one configuration, one call
and one record; what it does for a pod is the same features, on a routed bridge. Here is which features a configuration
asks for; docs/podwire.md tells of the keys.
"""

from __future__ import annotations

from cni import pods
from cni.features.bridge import BridgeFeature
from cni.features.masquerade import MasqueradeFeature
from cni.features.routed import RoutedFeature
from cni.spec.errors import INVALID_CONFIG, CNIError
from cni.spec.request import parse_args
from ipam.address import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.spec.netconf import NetConf
    from cni.spec.result import DNS
    from cni.spec.section import Section
    from cni.wanted import Feature, Main

BRIDGE: Final = "podwire0"


def features(conf: NetConf, args: str) -> tuple[Main, tuple[Feature, ...]]:
    """Raises CNIError 7 for what can't be, 4 for CNI_ARGS."""
    keys = conf.keys
    if conf.ipam.empty:
        raise CNIError(
            INVALID_CONFIG,
            f"{keys.where}: ipam is missing: pods of a routed bridge are told apart by their addresses",
            'for example: "ipam": {"type": "host-local", "subnet": "10.244.0.0/24"}',
        )
    exempt = _networks(keys, "nonMasqueradeCIDRs")
    found: list[Feature] = [MasqueradeFeature(exempt, keys.flag("masquerade", True))]
    mac, ip = keys.flag("macspoofchk", True), keys.flag("ipspoofchk", True)
    if mac or ip:
        from cni.features.spoofing import SpoofingFeature

        found.append(SpoofingFeature(mac, ip))
    if conf.runtime_config.has("portMappings"):
        from cni.features.portmap import PortMapFeature

        found.append(PortMapFeature.parse(conf))
    if keys.has("bandwidth") or conf.runtime_config.has("bandwidth"):
        from cni.features.bandwidth import BandwidthFeature

        found.append(BandwidthFeature.parse(conf, keys.section("bandwidth")))
    if keys.has("sysctl") or conf.args.has("sysctl"):
        from cni import allowlist
        from cni.features.tuning import TuningFeature

        tuning = TuningFeature(TuningFeature.parse_sysctls(conf))
        if tuning.sysctls:
            allowlist.require(tuning.names, allowlist.PATH)
            found.append(tuning)
    if keys.flag("openForward") or keys.text("ingressPolicy") not in ("", "open"):
        from cni.features.firewall import FirewallFeature

        found.append(FirewallFeature.parse(conf)._replace(opens=keys.flag("openForward")))
    return _bridge(conf, args), tuple(found)


def _bridge(conf: NetConf, args: str) -> Main:
    keys = conf.keys
    return RoutedFeature(
        BridgeFeature(
            bridge=pods.link_name(keys, "bridge") or BRIDGE,
            mtu=keys.integer("mtu", least=0, most=pods.LARGEST_MTU),
            is_gateway=True,
            is_default_gateway=True,
            hairpin=False,
            isolated=False,
            dad=keys.flag("enabledad"),
            interface_down=False,
            mac=pods.mac_of(conf, parse_args(args)),
            promisc=False,
            force_address=False,
        )
    )


def dns(conf: NetConf) -> DNS | None:
    """What the runtime says of a pod's resolver, or else the configuration. Raises CNIError 7."""
    told = conf.runtime_config.section("dns")
    if told.empty:
        return conf.dns
    from cni.spec.result import DNS

    found = DNS(told.texts("servers"), "", told.texts("searches"), told.texts("options"))
    return conf.dns if found.empty else found


def _networks(keys: Section, key: str) -> tuple[Network, ...]:
    found = []
    for i, text in enumerate(keys.texts(key)):
        try:
            found.append(Network.parse(text))
        except ValueError as error:
            raise keys.error(key, f"a list of networks as in 10.0.0.0/8 ({key}[{i}]: {error})") from None
    return tuple(found)

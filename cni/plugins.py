"""Names of plugins → what they make of their configuration.

A plugin is a parser from its keys to features; which features, is all that is said here. Each is imported when
its plugin is called, since start-up is part of the data path.
"""

from __future__ import annotations

from cni.lean import NamedTuple
from cni.spec import versions
from cni.spec.request import parse_args

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from cni.spec.netconf import NetConf
    from cni.spec.result import DNS
    from cni.wanted import Feature, Main


class Plugin(NamedTuple):
    """A plugin that attaches pods, so one that the engine serves."""

    features: Callable[[NetConf, str], tuple[Main | None, tuple[Feature, ...]]]
    """From the configuration and CNI_ARGS: what makes the pod's link, and the rest. Raises CNIError."""
    recorded: bool = True
    """Whether anything of it may exist outside the pod, or has to be put back."""
    chained: bool = False
    """Whether it works on what earlier plugins of a chain attached, which it has to hear of in prevResult."""
    supported: tuple[str, ...] = versions.SUPPORTED
    """Versions of the specification, as the reference's plugin of that name has them."""
    filters: bool = False
    """Whether no pod can do without rules in the packet filter."""
    dns: Callable[[NetConf], DNS | None] | None = None
    """What the result says of DNS, whatever IPAM says; None: the configuration's `dns`."""
    data_dir: str = ""
    """Where host-local keeps reservations unless told, below the state directory; "": where the reference does."""


def _podwire(conf: NetConf, args: str) -> tuple[Main, tuple[Feature, ...]]:
    from cni import podwire

    return podwire.features(conf, args)


def _podwire_dns(conf: NetConf) -> DNS | None:
    from cni import podwire

    return podwire.dns(conf)


def _bridge(conf: NetConf, args: str) -> tuple[Main, tuple[Feature, ...]]:
    from cni.features.bridge import BridgeFeature

    return BridgeFeature.parse(conf, parse_args(args)), (*_masquerade(conf), *_spoofing(conf))


def _ptp(conf: NetConf, args: str) -> tuple[Main, tuple[Feature, ...]]:
    from cni.features.ptp import PtpFeature

    return PtpFeature.parse(conf, parse_args(args)), _masquerade(conf)


def _tuning(conf: NetConf, args: str) -> tuple[None, tuple[Feature, ...]]:
    from cni.features.tuning import TuningFeature

    feature = TuningFeature.parse(conf, parse_args(args))
    if feature.sysctls:
        from cni import allowlist

        allowlist.require(feature.names, allowlist.PATH)
    return None, (feature,)


def _loopback(_conf: NetConf, _args: str) -> tuple[Main, tuple[Feature, ...]]:
    from cni.features.loopback import LoopbackFeature

    return LoopbackFeature(), ()


def _masquerade(conf: NetConf) -> tuple[Feature, ...]:
    if not (conf.keys.has("ipMasq") or conf.keys.has("ipMasqBackend")):
        return ()
    from cni.features.masquerade import MasqueradeFeature

    return MasqueradeFeature.parse(conf)


def _spoofing(conf: NetConf) -> tuple[Feature, ...]:
    if not conf.keys.has("macspoofchk"):
        return ()
    from cni.features.spoofing import SpoofingFeature

    return SpoofingFeature.parse(conf)


def _firewall(conf: NetConf, _args: str) -> tuple[None, tuple[Feature, ...]]:
    from cni.features.firewall import FirewallFeature

    return None, (FirewallFeature.parse(conf),)


def _portmap(conf: NetConf, _args: str) -> tuple[None, tuple[Feature, ...]]:
    from cni.features.portmap import PortMapFeature

    return None, (PortMapFeature.parse(conf),)


def _bandwidth(conf: NetConf, _args: str) -> tuple[None, tuple[Feature, ...]]:
    from cni.features.bandwidth import BandwidthFeature

    return None, (BandwidthFeature.parse(conf, conf.keys),)


PLUGINS: Final = {
    "podwire": Plugin(_podwire, filters=True, dns=_podwire_dns, data_dir="addresses"),
    "bridge": Plugin(_bridge),
    "ptp": Plugin(_ptp),
    "loopback": Plugin(_loopback, recorded=False),
    "tuning": Plugin(_tuning, chained=True),
    "firewall": Plugin(_firewall, chained=True, supported=versions.SINCE_0_4),
    "portmap": Plugin(_portmap, chained=True),
    "bandwidth": Plugin(_bandwidth, chained=True, supported=versions.SINCE_0_3),
}
HOST_LOCAL: Final = "host-local"
"""The one that hands out addresses and attaches nothing."""
NAMES: Final = (*PLUGINS, HOST_LOCAL)


def supported(name: str) -> tuple[str, ...]:
    """The versions that the plugin speaks; all, for a name that is none's."""
    plugin = PLUGINS.get(name)
    return plugin.supported if plugin else versions.SUPPORTED

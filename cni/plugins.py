"""Names of plugins → what they make of their configuration.

A plugin is a parser from its keys to features; which features, is all that is said here. Each is imported when
its plugin is called, since start-up is part of the data path.
"""

from __future__ import annotations

from cni.lean import NamedTuple
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
    dns: Callable[[NetConf], DNS | None] | None = None
    """What the result says of DNS, whatever IPAM says; None: the configuration's `dns`."""
    data_dir: str = ""
    """Where host-local keeps reservations unless told, below the state directory; "": where the reference does."""


def _bridge(conf: NetConf, args: str) -> tuple[Main, tuple[Feature, ...]]:
    from cni.features.bridge import BridgeFeature

    return BridgeFeature.parse(conf, parse_args(args)), ()


def _loopback(_conf: NetConf, _args: str) -> tuple[Main, tuple[Feature, ...]]:
    from cni.features.loopback import LoopbackFeature

    return LoopbackFeature(), ()


PLUGINS: Final = {
    "bridge": Plugin(_bridge),
    "loopback": Plugin(_loopback, recorded=False),
}
HOST_LOCAL: Final = "host-local"
"""The one that hands out addresses and attaches nothing."""
NAMES: Final = (*PLUGINS, HOST_LOCAL)

"""A pod with everything chosen, for features to say what it should have."""

from __future__ import annotations

from typing import Any

from cni.key import Key
from cni.spec.result import IPConfig, Route
from cni.wanted import Pod
from ipam.address import Address, Network
from ipam.address import Interface as Prefixed

KEY = Key("lan", "a", "eth0", "ptp")
MAC, HOST_MAC = "02:00:00:00:00:02", "02:00:00:00:00:03"


def ip(address: str, gateway: str = "") -> IPConfig:
    return IPConfig(Prefixed.parse(address), Address.parse(gateway) if gateway else None)


def route(dst: str, gw: str = "", **how: Any) -> Route:
    return Route(Network.parse(dst), Address.parse(gw) if gw else None, **how)


def pod(*ips: IPConfig, routes: tuple[Route, ...] = (), iif: str = "") -> Pod:
    """On the link `iif`, a bridge, or on its own."""
    tag = KEY.tag
    return Pod(KEY, "/run/netns/a", "eth0", tag, MAC, HOST_MAC, ips, routes, {}, tag, iif or tag, 0)

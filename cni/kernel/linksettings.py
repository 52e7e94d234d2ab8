"""What a link was made with and may be changed: its MAC, MTU, queue, and whom it listens to."""

from __future__ import annotations

from cni.lean import NamedTuple


class LinkSettings(NamedTuple):
    """Settings of one link; what is "" or None isn't touched."""

    link: str
    mac: str = ""
    mtu: int | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    txqlen: int | None = None

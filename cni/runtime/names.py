"""What people call a network namespace, and the container ID that goes with it when there is no container.

Both as in cnitool, so that what one of the two attached the other can detach.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

NETNS_FOLDER: Final = "/run/netns"
"""Where `ip netns` keeps them."""


def netns_path(text: str) -> str:
    """The absolute path of a namespace given by path or, without a slash, by the name that `ip netns` knows.

    "" stays "". Symbolic links are kept: the path is what the container ID is made of.
    """
    if not text:
        return ""
    return os.path.abspath(text) if "/" in text else f"{NETNS_FOLDER}/{text}"


def container_id(netns: str) -> str:
    """The container ID for the namespace at a path."""
    return f"cnitool-{hashlib.sha512(os.fsencode(netns)).digest()[:10].hex()}"

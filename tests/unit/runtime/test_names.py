"""Names of namespaces and container IDs, against cnitool's."""

from __future__ import annotations

import hashlib
import os

from cni.runtime.names import container_id, netns_path
from cni.spec.request import is_name


def test_a_namespace_is_a_path_or_a_name_of_ip_netns() -> None:
    assert netns_path("blue") == "/run/netns/blue"
    assert netns_path("/var/run/netns/blue") == "/var/run/netns/blue"
    assert netns_path("./blue") == f"{os.getcwd()}/blue"
    assert netns_path("/proc/1/../2/ns/net") == "/proc/2/ns/net"
    assert netns_path("") == ""


def test_the_container_id_is_that_of_cnitool() -> None:
    expected = hashlib.sha512(b"/var/run/netns/testing").hexdigest()[:20]

    assert container_id("/var/run/netns/testing") == f"cnitool-{expected}"
    assert container_id("/var/run/netns/testing") == "cnitool-77383ca0a0715733ca6f"  # as cnitool makes it
    assert is_name(container_id("/run/netns/ä\udcff"))

"""What `type: loopback` makes of a pod."""

from __future__ import annotations

from cni.features.loopback import LoopbackFeature
from cni.kernel.ports import LinkUp
from cni.key import Key
from cni.spec.result import Interface
from cni.wanted import Pod, Wanted

KEY = Key("lo", "a", "eth0", "loopback")


def test_whatever_the_interface_is_called_the_pods_lo_is_up_and_nothing_else_happens() -> None:
    pod = Pod(KEY, "/run/netns/a", "eth0", KEY.tag, "", "", (), (), {})

    assert LoopbackFeature().wanted(pod) == Wanted(
        pod=(LinkUp("lo"),),
        interfaces=(Interface("lo", "00:00:00:00:00:00", "/run/netns/a"),),
        reported=("lo",),
    )


def test_nothing_of_the_node_is_needed() -> None:
    assert LoopbackFeature().needs == ()

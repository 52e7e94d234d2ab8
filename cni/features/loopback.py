"""loopback: the pod's `lo` is up. The kernel made it and gives it its addresses; nothing of it is on the node."""

from __future__ import annotations

from cni.kernel.ports import LinkUp
from cni.lean import NamedTuple
from cni.spec.result import Interface
from cni.wanted import Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.kernel.ports import Bridge
    from cni.wanted import Pod

_LO = "lo"  # whatever CNI_IFNAME says: a namespace has one, of this name


class LoopbackFeature(NamedTuple):
    """The configuration of `type: loopback`, which has no keys."""

    needs: tuple[Bridge, ...] = ()
    mac: str = ""
    mtu: int = 0

    def wanted(self, pod: Pod) -> Wanted:
        return Wanted(
            pod=(LinkUp(_LO),),
            interfaces=(Interface(_LO, "00:00:00:00:00:00", pod.netns),),
            reported=(_LO,),
        )

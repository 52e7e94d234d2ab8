"""host-local as a plugin of its own."""

from __future__ import annotations

from cni.hostlocal import HostLocal
from cni.key import Key
from cni.spec.errors import INVALID_CONFIG, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.spec.netconf import NetConf
    from cni.spec.request import Request
    from cni.spec.result import Result


def run(command: str, conf: NetConf, request: Request, boot: str = "") -> Result | None:
    """One verb of the host-local executable, in this boot. Only ADD has a result, and that names no interfaces."""
    if command in ("ADD", "CHECK", "STATUS") and not conf.keys.has("ipam"):
        raise CNIError(INVALID_CONFIG, "IPAM config missing 'ipam' key", 'the configuration needs an object "ipam"')
    conf = conf.whole(leaving=True) if command == "DEL" else conf
    addresses = HostLocal.of(conf, request.args, boot)
    key = Key(conf.name, request.container_id, request.ifname, "host-local")
    if command == "ADD":
        return addresses.acquire(key, request.netns)
    if command == "DEL":
        addresses.release(key, request.netns)
    elif command == "CHECK":
        addresses.check(key, request.netns, conf.prev_result)
    elif command == "STATUS":
        addresses.status()
    elif command == "GC" and conf.valid_attachments is not None:
        addresses.gc(conf.name, conf.valid_attachments)
    return None

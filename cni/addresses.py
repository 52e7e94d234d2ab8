"""Where an attachment's addresses come from: nowhere, our own host-local, or another's IPAM plugin.

host-local runs in this process, whether or not there is an executable of that name in CNI_PATH: a second
start of an interpreter would cost more than the whole pod. Every other type is delegated to, with the bytes
of the configuration as they came.

A network without `ipam` has no addresses (L2), and all the verbs succeed at nothing.
"""

from __future__ import annotations

from cni.key import Delegation
from cni.spec.errors import CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from cni.hostlocal import Departed
    from cni.spec.netconf import NetConf
    from cni.wanted import Addresses


_BARE: Final[Mapping[str, str]] = {}
"""An environment with nothing in it."""


def of(
    conf: NetConf,
    args: str,
    path: Sequence[str],
    boot: str = "",
    departed: Departed | None = None,
    environ: Mapping[str, str] = _BARE,
    data_dir: str = "",
) -> Addresses:
    """For a verb that came with this configuration. `path` is CNI_PATH, `args` CNI_ARGS.

    A delegate inherits `environ`. What is reserved is stamped with `boot`. Where addresses run out, `departed` says of
    which attachments of a network it is certain that they are gone. `data_dir` is where host-local keeps reservations
    unless the configuration says.
    """
    if conf.ipam.empty:
        return none()
    kind = conf.ipam.text("type")
    if not kind:
        raise conf.ipam.error("type", "the name of an IPAM plugin")
    if kind == "host-local":
        from cni.hostlocal import HostLocal

        return HostLocal.of(conf, args, boot, departed, data_dir)
    from cni.delegate import Delegate

    return Delegate(Delegation(kind, conf.raw.decode(), args), path, environ, conf.cni_version)


def of_leaving(
    conf: NetConf,
    args: str,
    path: Sequence[str],
    boot: str = "",
    environ: Mapping[str, str] = _BARE,
    data_dir: str = "",
) -> Addresses:
    """For a DEL, which has no use for its configuration where a record knows better. Doesn't raise."""
    try:
        return of(conf, args, path, boot, environ=environ, data_dir=data_dir)
    except CNIError as error:
        from cni.noaddresses import Unreadable

        return Unreadable(error)


def reopen(
    delegation: Delegation,
    path: Sequence[str],
    boot: str = "",
    environ: Mapping[str, str] = _BARE,
    data_dir: str = "",
) -> Addresses:
    """For releasing what an earlier ADD acquired, from what its record kept. Doesn't raise."""
    if not delegation.type:
        return none()
    if delegation.type == "host-local":
        from cni.hostlocal import HostLocal

        return HostLocal.reopened(delegation, boot, data_dir)
    from cni.delegate import Delegate

    return Delegate(delegation, path, environ)


def none() -> Addresses:
    """Of a network that has no IPAM."""
    from cni.noaddresses import NoAddresses

    return NoAddresses()

"""Where an attachment's addresses come from: nowhere, our own host-local, or another's IPAM plugin.

host-local runs in this process, whether or not there is an executable of that name in CNI_PATH: a second
start of an interpreter would cost more than the whole pod. Every other type is delegated to, with the bytes
of the configuration as they came.

A network without `ipam` has no addresses (L2), and all the verbs succeed at nothing.
"""

from __future__ import annotations

from cni.hostlocal import HostLocal
from cni.lean import JSONError, loads
from cni.spec.errors import DECODING_FAILURE, DELEGATE_FAILED, CNIError
from cni.spec.result import Result
from cni.wanted import Delegation, Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni.hostlocal import Departed
    from cni.spec.netconf import NetConf
    from cni.wanted import Addresses

__all__ = ["Delegate", "HostLocal", "NoAddresses", "of", "of_leaving", "reopen"]


def of(conf: NetConf, args: str, path: Sequence[str], boot: str = "", departed: Departed | None = None) -> Addresses:
    """For a verb that came with this configuration. `path` is CNI_PATH, `args` CNI_ARGS.

    What is reserved is stamped with `boot`. Where addresses run out, `departed` says of which attachments of a
    network it is certain that they are gone.
    """
    if conf.ipam.empty:
        return NoAddresses()
    kind = conf.ipam.text("type")
    if not kind:
        raise conf.ipam.error("type", "the name of an IPAM plugin")
    if kind == "host-local":
        return HostLocal.of(conf, args, boot, departed)
    return Delegate(Delegation(kind, conf.raw.decode(), args), path, conf.cni_version)


def of_leaving(conf: NetConf, args: str, path: Sequence[str], boot: str = "") -> Addresses:
    """For a DEL, which has no use for its configuration where a record knows better. Doesn't raise."""
    try:
        return of(conf, args, path, boot)
    except CNIError as error:
        return _Unreadable(error)


def reopen(delegation: Delegation, path: Sequence[str], boot: str = "") -> Addresses:
    """For releasing what an earlier ADD acquired, from what its record kept. Doesn't raise."""
    if not delegation.type:
        return NoAddresses()
    if delegation.type == "host-local":
        return HostLocal.reopened(delegation, boot)
    return Delegate(delegation, path)


class NoAddresses:
    """Of a network that has none."""

    delegation = Delegation("", "", "")

    def acquire(self, key: Key, netns: str) -> Result:
        return Result()

    def release(self, key: Key, netns: str) -> None:
        pass

    def check(self, key: Key, netns: str, prev: Result) -> None:
        pass

    def status(self) -> None:
        pass

    def gc(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        pass


class _Unreadable(NoAddresses):
    """Of a configuration that doesn't say where they came from."""

    def __init__(self, error: CNIError) -> None:
        self._error = error

    def release(self, key: Key, netns: str) -> None:
        raise self._error


class Delegate:
    """Of another IPAM plugin, by the protocol: same environment, same stdin, its errors passed on as they are."""

    def __init__(self, delegation: Delegation, path: Sequence[str], cni_version: str = "") -> None:
        self.delegation = delegation
        self._path = path
        self._cni_version = cni_version

    def require(self) -> None:
        """CNIError unless there is an executable. Asked before an ADD: what never ran has nothing to take back."""
        from cni import invoke

        invoke.find(self.delegation.type, self._path)

    def acquire(self, key: Key, netns: str) -> Result:
        """Runs its DEL before passing an error on: what failed may have reserved (specification, section 4)."""
        try:
            return self._acquired(self._run("ADD", key, netns))
        except BaseException:
            try:
                self.release(key, netns)
            except CNIError:
                # The first failure is the one to hear of, and DEL comes again with the runtime's.
                pass
            raise

    def release(self, key: Key, netns: str) -> None:
        self._run("DEL", key, netns)

    def check(self, key: Key, netns: str, prev: Result) -> None:
        # It finds prevResult in the configuration of this CHECK.
        self._run("CHECK", key, netns)

    def status(self) -> None:
        self._run("STATUS", None, "")

    def gc(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        # It finds the list in the configuration of this GC.
        self._run("GC", None, "")

    def _run(self, command: str, key: Key | None, netns: str) -> bytes:
        # Imported here: most pods never need it.
        from cni import invoke

        return invoke.delegate(
            command,
            self.delegation.type,
            key,
            netns,
            self.delegation.args,
            self._path,
            self.delegation.config.encode(),
        )

    def _acquired(self, output: bytes) -> Result:
        name = self.delegation.type
        try:
            result = Result.parse(loads(output), self._cni_version, f"result of {name}")
        except JSONError as error:
            raise CNIError(
                DECODING_FAILURE,
                f"{name} printed no result: {error}",
                f"it printed {output[:200].decode('utf-8', 'replace')!a}",
            ) from None
        if not result.ips:
            raise CNIError(
                DELEGATE_FAILED, "IPAM plugin returned missing IP config", f"{name} printed a result without ips"
            )
        # An IPAM's result names no interfaces. Indexes into those of somebody who does anyway would be wrong in ours.
        return Result((), tuple([ip._replace(interface=None) for ip in result.ips]), result.routes, result.dns)

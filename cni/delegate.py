"""Addresses from another IPAM plugin, by the protocol."""

from __future__ import annotations

from cni import invoke
from cni.lean import JSONError, loads
from cni.spec import parsing
from cni.spec.errors import DECODING_FAILURE, DELEGATE_FAILED, CNIError
from cni.spec.result import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cni.key import Delegation, Key


class Delegate:
    """Same environment, same stdin, its errors passed on as they are."""

    def __init__(
        self, delegation: Delegation, path: Sequence[str], environ: Mapping[str, str], cni_version: str = ""
    ) -> None:
        """`path` is CNI_PATH, `environ` what it inherits, `cni_version` that of a result which doesn't say its own."""
        self.delegation = delegation
        self._path = path
        self._environ = environ
        self._cni_version = cni_version

    def require(self) -> None:
        """CNIError unless there is an executable. Asked before an ADD: what never ran has nothing to take back."""
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
        return invoke.delegate(
            command,
            self.delegation.type,
            key,
            netns,
            self.delegation.args,
            self._path,
            self.delegation.config.encode(),
            self._environ,
        )

    def _acquired(self, output: bytes) -> Result:
        name = self.delegation.type
        try:
            result = parsing.result(loads(output), self._cni_version, f"result of {name}")
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

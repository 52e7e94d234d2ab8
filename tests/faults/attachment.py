"""An attachment that faults come upon: how it fails, where its process dies and what comes next, whatever the plugin.

A plugin's module says how the attachment is made and what its state is, and for each of its promises which of the
faults here it holds under, and at least how many of them there must be.
"""

from __future__ import annotations

import abc
import errno
import json
from typing import TYPE_CHECKING, Any, ClassVar

from tests.faults.injection import ERRORS, Circumstances, Injected, throughout
from tests.faults.seam import KILL, NONE, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.scene import Scene


class Attachment(abc.ABC):
    """The attachment of the container `a` in the scene's pod, by one plugin."""

    living: ClassVar[tuple[str, ...]] = ()
    """The containers whose attachments a GC is to leave."""
    unforeseen: ClassVar[tuple[str, ...]] = ("create", "rename")
    """Steps of an ADD that nothing can be done about: that a file has its new name while the kernel says otherwise."""
    before: object
    """The state without the attachment; for a subclass to note, once the scene is set."""

    def __init__(self, scene: Scene, plugin: str) -> None:
        self.scene = scene
        self.plugin = plugin

    @abc.abstractmethod
    def call(self, fault: Fault, command: str, **keys: Any) -> Injected:
        """One verb under a fault; `keys` are added to the configuration."""

    @abc.abstractmethod
    def state(self) -> object:
        """All that the attachment changes, as it is now."""

    def is_as_before(self) -> bool:
        return self.state() == self.before

    def is_complete(self) -> bool:
        """Whether all was done, so that what failed was to tell of it."""
        records = self.scene.run_dir.glob(f"attachments/lan/a@eth0@{self.plugin}.json")
        return [json.loads(file.read_text())["stage"] for file in records] == ["complete"]

    def records(self) -> list[str]:
        """The names of all that the node has."""
        return sorted(file.name for file in self.scene.run_dir.glob("attachments/lan/*"))

    # --- faults: each at the first step, at the second, … until the call comes to its end -----------------

    def failing_adds(self, least: int, *, after: bool) -> Iterator[Injected]:
        """A step fails, or fails `after` it has had its effect, in each of several ways."""

        def fault(number: int) -> Fault:
            return Fault(number, ERRORS[number % len(ERRORS)], after)

        return throughout(lambda fault: self.call(fault, "ADD"), fault, least)

    def killed_adds(self, least: int) -> Iterator[Injected]:
        return throughout(lambda fault: self.call(fault, "ADD"), lambda number: Fault(number, KILL), least)

    def failing_dels(self, least: int) -> Iterator[Injected]:
        return throughout(self._attach_and_detach, lambda number: Fault(number, errno.ENOBUFS), least)

    def killed_dels(self, least: int) -> Iterator[Injected]:
        return throughout(self._attach_and_detach, lambda number: Fault(number, KILL), least)

    def _attach_and_detach(self, fault: Fault) -> Injected:
        assert self.call(NONE, "ADD").code == 0
        return self.call(fault, "DEL")

    # --- what has to be true after one --------------------------------------------------------------------

    def require_undone(self, add: Injected) -> None:
        """That an ADD which failed has taken away what it made."""
        if add.code and add.step not in self.unforeseen and not self.is_complete():
            assert self.state() == self.before, add.told

    def require_attached(self, outcome: Injected) -> None:
        """That an ADD after the outcome was one, or found that all was there."""
        assert self.is_complete(), outcome.told
        assert self.state() != self.before, outcome.told

    def end(self, outcome: Injected, then: str = "DEL") -> None:
        """Has a DEL come next, or an ADD and a DEL, or a GC that doesn't know the attachment: nothing of it is left."""
        if then == "ADD":
            assert self.call(NONE, "ADD").code in (0, 1), outcome.told  # 1 where it was complete
            self.require_attached(outcome)
        if then == "GC":
            living = [{"containerID": container, "ifname": "eth0"} for container in self.living]
            last = self.call(NONE, "GC", **{"cni.dev/valid-attachments": living})
        else:
            last = self.call(NONE, "DEL")
        assert (last.code, last.stdout) == (0, b""), f"{last}, {outcome.told}"
        assert self.state() == self.before, outcome.told


class Chained(Attachment):
    """… by a plugin that works on the link of an earlier one, with these keys."""

    def __init__(self, scene: Scene, plugin: str, **keys: Any) -> None:
        super().__init__(scene, plugin)
        self.result = scene.network().add(scene.pod)
        self._keys = keys

    def call(self, fault: Fault, command: str, **keys: Any) -> Injected:
        network = self.scene.network(Circumstances(fault))
        chained = network.chained(self.plugin, self.result, **self._keys, **keys)
        outcome = chained.call(command, netns=self.scene.pod)
        assert isinstance(outcome, Injected)
        return outcome

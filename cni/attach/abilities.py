"""What this node's kernel can do, asked once in a boot, before the first ADD that needs it does anything."""

from __future__ import annotations

from cni.attach.record import read_file, replace_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni.attach.node import Node
    from cni.kernel.netlink import Request


def require(node: Node, questions: Sequence[Request]) -> None:
    """Raises NetlinkError naming the `option` that the kernel lacks. What it has is noted: to ask takes the lock that
    all changes of links and queues share."""
    path = f"{node.run_dir}/kernel"
    boot, *known = (read_file(path) or b"").decode("utf-8", "replace").split("\n")
    known = known if boot == node.boot else []
    asked = [question for question in questions if question.option not in known]
    if asked:
        node.nl.do(*asked)
        noted = [node.boot, *known, *[question.option for question in asked]]
        with node.state_lock():
            # Whoever noted something in the meantime asks for what is missing once more.
            replace_file(path, "\n".join(noted).encode(), f"{path}.new")

"""Rules of the reference's for pods that are on a node already: all at once, and as its own ADDs would have left them.

With a thousand pods an ADD of the reference takes most of a second, since each of its dozens of `iptables` reads
all rules: to have that many pods attached by itself would take a quarter of an hour. Links, addresses and shaping are
made by its plugins all the same; only the rules, which are text, are those of one pod that it attached completely,
rewritten for the others and loaded by one `iptables-restore`. The names of chains are made by the reference's recipe.
"""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from cni.cli import throwaway

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHAIN_HEX = 24  # "CNI-" and so many digits; behind "CNI-DN-" there are three less


class Bearer(NamedTuple):
    """What the rules of a pod know it by."""

    network: str
    container_id: str
    address: str
    host_port: int

    @property
    def chain(self) -> str:
        return hashlib.sha512((self.network + self.container_id).encode()).hexdigest()[:_CHAIN_HEX]


def rules() -> list[str]:
    """Of the nat table, as `iptables-save` has them."""
    return throwaway.run("iptables-save", "-t", "nat").splitlines()


def multiply(model: Bearer, others: Sequence[Bearer]) -> None:
    """Gives each of the others rules as the model has."""
    added = [line for line in rules() if model.chain[:-3] in line or model.container_id in line]
    # In three passes: a chain is declared before it is filled, and filled before anything leads there.
    lines = sorted(added, key=lambda line: (not line.startswith(":"), not line.startswith("-A CNI-DN-")))
    text = "\n".join(["*nat", *(rewritten(line, model, other) for other in others for line in lines), "COMMIT", ""])
    subprocess.run(["iptables-restore", "--noflush"], input=text, text=True, check=True, env=throwaway.environment())


def rewritten(line: str, model: Bearer, other: Bearer) -> str:
    """A rule of the model's as one of the other's."""
    for old, new in (
        (model.chain, other.chain),
        (model.chain[:-3], other.chain[:-3]),
        (model.container_id, other.container_id),
        (f"{model.address}/32", f"{other.address}/32"),
        (f"{model.address}:", f"{other.address}:"),
        (f"dport {model.host_port} ", f"dport {other.host_port} "),
        (f"dports {model.host_port} ", f"dports {other.host_port} "),
    ):
        line = line.replace(old, new)
    return line

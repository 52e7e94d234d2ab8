"""What the reference's `firewall` writes with iptables, so that either may take away what the other has made.

    FORWARD ─▶ CNI-FORWARD ─▶ the administrator's chain, CNI-ADMIN
                    │ -d POD  RELATED,ESTABLISHED  ACCEPT      answers
                    │ -s POD                       ACCEPT      whatever the pod sends
                    │ -d POD  DNAT                 ACCEPT      what is published on the node: ours alone, see below

The third rule is not the reference's, whose host ports can't be reached from outside where FORWARD drops. It lets in
what some rule of the node has sent to the pod on purpose, and nothing else.

There are two iptables: one whose tables are those of nf_tables, and the older one, which has its own. A node may use
both, and then a packet has to pass both. Each speaks through its own command.
"""

from __future__ import annotations

import errno

from cni.kernel import command, foreign
from cni.kernel.netlink import Refused
from cni.lean import NamedTuple, posix
from ipam.address import BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.kernel.command import Ended
    from cni.kernel.forwarding import ForwardOpening
    from cni.kernel.netlink import Socket
    from ipam.address import Address

_COMMANDS: Final = {4: "iptables", 6: "ip6tables"}
_NEWER: Final = "-nft"
_OLDER: Final = "-legacy"
_OLDER_TABLES: Final = {4: "ip_tables_names", 6: "ip6_tables_names"}
_TABLE: Final = "filter"
_FORWARD: Final = "FORWARD"
_CHAIN: Final = "CNI-FORWARD"
_JUMPS: Final = 2
"""How many of the rules lead to the pods', and go first in their chains."""
_LOCK_PATIENCE_S: Final = "5"
# Exit statuses of iptables-restore.
_CONTRADICTED: Final = 1
_MEANINGLESS: Final = 2
"""So it says of a jump to a chain that isn't there, too."""


class Variant(NamedTuple):
    """One of the two, for one version of IP."""

    command: str
    suffix: str
    """ "" where it is the node's own choice, or the only one."""

    def change(self, *lines: str) -> Ended:
        """All of the lines in the filter table, or none of them; each a verb, a chain and a rule as iptables has them.

        Raises Refused for everything but a line that the table contradicts: what is there already, or isn't there.
        """
        # -w: others may hold the lock of the older iptables; the newer one needs none, and takes the option.
        argv = [self._name("-restore"), "-w", _LOCK_PATIENCE_S, "--noflush"]
        text = "\n".join([f"*{_TABLE}", *lines, "COMMIT", ""])
        end = command.ended(argv, text.encode(), package="iptables")
        if end.status not in (0, _CONTRADICTED, _MEANINGLESS):
            raise command.refused(argv, end)
        return end

    def must(self, line: str) -> None:
        end = self.change(line)
        if end.status:
            raise Refused(errno.EINVAL, f"{self._name('')} {line}", end.why)

    def drops(self) -> bool:
        """Whether FORWARD drops what no rule of its accepts."""
        said = command.run([self._name(""), "-w", _LOCK_PATIENCE_S, "-S", _FORWARD], package="iptables")
        return said.startswith(f"-P {_FORWARD} DROP".encode())

    def _name(self, ending: str) -> str:
        own = f"{self.command}{self.suffix}{ending}"
        return own if command.find(own) else f"{self.command}{ending}"


def let_pass(nl: Socket, opening: ForwardOpening, *, asked: bool) -> None:
    """There already is fine. Unless asked for, only where FORWARD drops what no rule of its accepts."""
    for variant in _to_be_told(nl, opening, asked=asked):
        _complete(variant, opening)


def let_pass_no_more(nl: Socket, opening: ForwardOpening) -> None:
    """The pod's rules go, whoever made them; the chains stay, as the reference's do. Gone already is fine."""
    lines = [f"-D {rule}" for rule in _rules(opening.address)]
    for variant in _in_use(nl, opening.address.version, _CHAIN):
        if variant.change(*lines).status:
            # Some of them aren't there, so none went.
            for line in lines:
                variant.change(line)


def lets_pass(nl: Socket, opening: ForwardOpening, *, asked: bool) -> bool:
    lines = [f"-C {rule}" for rule in _wanted(opening)]
    return not any(variant.change(*lines).status for variant in _to_be_told(nl, opening, asked=asked))


def _to_be_told(nl: Socket, opening: ForwardOpening, *, asked: bool) -> list[Variant]:
    version = opening.address.version
    found = _in_use(nl, version, _FORWARD)
    if asked:
        return found or [Variant(_COMMANDS[version], "")]
    return [one for one in found if (one.drops() if one.suffix == _OLDER else _newer_drops(nl, version))]


def _newer_drops(nl: Socket, version: int) -> bool:
    found = foreign.chain(nl, foreign.IP[version], _TABLE, _FORWARD)
    return bool(found and found.drops)


def _in_use(nl: Socket, version: int, chain: str) -> list[Variant]:
    """Whose tables are there, as far as asking doesn't make them; of the newer one, with this chain."""
    found = []
    if foreign.chain(nl, foreign.IP[version], _TABLE, chain):
        found.append(Variant(_COMMANDS[version], _NEWER))
    if _TABLE in _older_tables(version):
        found.append(Variant(_COMMANDS[version], _OLDER))
    return found


def _older_tables(version: int) -> list[str]:
    # /proc/net is of the process's first thread.
    try:
        fd = posix.open(f"/proc/thread-self/net/{_OLDER_TABLES[version]}", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return []  # this kernel has none
    try:
        return posix.read(fd, 4096).decode().split()
    finally:
        posix.close(fd)


def _complete(variant: Variant, opening: ForwardOpening) -> None:
    """Adds what is missing, and nothing twice. Where the chains are there, one step asks, and one adds."""
    wanted = _wanted(opening)
    end = variant.change(*[f"-C {rule}" for rule in wanted])
    if not end.status:
        return
    first = _line_of(end) - 1  # above the first stands the table
    if first > _JUMPS and variant.change(*[f"-A {rule}" for rule in wanted[first - 1 :]]).status == 0:
        return
    for chain in (_CHAIN, opening.admin_chain):
        variant.change(f"-N {chain}")
    for number, rule in enumerate(wanted):
        if variant.change(f"-C {rule}").status:
            chain, _, rest = rule.partition(" ")
            variant.must(f"-I {chain} 1 {rest}" if number < _JUMPS else f"-A {rule}")


def _line_of(end: Ended) -> int:
    """Which line of its input iptables-restore failed at; 0 where it says something else."""
    number = end.said.partition(": line ")[2].partition(" failed")[0]
    return int(number) if end.status == _CONTRADICTED and number.isdigit() else 0


def _wanted(opening: ForwardOpening) -> list[str]:
    return [
        f'{_FORWARD} -m comment --comment "CNI firewall plugin rules" -j {_CHAIN}',
        f'{_CHAIN} -m comment --comment "CNI firewall plugin admin overrides" -j {opening.admin_chain}',
        *_rules(opening.address),
    ]


def _rules(address: Address) -> list[str]:
    host = f"{address}/{BITS[address.version]}"
    return [
        f"{_CHAIN} -d {host} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"{_CHAIN} -s {host} -j ACCEPT",
        f"{_CHAIN} -d {host} -m conntrack --ctstate DNAT -j ACCEPT",
    ]

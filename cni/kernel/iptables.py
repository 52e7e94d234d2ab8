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
_LOCK_PATIENCE_S: Final = "5"
"""Others may hold the lock of the older iptables; the newer one needs none, and takes the option."""
_CONTRADICTED: Final = 1
"""The exit status for what is there already, or isn't there; others are for commands and kernels that won't do."""


class Variant(NamedTuple):
    """One of the two, for one version of IP."""

    command: str
    suffix: str
    """ "" where it is the node's own choice, or the only one."""

    def change(self, *lines: str) -> Ended:
        """All of the lines in the filter table, or none of them; each a verb, a chain and a rule as iptables has them.

        Raises Refused for everything but a line that the table contradicts: what is there already, or isn't there.
        """
        argv = [self._name("-restore"), "-w", _LOCK_PATIENCE_S, "--noflush"]
        text = "\n".join([f"*{_TABLE}", *lines, "COMMIT", ""])
        end = command.ended(argv, text.encode(), package="iptables")
        if end.status not in (0, _CONTRADICTED):
            raise command.refused(argv, end)
        return end

    def listed(self, chain: str) -> list[str]:
        """Policy and rules of one chain, as iptables would have them said; nothing where there is no such chain."""
        argv = [self._name(""), "-w", _LOCK_PATIENCE_S, "-S", chain]
        end = command.ended(argv, package="iptables")
        if end.status not in (0, _CONTRADICTED):
            raise command.refused(argv, end)
        return end.output.decode("utf-8", "replace").splitlines()

    def _name(self, ending: str) -> str:
        own = f"{self.command}{self.suffix}{ending}"
        return own if command.find(own) else f"{self.command}{ending}"


def let_pass(nl: Socket, opening: ForwardOpening, *, asked: bool) -> None:
    """There already is fine. Unless asked for, only where FORWARD drops what no rule of its accepts."""
    for variant in _to_be_told(nl, opening, asked=asked):
        missing = _missing(variant, opening)
        if missing:
            # One that is there already contradicts nothing that we need.
            for chain in (_CHAIN, opening.admin_chain):
                if any(rule.endswith(f"-j {chain}") for rule in missing):
                    variant.change(f"-N {chain}")
            end = variant.change(*[_addition(rule) for rule in missing])
            if end.status:
                raise Refused(errno.EINVAL, f"{variant.command} {_addition(missing[0])}", end.why)


def let_pass_no_more(nl: Socket, opening: ForwardOpening) -> None:
    """The pod's rules go, whoever made them; the chains stay, as the reference's do. Gone already is fine."""
    lines = [f"-D {rule}" for rule in _rules(opening.address)]
    for variant in _in_use(nl, opening.address.version, _CHAIN):
        if variant.change(*lines).status:
            # Some of them aren't there, so none went.
            for line in lines:
                variant.change(line)


def lets_pass(nl: Socket, opening: ForwardOpening, *, asked: bool) -> bool:
    return not any(_missing(variant, opening) for variant in _to_be_told(nl, opening, asked=asked))


def _to_be_told(nl: Socket, opening: ForwardOpening, *, asked: bool) -> list[Variant]:
    version = opening.address.version
    found = _in_use(nl, version, _FORWARD)
    if asked:
        return found or [Variant(_COMMANDS[version], "")]
    return [one for one in found if _drops(nl, version, one)]


def _drops(nl: Socket, version: int, variant: Variant) -> bool:
    """Whether FORWARD drops what no rule of its accepts."""
    if variant.suffix == _OLDER:
        return f"-P {_FORWARD} DROP" in variant.listed(_FORWARD)
    found = foreign.chain(nl, foreign.IP[version], _TABLE, _FORWARD)
    return bool(found and found.drops)


def _missing(variant: Variant, opening: ForwardOpening) -> list[str]:
    """Of the rules that lead to the pod's, and of the pod's. What these cost to list, to look for one of them costs."""
    there = {line for chain in (_FORWARD, _CHAIN) for line in variant.listed(chain)}
    return [rule for rule in _wanted(opening) if f"-A {rule}" not in there]


def _addition(rule: str) -> str:
    """The line that adds it. What leads on to other chains goes first."""
    chain, _, rest = rule.partition(" ")
    return f"-A {rule}" if rule.endswith("-j ACCEPT") else f"-I {chain} 1 {rest}"


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

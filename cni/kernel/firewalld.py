"""firewalld: a pod's address is a source of a zone that lets everything pass, as the reference's `firewall` has it.

What is published on the node needs nothing else: firewalld accepts whatever was translated.

It is asked by its command, which asks it over D-Bus and takes a quarter of a second; a node that runs firewalld pays
that. What was added is lost when firewalld is reloaded, as the reference's is.
"""

from __future__ import annotations

from cni.kernel import command, foreign
from ipam.address import BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.kernel.command import Ended
    from cni.kernel.forwarding import ForwardOpening
    from cni.kernel.netlink import Socket

_COMMAND: Final = "firewall-cmd"
# firewall-cmd(1), "EXIT CODES"
ALREADY_ENABLED: Final = 11
NOT_ENABLED: Final = 12
ZONE_ALREADY_SET: Final = 16
UNKNOWN_SOURCE: Final = 20
NOT_RUNNING: Final = 252
_NO: Final = 1
"""The answer to a query."""


def is_there(nl: Socket) -> bool:
    """Whether its rules are, by which of the two packet filters ever."""
    return foreign.table_is_there(nl, "inet", "firewalld") or bool(foreign.chain(nl, "ip", "filter", "FORWARD_direct"))


def let_pass(nl: Socket, opening: ForwardOpening, *, asked: bool) -> None:
    """There already is fine and, unless asked for, that firewalld has ended and left its rules behind."""
    if asked or is_there(nl):
        fine = (ALREADY_ENABLED, ZONE_ALREADY_SET)
        _ask("add", opening, fine if asked else (*fine, NOT_RUNNING))


def let_pass_no_more(nl: Socket, opening: ForwardOpening) -> None:
    """Gone already is fine, and so is a firewalld that has ended: its zones went with it."""
    if command.find(_COMMAND) and (is_there(nl) or opening.backend):
        _ask("remove", opening, (NOT_ENABLED, UNKNOWN_SOURCE, NOT_RUNNING))


def lets_pass(nl: Socket, opening: ForwardOpening, *, asked: bool) -> bool:
    if not asked and not is_there(nl):
        return True
    end = _ask("query", opening, (_NO, NOT_RUNNING))
    return end.status == 0 or (end.status == NOT_RUNNING and not asked)


def _ask(verb: str, opening: ForwardOpening, fine: tuple[int, ...]) -> Ended:
    address = opening.address
    argv = [_COMMAND, f"--zone={opening.zone}", f"--{verb}-source={address}/{BITS[address.version]}"]
    end = command.ended(argv, package="firewalld")
    if end.status and end.status not in fine:
        raise command.refused(argv, end)
    return end

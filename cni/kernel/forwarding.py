"""That a pod's packets are forwarded, where the rules of others would drop them.

A packet has to be accepted by every chain at the forward hook, so nothing in our own tables can save one that another's
policy drops. This is the one thing of others that we write to: by the reference's rules where they are iptables', by
firewalld's command where they are firewalld's, and with a set and constant rules where somebody wrote an nftables table
of his own (`iptables`, `firewalld`, `foreign`). Which of them a node has is asked of the kernel when the pod comes, and
again when it goes; it costs a few questions.

What passes is what the pod sends, the answers to it, and what a rule of the node has translated to the pod: a host
port, a service. That others may begin to talk to the pod directly is left to whoever made the policy.
"""

from __future__ import annotations

from cni.kernel.nft import connect
from cni.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Protocol

    from cni.kernel.netlink import Socket
    from ipam.address import Address

ANY: Final = ""
IPTABLES: Final = "iptables"
FIREWALLD: Final = "firewalld"
NFTABLES: Final = "nftables"
BACKENDS: Final = (ANY, IPTABLES, FIREWALLD, NFTABLES)
ADMIN_CHAIN: Final = "CNI-ADMIN"
ZONE: Final = "trusted"


class ForwardOpening(NamedTuple):
    """One address whose packets pass. Raises Refused, NetlinkError, and CNIError for a command that isn't there."""

    address: Address
    backend: str = ANY
    """Whom to tell: whoever drops, by policy; or that one, asked for by name, in any case."""
    admin_chain: str = ADMIN_CHAIN
    """Of iptables: the administrator's own rules, which come first."""
    zone: str = ZONE
    """Of firewalld."""

    @property
    def resource(self) -> str:
        """What is opened: other attachments may want the same, and it stays as long as one of them does."""
        return f"forward:{self.address}"

    def __str__(self) -> str:
        return f"what lets {self.address} pass where the forward chains of others drop"

    def make(self) -> None:
        """There already is fine."""
        with connect() as nl:
            for way in self._ways():
                way.let_pass(nl, self, asked=self.backend != ANY)

    def drop(self) -> None:
        """Gone already is fine. It goes from wherever it may have been made, whether or not that still drops."""
        with connect() as nl:
            for way in self._ways():
                way.let_pass_no_more(nl, self)

    def find(self) -> bool:
        """Whether the pod's packets pass: where nobody drops them, too."""
        with connect() as nl:
            return all(way.lets_pass(nl, self, asked=self.backend != ANY) for way in self._ways())

    def _ways(self) -> tuple[Way, ...]:
        from cni.kernel import firewalld, foreign, iptables

        ways: dict[str, Way] = {FIREWALLD: firewalld, IPTABLES: iptables, NFTABLES: foreign}
        way = ways.get(self.backend)
        return (way,) if way else tuple(ways.values())


if TYPE_CHECKING:

    class Way(Protocol):
        """Of letting packets pass; `asked`: somebody named it, so it is to be told even where nothing drops."""

        def let_pass(self, nl: Socket, opening: ForwardOpening, /, *, asked: bool) -> None: ...

        def let_pass_no_more(self, nl: Socket, opening: ForwardOpening, /) -> None: ...

        def lets_pass(self, nl: Socket, opening: ForwardOpening, /, *, asked: bool) -> bool: ...

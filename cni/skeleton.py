"""What our tables in the packet filter are made of: the features' rules, which are the same whatever is configured.

Each feature's module has its own part, as nft text with the story of it: RULES of the table of IPv4 and IPv6 ("inet"),
BRIDGE_RULES of the one that sees frames ("bridge"). A table bears the version in its comment, and in that of a chain
whose rule tells that the table's rules are there; where either differs, the table is made anew with the elements of
all that is attached.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

version: Final = "podwire 1"
"""To be raised with every change of a rule: a test knows the text that goes with it."""


# What the features' chains accept they accept for all, so the order counts.
_FRAMES: Final = """\
table bridge podwire {
	chain frames {
		type filter hook prerouting priority dstnat; policy accept;
		jump known
		jump routed
		jump spoofing
	}
}
"""


def text(family: str) -> str:
    """The table of a family, "inet" or "bridge", in nft's words."""
    from cni.features import firewall, masquerade, portmap, routed, spoofing
    from cni.kernel.nft import INTACT, TABLE

    rules: dict[str, tuple[str, ...]] = {
        "inet": (masquerade.RULES, portmap.RULES, firewall.RULES),
        "bridge": (spoofing.BRIDGE_RULES, routed.BRIDGE_RULES, firewall.BRIDGE_RULES, _FRAMES),
    }
    comment = f'comment "{version}"'
    head = f"table {family} {TABLE} {{\n\t{comment}\n\tchain {INTACT} {{\n\t\t{comment}\n\t\treturn\n\t}}\n}}\n"
    return head + "".join(rules[family])

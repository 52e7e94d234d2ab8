"""What a host port may depend on besides address and port: `conditionsV4` and `conditionsV6` of portmap.

The reference pastes them into its rules; they are words of nft, or of iptables. Rules are the same for all pods here,
so what depends on a condition has maps and chains of its own, one fragment for all pods with the same. The few words
of iptables that conditions consist of in practice (source, destination, interface) are translated.
"""

from __future__ import annotations

from cni.kernel.nft import Fragment
from cni.key import digest
from cni.spec.errors import CNIError, unsupported
from ipam.address import BITS
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.spec.section import Section

_FAMILY: Final = {4: "ip", 6: "ip6"}
_NFPROTO: Final = {4: "ipv4", 6: "ipv6"}
_IPTABLES: Final = {
    "-s": "saddr", "--src": "saddr", "--source": "saddr",
    "-d": "daddr", "--dst": "daddr", "--destination": "daddr",
    "-i": "iifname", "--in-interface": "iifname",
}  # fmt: skip
# Beyond the rule that a condition is part of.
_SEPARATORS: Final = frozenset(";#\n\r\\")


def parse(keys: Section) -> tuple[tuple[int, str], ...]:
    """By version of IP, in nft's words. Raises CNIError 7, or 2 for what of iptables isn't translated."""
    found = []
    for version in (4, 6):
        key = f"conditionsV{version}"
        words = keys.texts(key)
        if any(word == "!" or word.startswith("-") for word in words):
            found.append((version, _translated(keys, key, words, version)))
        elif words:
            text = " ".join(words)
            if not _SEPARATORS.isdisjoint(text) or not _is_balanced(text):
                raise keys.error(key, 'words of one nft rule, as in ["ip", "saddr", "10.0.0.0/8"]')
            found.append((version, text))
    return tuple(found)


def suffix(version: int, condition: str) -> str:
    """Behind the names of the maps that mappings under this condition go into."""
    return f"_{_name(version, condition)}"


def fragment(version: int, condition: str) -> Fragment:
    """The maps, and the rules that look packets up in them: what `portmap.RULES` has, where the condition holds."""
    name = _name(version, condition)
    family = _FAMILY[version]
    kind = f"ipv{version}_addr"
    rule = f"meta nfproto {_NFPROTO[version]} {condition} dnat {family} to"
    localhost = "\n\t\tip6 daddr ::1 return" if version == 6 else ""
    return Fragment(
        name,
        f"""table inet podwire {{
	map hostports{version}_{name} {{ type {kind} . inet_proto . inet_service : {kind} . inet_service; }}
	map hostports_any{version}_{name} {{ type inet_proto . inet_service : {kind} . inet_service; }}

	chain hostports_{name} {{{localhost}
		{rule} {family} daddr . meta l4proto . th dport map @hostports{version}_{name}
		{rule} meta l4proto . th dport map @hostports_any{version}_{name}
	}}
	chain hostports_prerouting_{name} {{
		type nat hook prerouting priority -90; policy accept;
		fib daddr type local jump hostports_{name}
	}}
	chain hostports_output_{name} {{
		type nat hook output priority -90; policy accept;
		fib daddr type local jump hostports_{name}
	}}
}}
""",
    )


def _name(version: int, condition: str) -> str:
    return digest(f"{version} {condition}")


def _is_balanced(text: str) -> bool:
    """Whether no brace or quote in it reaches beyond it. A brace between quotes opens and closes nothing."""
    depth = 0
    parts = text.split('"')
    for character in "".join(parts[::2]):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0 and len(parts) % 2 == 1


def _translated(keys: Section, key: str, words: tuple[str, ...], version: int) -> str:
    """iptables' words in nft's. A `!` turns what comes behind it around."""
    parts = []
    left = list(words)
    while left:
        sign = ""
        if left[0] == "!":
            sign = "!= "
            del left[0]
        option, *rest = left or [""]
        match = _IPTABLES.get(option)
        if not match or not rest:
            raise unsupported(
                keys.where,
                key,
                list(words),
                "of iptables' words only [!] -s, -d and -i with a value are understood; "
                'write it as nft does: ["ip", "saddr", "10.0.0.0/8"]',
            )
        value, *left = rest
        if match == "iifname":
            parts.append(f"iifname {sign}{_interface(keys, key, value)}")
        else:
            parts.append(f"{_FAMILY[version]} {match} {sign}{_networks(keys, key, value, version)}")
    return " ".join(parts)


def _interface(keys: Section, key: str, value: str) -> str:
    """iptables has + where nft has *."""
    name = value[:-1] + "*" if value.endswith("+") else value
    if not name or not _SEPARATORS.isdisjoint(name) or '"' in name or " " in name:
        raise keys.error(key, "a list in which -i is followed by an interface")
    return f'"{name}"'


def _networks(keys: Section, key: str, value: str, version: int) -> str:
    found = []
    for one in value.split(","):
        try:
            network = Prefixed.parse(one if "/" in one else f"{one}/{BITS[version]}").network
        except ValueError:
            raise _no_network(keys, key, version) from None
        if network.version != version:
            raise _no_network(keys, key, version)
        found.append(str(network))
    return found[0] if len(found) == 1 else f"{{ {', '.join(found)} }}"


def _no_network(keys: Section, key: str, version: int) -> CNIError:
    return keys.error(key, f"a list in which -s and -d are followed by IPv{version} networks")

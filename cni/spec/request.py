"""What the runtime says in the environment: the command, the container, its interface.

The rules, their order, codes and texts are those of the reference library, which runtimes are
tested against (specification, section 2, "Parameters"): a malformed variable is reported before missing
ones, missing ones all together, and an unknown command only when the configuration turned out to be
readable, which is why `require_known` stands apart from `parse`. Variables that a command doesn't need
aren't validated.

Names are checked by hand, character by character: `re` takes 5 ms to import, and `str.isspace` and
`str.isalnum` know more characters than the rules do.
"""

from __future__ import annotations

from cni.lean import NamedTuple
from cni.spec.errors import INVALID_ENVIRONMENT, CNIError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Self

COMMANDS: Final = ("ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION")

_REQUIRED: Final = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
}
_IFNAME_BYTES: Final = 15  # IFNAMSIZ of linux/if.h less the NUL
_ALPHANUMERIC: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME: Final = _ALPHANUMERIC | frozenset("_.-")
# Unicode's White_Space, which is what Go means by space. str.isspace takes U+001C to U+001F too.
_SPACES: Final = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


class Request(NamedTuple):
    """One call of the plugin, without its configuration."""

    command: str
    container_id: str
    netns: str
    ifname: str
    args: str
    """CNI_ARGS, unread: what may stand in it is the plugin's to say (`parse_args`)."""
    path: tuple[str, ...]
    netns_override: bool
    """CNI_NETNS_OVERRIDE: the netns may be the plugin's own."""

    @classmethod
    def parse(cls, environ: Mapping[str, str]) -> Self:
        """Raises CNIError 4 for what is missing or malformed. Any command will do (`require_known`)."""
        command = environ.get("CNI_COMMAND", "")
        container_id = environ.get("CNI_CONTAINERID", "")
        ifname = environ.get("CNI_IFNAME", "")
        required = _REQUIRED.get(command, ())
        missing = [] if command else ["CNI_COMMAND"]
        missing += [name for name in required if not environ.get(name)]
        if container_id and "CNI_CONTAINERID" in required:
            require_container_id(container_id)
        if ifname and "CNI_IFNAME" in required:
            require_ifname(ifname)
        if missing:
            raise CNIError(
                INVALID_ENVIRONMENT,
                f"required env variables [{','.join(missing)}] missing",
                "the container runtime sets them; people call `podwire net`",
            )
        return cls(
            command,
            container_id,
            environ.get("CNI_NETNS", ""),
            ifname,
            environ.get("CNI_ARGS", ""),
            tuple([folder for folder in environ.get("CNI_PATH", "").split(":") if folder]),
            environ.get("CNI_NETNS_OVERRIDE", "").upper() in ("TRUE", "1"),
        )

    def require_known(self) -> None:
        """CNIError 4 unless the specification has the command. To be asked after the configuration was read."""
        if self.command not in COMMANDS:
            raise CNIError(
                INVALID_ENVIRONMENT,
                f"unknown CNI_COMMAND: {self.command}",
                f"CNI_COMMAND is one of {', '.join(COMMANDS)}",
            )


def is_name(text: str) -> bool:
    """Whether the text may name a container or a network: a letter or digit, then these and "_", "." and "-"."""
    return bool(text) and text[0] in _ALPHANUMERIC and _NAME.issuperset(text)


def require_container_id(text: str) -> None:
    """CNIError 4 for a container ID that the specification doesn't allow."""
    if not text:
        raise CNIError(INVALID_ENVIRONMENT, "missing containerID", "CNI_CONTAINERID is empty")
    if not is_name(text):
        raise CNIError(INVALID_ENVIRONMENT, "invalid characters in containerID", text)


def require_ifname(text: str) -> None:
    """CNIError 4 for what can't be an interface's name."""
    told = f"CNI_IFNAME is {shown(text)}"
    if not text:
        raise CNIError(INVALID_ENVIRONMENT, "interface name is empty", told)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        # The kernel would take the bytes, but no result could tell the name.
        raise CNIError(INVALID_ENVIRONMENT, "interface name is not valid UTF-8", told) from None
    if size > _IFNAME_BYTES:
        raise CNIError(
            INVALID_ENVIRONMENT,
            "interface name is too long",
            f"interface name should be less than {_IFNAME_BYTES + 1} characters",
        )
    if text in (".", ".."):
        raise CNIError(INVALID_ENVIRONMENT, "interface name is . or ..", told)
    if "/" in text or ":" in text or not _SPACES.isdisjoint(text):
        raise CNIError(INVALID_ENVIRONMENT, "interface name contains / or : or whitespace characters", told)
    if "%" in text:
        # The kernel takes it for a pattern ("eth%d") and picks a name of its own.
        raise CNIError(INVALID_ENVIRONMENT, "interface name contains %", told)


MAC_NEED: Final = "a unicast MAC address like 02:00:5e:00:53:01"
_HEX: Final = frozenset("0123456789abcdefABCDEF")


def is_mac(text: str) -> bool:
    """Whether the text is a MAC that an interface can have (`MAC_NEED`)."""
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 or not _HEX.issuperset(part) for part in parts):
        return False
    return not int(parts[0], 16) & 1 and any(part != "00" for part in parts)


_ARGS: Final = frozenset(("IP", "MAC"))
"""One is for the IPAM and the other for the main plugin, which hear the same CNI_ARGS."""


def parse_args(text: str, known: frozenset[str] = _ARGS) -> dict[str, str]:
    """The pairs of CNI_ARGS ("K=V;K2=V2") whose keys are in `known`.

    CNIError 4 for what is no pair, and for other keys unless `IgnoreUnknown` is among the pairs and true:
    a runtime that sends more than one plugin can know (Kubernetes does) says so.
    """
    found: dict[str, str] = {}
    others = []
    ignore = False
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise CNIError(INVALID_ENVIRONMENT, f"ARGS: invalid pair {shown(pair)}", "CNI_ARGS is KEY=VALUE;KEY=VALUE")
        if key == "IgnoreUnknown":
            lowered = value.lower()
            if lowered not in ("1", "true", "0", "false"):
                raise CNIError(
                    INVALID_ENVIRONMENT,
                    f"ARGS: error parsing value of pair {shown(pair)}: "
                    f"boolean unmarshal error: invalid input {lowered}",
                    "IgnoreUnknown in CNI_ARGS is 1, 0, true or false",
                )
            ignore = lowered in ("1", "true")
        elif key in known:
            found[key] = value
        else:
            others.append(pair)
    if others and not ignore:
        raise CNIError(
            INVALID_ENVIRONMENT,
            f"ARGS: unknown args [{' '.join(shown(pair) for pair in others)}]",
            "remove them from CNI_ARGS, or add IgnoreUnknown=1",
        )
    return found

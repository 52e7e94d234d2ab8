"""Text becomes rules: nft's language, which only nft speaks, loaded in one transaction.

Rules are constant, so this is needed when our table is missing, of an earlier version, or lacks what a network's
configuration asks for: once in a boot, as a rule. What a pod needs goes through `nft`.

nft is a library and a command around it. The library saves an exec and the search for one, but a node may have
either, both, or none.
"""

from __future__ import annotations

import errno

from cni.kernel import command
from cni.kernel.command import PLACES
from cni.kernel.netlink import Refused
from cni.kernel.nft import connect
from cni.lean import posix
from cni.spec.errors import NOT_AVAILABLE, CNIError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

LIBRARY: Final = "libnftables.so.1"
_COMMAND: Final = ("nft", "-f", "-")
_WHAT: Final = " ".join(_COMMAND)

# What a rule needs of the kernel, by words in it; the first that fits.
_OPTIONS: Final = (
    ("masquerade", "CONFIG_NFT_MASQ"),
    ("fib ", "CONFIG_NFT_FIB_INET"),
    ("redirect", "CONFIG_NFT_REDIR"),
    ("dnat", "CONFIG_NFT_NAT"),
    ("snat", "CONFIG_NFT_NAT"),
    ("type nat", "CONFIG_NFT_NAT"),
    ("reject", "CONFIG_NFT_REJECT_INET"),
    ("ibrname", "CONFIG_NFT_BRIDGE_META"),
    ("ct ", "CONFIG_NFT_CT"),
    ("table bridge", "CONFIG_NF_TABLES_BRIDGE"),
)
_LACKING: Final = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})
"""How the kernel says that it has no such expression, chain type or family; the first says other things too."""


def load(text: str, ways: Sequence[Callable[[str], bool]] = ()) -> None:
    """Does what the text says in the calling thread's network namespace: all of it, or nothing.

    Raises Refused for what nft or the kernel refuses, CNIError where there is no nft. `ways`: of loading, by
    preference; each answers whether it is there.
    """
    # Where it gets no socket to nf_tables, the library ends the process that it is in.
    connect().close()
    for way in ways or (by_library, by_command):
        if way(text):
            return
    raise CNIError(
        NOT_AVAILABLE,
        f"nftables rules can't be loaded: neither {LIBRARY} nor nft (in {':'.join(PLACES)}) is there",
        "apt-get install nftables (libnftables1 is enough)",
    )


def by_library(text: str) -> bool:
    """Raises Refused."""
    try:
        import ctypes

        library = ctypes.CDLL(LIBRARY)
    except (ImportError, OSError):
        return False
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    try:
        # Standard output is for the result of the call.
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        # From a file: of a text in memory it would show the first line, whichever the error is in.
        file = command.file_of(text.encode("utf-8", "surrogateescape"))
        try:
            failed = library.nft_run_cmd_from_filename(context, f"/proc/self/fd/{file}".encode())
        finally:
            posix.close(file)
        said = library.nft_ctx_get_error_buffer(context) or b""
    finally:
        library.nft_ctx_free(context)
    if failed:
        raise refused(said.decode("utf-8", "replace"))
    return True


def by_command(text: str, places: Sequence[str] = ()) -> bool:
    """Raises Refused, where it can't be executed too."""
    if not command.find(_COMMAND[0], places or PLACES):
        return False
    end = command.ended(_COMMAND, text.encode("utf-8", "surrogateescape"), places or PLACES)
    if end.status:
        raise refused(end.said)
    return True


def refused(said: str) -> Refused:
    """The first of the errors that nft tells of: file, line and columns, what is wrong, the line, marks below it."""
    lines = [*said.splitlines(), "", ""]
    first = next((n for n, line in enumerate(lines) if "Error: " in line), -1)
    if first < 0:
        return Refused(errno.EINVAL, _WHAT, lines[0] or "it failed without a word")
    # What it then guesses to have been meant is of use to who types, and no name in our rules is misspelt.
    wrong = lines[first].partition("Error: ")[2].removeprefix("Could not process rule: ").partition("; did you mean")[0]
    line, marks = lines[first + 1 : first + 3]
    code = next((code for code in errno.errorcode if posix.strerror(code) in wrong), errno.EINVAL)
    hint = f"{wrong} in {shown(line.strip())}" if line else wrong
    if code in _LACKING:
        marked = line[marks.find("^") : marks.rfind("^") + 1]
        options = [option for where in (marked, line) for word, option in _OPTIONS if word in where]
        if options:
            hint += f": does this kernel have {options[0]}?"
    return Refused(code, _WHAT, hint)

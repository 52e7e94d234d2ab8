"""`podwire`, the command for people.

Each subcommand is a module of its own, imported when it is asked for: `main(arguments) -> exit code`.
Exit codes: 0 done, 1 failed, 2 misused, 130 interrupted. What failed, where, and what to do about it is a
line on standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMMANDS: Final = {
    "net": "attach namespaces to CNI networks and detach them, as a container runtime does",
    "ipam": "who holds which address on this node, and which part of the cluster's networks a node has",
    "demo": "two pods on a throw-away node, attached before your eyes",
    "version": "which CNI versions this speaks, and what it runs on",
}
"""What each module in this package is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments, the program's name not among them; by default those of the process."""
    parser = argparse.ArgumentParser(
        prog="podwire",
        description="The network of pods. Container runtimes call this file as a CNI plugin; people call:",
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:9} {what}" for name, what in COMMANDS.items()),
                "",
                "`podwire COMMAND --help` tells more.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name is bytes: better shown with escapes than not at all.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _terminated_by_exception():
            chosen = parser.parse_args(argv)
            command = importlib.import_module(f"cni.cli.{chosen.command}")
            code: int = command.main(chosen.arguments)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt as interrupted:
        print("podwire: interrupted", *getattr(interrupted, "__notes__", ()), sep="\n", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has seen enough. The interpreter would complain about it once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as left:  # argparse, having said why
        return left.code if isinstance(left.code, int) else 1


@contextlib.contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """While it lasts, SIGTERM unwinds the stack as Ctrl-C does: what was begun is taken back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

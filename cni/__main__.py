"""The executable's entry: a plugin where a runtime calls, and the command for people otherwise."""

from __future__ import annotations

import sys

from cni.lean import environment, posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Serves the call and returns the exit code; ends the process itself after serving a runtime."""
    environ = environment()
    if "CNI_COMMAND" not in environ:
        from cni import cli

        return cli.main(argv[1:])
    from cni import plugin

    # A stream that was closed when we started has no Python object; its number may be another file's by now.
    streams = (sys.stdin, sys.stdout, sys.stderr)
    stdin, stdout, stderr = [-1 if stream is None else number for number, stream in enumerate(streams)]
    code = plugin.main(argv[0], environ, stdin, stdout, stderr, exiting=True)
    # All is written. Taking the interpreter apart would cost a quarter of the whole call.
    return posix._exit(code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))

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

    code = plugin.main(argv[0], environ, 0, 1, 2, exiting=True)
    # All is written. Taking the interpreter apart would cost a quarter of the whole call.
    return posix._exit(code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))

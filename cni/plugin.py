"""The protocol's shell: a call comes in as environment and stdin, and goes out as stdout and an exit code.

Here, and only here, exceptions become CNI errors, and one JSON document goes to stdout: a result, an error, or
nothing. What else there is to say goes to stderr, which runtimes log. Nothing below knows of streams.
"""

from __future__ import annotations

import errno

from cni.lean import dumps, loads, posix
from cni.plugins import HOST_LOCAL, NAMES, PLUGINS
from cni.spec import versions
from cni.spec.errors import (
    INTERNAL,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    KERNEL_REFUSED,
    PASSING,
    STATE_UNUSABLE,
    TRY_AGAIN_LATER,
    CNIError,
)
from cni.spec.netconf import NetConf, read_stdin, spoken
from cni.spec.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.attach.node import Node
    from cni.plugins import Plugin
    from cni.spec.result import Result
    from cni.wanted import Addresses


def main(argv0: str, environ: Mapping[str, str], stdin: int, stdout: int, stderr: int, *, exiting: bool = False) -> int:
    """Serves one call of the plugin that `argv0` names; the streams are descriptors. Returns the exit code.

    A DEL answers before the kernel has quite finished. Who is `exiting` leaves the rest to the helper that sees
    to it; for all others it is waited for.

    Whatever happens, stdout gets one JSON document or nothing.
    """
    version = ""
    config = b""
    try:
        if environ.get("CNI_COMMAND") == "VERSION":
            _write(stdout, _version(stdin))
            return 0
        request = Request.parse(environ)
        config = read_stdin(stdin)
        conf = NetConf.parse(config, leaving=request.command == "DEL")
        version = conf.cni_version
        request.require_known()
        versions.require_command(request.command, version)
        result = serve(_name(argv0), request, conf, environ, exiting=exiting)
        if result is not None:
            _write(stdout, result.to_json(version))
        return 0
    except CNIError as error:
        failure = error
    except OSError as error:
        failure = translated(error)
    except BaseException as error:  # noqa: BLE001 - see the comment
        # The last resort, KeyboardInterrupt included: the runtime hears of it in the protocol's terms too.
        _say(stderr, _traceback(error))
        failure = CNIError(INTERNAL, f"{type(error).__name__}: {error}", "this is a defect; stderr has the traceback")
    told = failure.to_json(version or spoken(config))
    for note in getattr(failure, "__notes__", ()):
        _say(stderr, note)
    try:
        _write(stdout, told)
    except CNIError as error:
        _say(stderr, f"{error.msg}; the error was {told}")
    return 1


def translated(error: OSError) -> CNIError:
    """A refusal of the kernel, or of a file system, in the terms of the specification."""
    # Imported when something went wrong: host-local, a whole call of its own, has no use for it otherwise.
    from cni.kernel.netlink import Refused

    if isinstance(error, Refused):
        code = TRY_AGAIN_LATER if error.errno in PASSING else KERNEL_REFUSED
        failure = CNIError(code, str(error), "the kernel refused it; the part before the colon can be replayed by hand")
    else:
        where = f"{error.filename}: " if error.filename else ""
        code = TRY_AGAIN_LATER if error.errno in PASSING else STATE_UNUSABLE
        name = errno.errorcode.get(error.errno or 0, "?")
        failure = CNIError(code, f"{where}{error.strerror or error} ({name})", _advice(error.errno))
    for note in getattr(error, "__notes__", ()):
        failure.add_note(note)
    return failure


def _advice(code: int | None) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "make room on that file system"
    if code in (errno.EACCES, errno.EPERM):
        return "a plugin needs root: CAP_NET_ADMIN and CAP_SYS_ADMIN, and its state directories"
    if code == errno.EROFS:
        return "mount it for writing, or move the state with PODWIRE_RUN_DIR"
    return "see the node's log"


def serve(name: str, request: Request, conf: NetConf, environ: Mapping[str, str], *, exiting: bool) -> Result | None:
    """One verb of one plugin. Only ADD has a result. Raises CNIError, OSError."""
    if name == HOST_LOCAL:
        from cni import hostlocal

        return hostlocal.run(request.command, conf, request, _boot())
    from cni import addresses
    from cni.attach.node import DEFAULT_RUN_DIR, Node

    run_dir = environ.get("PODWIRE_RUN_DIR") or DEFAULT_RUN_DIR
    if not run_dir.startswith("/"):
        raise CNIError(INVALID_ENVIRONMENT, f"PODWIRE_RUN_DIR must be an absolute path, got {run_dir}")
    with Node(run_dir, lambda delegation: addresses.reopen(delegation, request.path, node.boot)) as node:
        try:
            return _attach(node, name, PLUGINS[name], request, conf)
        finally:
            if not exiting:
                node.settle()


def _boot() -> str:
    """ "" where it can't be known: then nothing will be reclaimed for its age, which is no reason to fail."""
    from cni import boot

    try:
        return boot.stamp()
    except OSError:
        return ""


def _attach(node: Node, name: str, plugin: Plugin, request: Request, conf: NetConf) -> Result | None:
    from cni import addresses
    from cni.attach import engine
    from cni.wanted import Key

    command = request.command
    leaving = command == "DEL"
    if not plugin.recorded:
        ipam: Addresses = addresses.NoAddresses()  # who leaves no trace has nowhere to note a lease: it takes none
    elif leaving:
        ipam = addresses.of_leaving(conf, request.args, request.path, node.boot)
    else:
        ipam = addresses.of(conf, request.args, request.path, node.boot, lambda network: _departed(node, network))
    if command == "GC":
        if plugin.recorded:
            engine.gc(node, conf.name, name, ipam, conf.valid_attachments)
        return None
    # What a record lists goes without the code that knows why; so a DEL never stumbles over its configuration.
    features = () if leaving and plugin.recorded else plugin.features(conf, request.args)
    if command == "STATUS":
        engine.status(node, ipam)
        return None
    call = engine.Call(
        key=Key(conf.name, request.container_id, request.ifname, name),
        netns=request.netns,
        own_netns_is_fine=request.netns_override,
        cni_version=conf.cni_version,
        features=features,
        addresses=ipam,
        prev=conf.prev_result,
        dns=conf.dns,
        recorded=plugin.recorded,
    )
    if command == "ADD":
        if isinstance(ipam, addresses.Delegate):
            ipam.require()
        return engine.add(node, call)
    if leaving:
        engine.delete(node, call)
    else:
        engine.check(node, call)
    return None


def _departed(node: Node, network: str) -> frozenset[tuple[str, str]]:
    from cni.attach import departed

    return departed.of_network(node, network)


def _name(argv0: str) -> str:
    name = argv0.rpartition("/")[2]
    if name not in NAMES:
        raise CNIError(
            INVALID_CONFIG,
            f'"{name}" is not the name of a plugin, so it can\'t be a type',
            f"this file is a plugin where it is called {', '.join(NAMES)}: copy it under that name",
        )
    return name


def _version(stdin: int) -> str:
    """The answer to VERSION, in the version that was asked in where that can be known."""
    asked = versions.CURRENT
    # A person at a terminal has nothing to say on stdin.
    if not posix.isatty(stdin):
        try:
            told = loads(read_stdin(stdin))
        except (CNIError, ValueError):
            told = None
        if isinstance(told, dict) and told.get("cniVersion") in versions.SUPPORTED:
            asked = told["cniVersion"]
    return dumps({"cniVersion": asked, "supportedVersions": list(versions.SUPPORTED)})


def _write(fd: int, document: str) -> None:
    """One line. Raises CNIError, for a stdout that is closed too: a result that nobody got is a failure."""
    data = document.encode() + b"\n"
    while data:
        try:
            data = data[posix.write(fd, data) :]
        except OSError as error:
            raise CNIError(
                IO_FAILURE, f"error writing to stdout: {error.strerror}", "the runtime has to read what a plugin says"
            ) from error


def _say(fd: int, text: str) -> None:
    try:
        posix.write(fd, f"podwire: {text.rstrip()}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody listens on stderr, and stdout has the error


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))

"""The protocol's shell: a call comes in as environment and stdin, and goes out as stdout and an exit code.

Here, and only here, exceptions become CNI errors (`failing` has those that nobody expected), and one JSON document goes
to stdout: a result, an error, or nothing. What else there is to say goes to stderr, which runtimes log. Nothing below
knows of streams. What a verb needs is imported by that verb.
"""

from __future__ import annotations

from cni import skeleton
from cni.key import Key
from cni.lean import dumps, loads, posix
from cni.plugins import HOST_LOCAL, NAMES, PLUGINS, supported
from cni.spec import versions
from cni.spec.errors import (
    INTERNAL,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    CNIError,
)
from cni.spec.netconf import NetConf, read_stdin, spoken
from cni.spec.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.attach.call import Call
    from cni.attach.node import Node
    from cni.plugins import Plugin
    from cni.spec.result import Result
    from cni.wanted import Addresses, Feature, Main


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
            _write(stdout, _version(stdin, supported(_base(argv0))))
            return 0
        request = Request.parse(environ)
        config = read_stdin(stdin)
        # A DEL goes by its record, and needs the rest of its configuration only where there is none.
        read = NetConf.begun if request.command == "DEL" else NetConf.parse
        conf = read(config, supported(_base(argv0)))
        version = conf.cni_version
        request.require_known()
        versions.require_command(request.command, version)
        result = serve(_name(argv0), request, conf, environ, exiting=exiting)
        if result is not None:
            _write(stdout, result.to_json(version))
        return 0
    except CNIError as error:
        failure = error
    except BaseException as error:  # noqa: BLE001 - the last resort: the runtime hears of it in the protocol's terms
        failure = _unexpected(error, stderr)
    told = failure.to_json(version or spoken(config))
    for note in getattr(failure, "__notes__", ()):
        _say(stderr, note)
    try:
        _write(stdout, told)
    except CNIError as error:
        _say(stderr, f"{error.msg}; the error was {told}")
    return 1


def _unexpected(error: BaseException, stderr: int) -> CNIError:
    """In the protocol's terms, whatever it is. Doesn't raise: somebody may have overwritten this file while it ran, so
    that there is no more code to be had."""
    try:
        from cni import failing

        if isinstance(error, OSError):
            return failing.translated(error)
        _say(stderr, failing.traceback_of(error))
    except Exception as second:  # noqa: BLE001 - what matters is the first
        _say(stderr, f"{type(second).__name__}: {second}")
    return CNIError(INTERNAL, f"{type(error).__name__}: {error}", "this is a defect; stderr has the traceback")


def serve(name: str, request: Request, conf: NetConf, environ: Mapping[str, str], *, exiting: bool) -> Result | None:
    """One verb of one plugin, with a configuration that is read as far as its verb needs. Only ADD has a result.

    Raises CNIError, OSError.
    """
    if name == HOST_LOCAL:
        from cni.hostlocal import executable

        return executable.run(request.command, conf, request, _boot())
    from cni import addresses
    from cni.attach.node import DEFAULT_RUN_DIR, Node

    run_dir = environ.get("PODWIRE_RUN_DIR") or DEFAULT_RUN_DIR
    if not run_dir.startswith("/"):
        raise CNIError(INVALID_ENVIRONMENT, f"PODWIRE_RUN_DIR must be an absolute path, got {run_dir}")
    data_dir = PLUGINS[name].data_dir and f"{run_dir}/{PLUGINS[name].data_dir}"
    with Node(
        run_dir,
        lambda delegation: addresses.reopen(delegation, request.path, node.boot, environ, data_dir),
        skeleton,
        exiting=exiting,
    ) as node:
        try:
            if request.command == "DEL":
                _detach(node, name, request, conf, environ, data_dir)
                return None
            return _attach(node, name, request, conf, environ, data_dir)
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


def _detach(node: Node, name: str, request: Request, conf: NetConf, environ: Mapping[str, str], data_dir: str) -> None:
    """DEL."""
    from cni import addresses

    plugin = PLUGINS[name]
    key = Key(conf.name, request.container_id, request.ifname, name)

    def call() -> Call:
        whole = conf.whole(leaving=True)
        return _call(
            key,
            request,
            whole,
            addresses.of_leaving(whole, request.args, request.path, node.boot, environ, data_dir),
            _leaving(plugin, whole, request.args),
        )

    if plugin.recorded:
        from cni.attach import removing

        # What a record lists goes without its configuration, so a DEL never stumbles over that.
        removing.delete(node, key, request.netns, request.netns_override, call)
    else:
        from cni.attach import inside

        inside.delete(node, call())


def _leaving(plugin: Plugin, conf: NetConf, args: str) -> tuple[Main | None, tuple[Feature, ...]]:
    """What a DEL without a record has to know of features. What is on the node is found by its tag, without the code
    that knows why it is there; but what was written into the rules of others bears none, and only the previous result
    tells whose it was."""
    if plugin.recorded and not conf.prev_result:
        return None, ()
    try:
        main, features = plugin.features(conf, args)
    except CNIError:
        # Whatever the configuration says by now, the pod has to go.
        return None, ()
    return (None if plugin.recorded else main), features


def _attach(
    node: Node, name: str, request: Request, conf: NetConf, environ: Mapping[str, str], data_dir: str
) -> Result | None:
    """ADD, and what asks how things are: CHECK, STATUS and GC."""
    from cni import addresses

    command = request.command
    plugin = PLUGINS[name]
    if plugin.recorded and not plugin.chained:
        ipam = addresses.of(
            conf, request.args, request.path, node.boot, lambda network: _departed(node, network), environ, data_dir
        )
    else:
        ipam = addresses.none()  # who leaves no trace has nowhere to note a lease
    if command == "GC":
        if plugin.recorded:
            from cni.attach import collecting

            collecting.gc(node, conf.name, name, ipam, conf.valid_attachments)
        return None
    features = plugin.features(conf, request.args)
    if command == "STATUS":
        from cni.attach import readiness

        readiness.status(node, ipam, plugin.filters)
        return None
    key = Key(conf.name, request.container_id, request.ifname, name)
    call = _call(key, request, conf, ipam, features)
    if plugin.chained:
        from cni.attach import chained

        chained.require_prev(call)
    if command == "ADD":
        ipam.require()
        if plugin.recorded:
            from cni.attach import adding

            return adding.add(node, call)
        from cni.attach import inside

        return inside.add(node, call)
    if plugin.recorded:
        from cni.attach import checking

        checking.check(node, call)
    else:
        from cni.attach import inside

        inside.check(node, call)
    return None


def _call(
    key: Key, request: Request, conf: NetConf, ipam: Addresses, features: tuple[Main | None, tuple[Feature, ...]]
) -> Call:
    from cni.attach.call import Call

    plugin = PLUGINS[key.plugin]

    return Call(
        key=key,
        netns=request.netns,
        own_netns_is_fine=request.netns_override,
        chained=plugin.chained,
        cni_version=conf.cni_version,
        main=features[0],
        features=features[1],
        addresses=ipam,
        prev=conf.prev_result,
        dns=plugin.dns(conf) if plugin.dns else conf.dns,
        config=conf.raw.decode() if plugin.chained else "",
    )


def _departed(node: Node, network: str) -> frozenset[tuple[str, str]]:
    from cni.attach import departed

    return departed.of_network(node, network)


def _name(argv0: str) -> str:
    name = _base(argv0)
    if name not in NAMES:
        raise CNIError(
            INVALID_CONFIG,
            f'"{name}" is not the name of a plugin, so it can\'t be a type',
            f"this file is a plugin where it is called {', '.join(NAMES)}: copy it under that name",
        )
    return name


def _base(argv0: str) -> str:
    return argv0.rpartition("/")[2]


def _version(stdin: int, spoken_here: tuple[str, ...]) -> str:
    """The answer to VERSION, in the version that was asked in where that can be known."""
    asked = versions.CURRENT
    # A person at a terminal has nothing to say on stdin.
    if not posix.isatty(stdin):
        try:
            told = loads(read_stdin(stdin))
        except (CNIError, ValueError):
            told = None
        if isinstance(told, dict) and told.get("cniVersion") in spoken_here:
            asked = told["cniVersion"]
    return dumps({"cniVersion": asked, "supportedVersions": list(spoken_here)})


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

"""`podwire net`: networks and attachments by hand, with the arguments and variables of cnitool.

What plugins answer is passed on: a result, or the error object of the plugin that failed, is the JSON on
standard output; what it means for people goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cni.lean import JSONError, loads
from cni.runtime import conflist, names
from cni.runtime.cache import DEFAULT_ROOT, Cache
from cni.runtime.chain import Attachment, ChainFailed, Runtime
from cni.spec.errors import INVALID_ENVIRONMENT, INVALID_NETNS, CNIError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cni.runtime.conflist import Entry, Network

DEFAULT_PATH: Final = "/opt/cni/bin"
DEFAULT_IFNAME: Final = "eth0"

_DESCRIPTION: Final = """\
Runs the plugins of a network as a container runtime does: attaches a network namespace to it, checks and
detaches it. NET is the name of a network in the configuration folder; NETNS is a network namespace, either its
path or the name that `ip netns` knows it by.
"""
_EXAMPLES: Final = """\
example:
  ip netns add blue
  podwire net add podnet blue      attaches it and prints the result
  podwire net check podnet blue    exits with 0 if all is still in place
  podwire net del podnet blue

Options may be given as environment variables, as for cnitool; an option wins.
"""


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call, with what it works on."""

    options: argparse.Namespace
    folder: Path
    cache: Cache
    runtime: Runtime

    def network(self) -> Network:
        return conflist.find(self.folder, self.options.net)

    def attachment(self) -> Attachment:
        """Raises CNIError. Whether the namespace exists is not asked: a DEL doesn't need it."""
        netns = names.netns_path(self.options.netns)
        container_id = self.options.container_id
        if not netns and not container_id:
            raise CNIError(INVALID_NETNS, 'NETNS is ""', "then the container is to be named (--container-id)")
        return Attachment(
            container_id or names.container_id(netns),
            netns,
            self.options.ifname,
            self.options.args,
            _capability_args(self.options.cap_args),
        )

    def live_attachment(self) -> Attachment:
        """Raises CNIError when there is no such namespace."""
        attachment = self.attachment()
        if not os.path.exists(attachment.netns):
            raise CNIError(
                INVALID_NETNS,
                f"there is no network namespace {shown(attachment.netns)}",
                "NETNS is a path, or a name: `ip netns list` shows those there are, `ip netns add` makes one",
            )
        return attachment


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Runs `podwire net ARGUMENTS`; the plugins find `environ` in theirs."""
    options = _parser(environ).parse_args(arguments)
    try:
        cache = Cache(Path(options.cache_dir))
        path = [folder for folder in options.bin_dir.split(":") if folder]
        run: Callable[[Call], int] = options.run
        return run(Call(options, Path(options.conf_dir), cache, Runtime(path, cache, environ)))
    except ChainFailed as failed:
        first = failed.failures[0]
        print(first.error.to_json(first.version))
        _say(options.verb, *map(str, failed.failures))
    except CNIError as error:
        _say(options.verb, f"{error.msg}; {error.details}" if error.details else error.msg, *_notes(error))
    return 1


# --- the verbs ----------------------------------------------------------------------------------------


def _list(call: Call) -> int:
    entries = conflist.scan(call.folder)
    try:
        attached: list[str] | None = [one.network for one in call.cache.attachments()]
    except CNIError:  # the cache is root's; the configurations are everybody's
        attached = None
    usable = [(entry.network, entry) for entry in entries if entry.network]
    if call.options.json:
        print(json.dumps([_described(entry, attached, call.runtime) for entry in entries], indent=4))
    elif usable:
        rows = [("NAME", "CNI", "PLUGINS", "ATTACHED", "FILE", "")]
        for network, entry in usable:
            count = "?" if attached is None else str(attached.count(network.name))
            plugins = " ".join(plugin.type for plugin in network.plugins)
            remarks = _remarks(network, entry, call.runtime)
            rows.append((network.name, network.version, plugins, count, str(entry.file), remarks))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    problems = [f"{entry.problem.msg}; {entry.problem.details}" for entry in entries if entry.problem]
    if not entries:
        _say("list", f"no network configurations in {call.folder}")
    _say("list", *problems)
    return 1 if problems else 0


def _described(entry: Entry, attached: list[str] | None, runtime: Runtime) -> dict[str, Any]:
    if entry.network is None:
        return {"file": str(entry.file), "problem": str(entry.problem)}
    network = entry.network
    return {
        "name": network.name,
        "cniVersion": network.version,
        "plugins": [plugin.type for plugin in network.plugins],
        "missing": list(runtime.missing(network)),
        "disableCheck": network.disable_check,
        "disableGC": network.disable_gc,
        "attachments": None if attached is None else attached.count(network.name),
        "file": str(entry.file),
        "shadowed": entry.shadowed,
    }


def _remarks(network: Network, entry: Entry, runtime: Runtime) -> str:
    missing = runtime.missing(network)
    remarks = {
        "shadowed by a file before it": entry.shadowed,
        "no CHECK": network.disable_check,
        "no GC": network.disable_gc,
        f"missing in CNI_PATH: {' '.join(missing)}": bool(missing),
    }
    return ", ".join(remark for remark, applies in remarks.items() if applies)


def _add(call: Call) -> int:
    added = call.runtime.add(call.network(), call.live_attachment())
    print(json.dumps(json.loads(added.text), indent=4))
    return 0


def _check(call: Call) -> int:
    network = call.network()
    if not call.runtime.check(network, call.live_attachment()):
        _say("check", f'{network.name}: nothing was checked: {network.source} says "disableCheck"')
    return 0


def _del(call: Call) -> int:
    attachment = call.attachment()
    try:
        network = call.network()
    except conflist.NotFound:
        # Its file may be gone; what was attached with it has to go all the same.
        remembered = call.runtime.remembered(call.options.net, attachment)
        if remembered is None:
            raise
        network = remembered
    call.runtime.delete(network, attachment)
    return 0


def _gc(call: Call) -> int:
    network = call.network()
    valid = None
    if call.options.all or call.options.valid:
        valid = [_pair(text) for text in call.options.valid or ()]
    collected = call.runtime.gc(network, valid)
    if collected is None:
        _say("gc", f'{network.name}: nothing was collected: {network.source} says "disableGC"')
        return 0
    for one in collected.detached:
        print(f"detached {one.container_id} {one.ifname}")
    if not collected.asked:
        _say(
            "gc", f"{network.name}: plugins weren't asked: GC exists since CNI 1.1.0, this network is {network.version}"
        )
    return 0


def _status(call: Call) -> int:
    network = call.network()
    if call.runtime.status(network):
        print(f"{network.name}: ready")
    else:
        _say(
            "status",
            f"{network.name}: plugins weren't asked: STATUS exists since CNI 1.1.0, this network is {network.version}",
        )
    return 0


def _check_config(call: Call) -> int:
    if call.options.schema:
        from cni.cli import schema

        print(schema.document(), end="")
        return 0
    from cni.cli import checkconfig

    files = [Path(name) for name in call.options.file] or [entry.file for entry in conflist.scan(call.folder)]
    if not files:
        _say("check-config", f"no network configurations in {call.folder}")
    failed = False
    for file in files:
        network, remarks = checkconfig.check(file)
        for remark in remarks:
            kind = [] if remark.is_error else ["warning"]
            _say("check-config", ": ".join([str(file), *filter(None, [remark.place]), *kind, remark.text]))
        if network and not any(remark.is_error for remark in remarks):
            print(f"{file}: {network.name}, CNI {network.version}: {' '.join(one.type for one in network.plugins)}: ok")
        else:
            failed = True
    return 1 if failed else 0


# --- arguments ----------------------------------------------------------------------------------------

_SUMMARIES: Final = {
    "list": "show the networks, their plugins and how many attachments each has",
    "add": "attach a namespace to a network (ADD)",
    "del": "detach a namespace from a network (DEL)",
    "check": "have the plugins find out whether all is in place (CHECK)",
    "gc": "take away what is left of attachments that are not valid any more (GC)",
    "status": "ask the plugins whether they could attach something now (STATUS)",
    "check-config": "find out what is wrong with a configuration, without a pod",
}
_MORE: Final = {
    "list": "",
    "add": "Prints the result. If a plugin fails, what the others did is undone at once (DEL).",
    "del": "May be repeated, and needs neither the namespace nor the network's configuration any more.",
    "check": "Prints nothing and exits with 0 if it is.",
    "gc": "Valid are those that the cache knows and whose namespace still exists. Attachments that another runtime "
    "made and keeps elsewhere, or is making just now, are unknown here and would be taken away: name them.",
    "status": "",
    "check-config": "Plugins of ours are judged, by what they would make of it; the kernel and what addresses are left "
    "are not looked at. Exits with 1 if no pod could be attached by it, or a key of podwire is unknown.",
}
_VERBS: Final = {
    "list": _list,
    "add": _add,
    "del": _del,
    "check": _check,
    "gc": _gc,
    "status": _status,
    "check-config": _check_config,
}


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podwire net",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folders, container = _folders(environ), _container(environ)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    by_name = {}
    for name, summary in _SUMMARIES.items():
        parents = [folders, container] if name in ("add", "del", "check") else [folders]
        text = f"{summary[0].upper()}{summary[1:]}. {_MORE[name]}"
        by_name[name] = verb = verbs.add_parser(name, help=summary, description=text, parents=parents)
        verb.set_defaults(run=_VERBS[name])
        if name not in ("list", "check-config"):
            verb.add_argument("net", metavar="NET", help="the name of the network")
        if name in ("gc", "status"):
            verb.add_argument("netns", metavar="NETNS", nargs="?", help="not used, but cnitool wants one")

    by_name["list"].add_argument("--json", action="store_true", help="as JSON, for scripts")
    by_name["check-config"].add_argument(
        "file", metavar="FILE", nargs="*", help="*.conflist or *.conf; by default all of the configuration folder"
    )
    by_name["check-config"].add_argument(
        "--schema", action="store_true", help="print the JSON Schema of podwire's configuration instead, for editors"
    )
    for name in ("add", "check"):
        by_name[name].add_argument("netns", metavar="NETNS", help="the namespace, by path or name")
    by_name["del"].add_argument(
        "netns", metavar="NETNS", help='the namespace, by path or name; "" where only the container ID is known'
    )
    which = by_name["gc"].add_mutually_exclusive_group()
    which.add_argument(
        "--valid", action="append", metavar="ID/NAME", help="an attachment to keep, all others go (may be repeated)"
    )
    which.add_argument("--all", action="store_true", help="none is valid: take everything away")
    return parser


def _folders(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--conf-dir",
        metavar="DIR",
        default=environ.get("NETCONFPATH") or str(conflist.DEFAULT_FOLDER),
        help=f"network configurations (default: NETCONFPATH, else {conflist.DEFAULT_FOLDER})",
    )
    parser.add_argument(
        "--bin-dir",
        metavar="DIR:DIR",
        default=environ.get("CNI_PATH") or DEFAULT_PATH,
        help=f"where plugins are looked for (default: CNI_PATH, else {DEFAULT_PATH})",
    )
    run_dir = environ.get("PODWIRE_RUN_DIR")
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        default=f"{run_dir}/cni" if run_dir else str(DEFAULT_ROOT),
        help=f"results, kept for CHECK and DEL (default: PODWIRE_RUN_DIR/cni, else {DEFAULT_ROOT}, as libcni)",
    )
    return parser


def _container(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--ifname",
        metavar="NAME",
        default=environ.get("CNI_IFNAME") or DEFAULT_IFNAME,
        help=f"the interface in the namespace (default: CNI_IFNAME, else {DEFAULT_IFNAME})",
    )
    parser.add_argument(
        "--container-id",
        metavar="ID",
        default=environ.get("CNI_CONTAINERID") or "",
        help="the container's ID (default: CNI_CONTAINERID, else made of NETNS as cnitool makes it)",
    )
    parser.add_argument(
        "--args",
        metavar="K=V;K=V",
        default=environ.get("CNI_ARGS") or "",
        help="arguments for every plugin (default: CNI_ARGS)",
    )
    parser.add_argument(
        "--cap-args",
        metavar="JSON",
        default=environ.get("CAP_ARGS") or "",
        help="an object of capabilities: each plugin is told those that it is configured to want (default: CAP_ARGS)",
    )
    return parser


def _capability_args(text: str) -> Mapping[str, object]:
    if not text:
        return {}
    try:
        value = loads(text)
    except JSONError as error:
        raise CNIError(INVALID_ENVIRONMENT, f"CAP_ARGS: not JSON: {error}", f"got {shown(text)}") from None
    if not isinstance(value, dict):
        raise CNIError(INVALID_ENVIRONMENT, "CAP_ARGS: not a JSON object", f"got {shown(text)}")
    return value


def _pair(text: str) -> tuple[str, str]:
    container_id, slash, ifname = text.partition("/")
    if not (container_id and slash and ifname):
        raise CNIError(INVALID_ENVIRONMENT, f"--valid: {text} is not CONTAINER_ID/INTERFACE")
    return container_id, ifname


def _notes(error: BaseException) -> Sequence[str]:
    return getattr(error, "__notes__", ())


def _say(verb: str, *lines: str) -> None:
    for line in lines:
        print(f"podwire net {verb}: {line}", file=sys.stderr)

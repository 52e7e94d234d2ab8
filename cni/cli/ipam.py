"""`podwire ipam`: which pod of this node holds which address, and which node has which part of the cluster's.

Tables are for people, `--json` is for scripts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cni.attach.node import DEFAULT_RUN_DIR
from cni.cli import reservations
from cni.cli.reservations import EARLIER, GONE, MEANINGS, TORN, Place
from cni.hostlocal import DATA_DIR, data_dir_of
from cni.lean import loads
from cni.plugins import HOST_LOCAL, PLUGINS
from cni.runtime import conflist
from cni.spec.errors import CNIError
from cni.spec.request import is_name
from cni.spec.section import Section
from ipam.address import Address
from ipam.nodecidr import LENGTHS, Conflict, Full, NodeCIDRs, Plan, Unreadable
from ipam.store import Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cni.cli.reservations import Reservation
    from ipam.address import Network

NODES_FILE: Final = "/var/lib/podwire/nodes.json"
_ID_CHARACTERS: Final = 13
"""Of a container ID, in a table: as `crictl ps` shows it."""

_DESCRIPTION: Final = """\
The reservations of host-local on this node, network by network; and, for clusters without a controller that assigns
them, which node has which part of the cluster's networks.
"""
_EXAMPLES: Final = """\
examples:
  podwire ipam show podnet                         who holds which address
  podwire ipam release podnet 10.244.1.7           takes one back
  podwire ipam repair podnet --dry-run             what is held by nobody any more

  podwire ipam assign worker-1 --cluster 10.244.0.0/16 --cluster fd00:10:244::/56
  podwire ipam assign worker-2                     the networks are remembered
  podwire ipam release worker-1
  podwire ipam list
"""


class Refused(Exception):
    """What was asked for can't be done; the text says why."""


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Runs `podwire ipam ARGUMENTS`."""
    options = _parser(environ).parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (Refused, ValueError, Conflict, Full, Unreadable, Busy) as error:
        complaint = str(error)
    except OSError as error:
        complaint = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else str(error)
    print(f"podwire ipam {options.verb}: {complaint}", file=sys.stderr)
    return 1


# --- reservations of this node --------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    network = _network(options.network)
    place = _place(options, network)
    found = reservations.reservations(place, network)
    if options.json:
        told = {
            "network": network,
            "directory": f"{place.data_dir}/{network}",
            "reservations": [_described(one) for one in found],
            "unknown": reservations.strangers(place, network),
        }
        print(json.dumps(told, indent=4))
        return 0
    if not found:
        _say("show", f"no address is held in {place.data_dir}/{network}")
        return 0
    _print_reservations(found)
    states = {one.state for one in found}
    print()
    for state in MEANINGS:
        if state in states:
            print(f"{state}: {MEANINGS[state]}")
    for name in reservations.strangers(place, network):
        _say("show", f"{place.data_dir}/{network}/{name} is no reservation; nothing of ours reads it")
    return 0


def _release(options: argparse.Namespace) -> int:
    """By name alone a node's networks, else addresses of a network."""
    if not options.what:
        return _release_node(options)
    network = _network(options.name)
    place = _place(options, network)
    found = reservations.reservations(place, network)
    chosen: list[Reservation] = []
    for text in options.what:
        mine = [one for one in found if text in (str(one.address), one.container_id) or _same(text, one.address)]
        if not mine:
            raise Refused(f"nothing of network {network} is held as {text}: `podwire ipam show {network}` lists it")
        chosen += mine
    attached = [str(one.address) for one in chosen if one.state == reservations.ATTACHED]
    if attached and not options.force:
        raise Refused(f"{', '.join(attached)} is in use by an attached pod: delete the pod, or use --force")
    reservations.release(place, network, {one.address for one in chosen})
    _tell(options, "released", chosen)
    return 0


def _repair(options: argparse.Namespace) -> int:
    network = _network(options.network)
    place = _place(options, network)
    take = {TORN, EARLIER, *([GONE] if options.gone else [])}
    if options.dry_run:
        _tell(options, "would release", [one for one in reservations.reservations(place, network) if one.state in take])
        return 0
    taken, swept = reservations.repair(place, network, take)
    _tell(options, "released", taken)
    if swept:
        _say("repair", f"removed {swept} stamps of what others had released")
    return 0


def _tell(options: argparse.Namespace, what: str, found: Sequence[Reservation]) -> None:
    if options.json:
        print(json.dumps([_described(one) for one in found], indent=4))
        return
    for one in found:
        owner = " ".join([part for part in (one.pod, *one.owner.split()) if part]) or "nobody"
        print(f"{what} {one.address} of {owner} ({one.state})")
    if not found:
        _say(options.verb, "nothing to release")


def _described(one: Reservation) -> dict[str, str]:
    return {
        "address": str(one.address),
        "containerID": one.container_id,
        "ifname": one.ifname,
        "pod": one.pod,
        "state": one.state,
    }


def _print_reservations(found: Sequence[Reservation]) -> None:
    rows = [("ADDRESS", "POD", "CONTAINER", "INTERFACE", "STATE")]
    for one in found:
        rows.append((str(one.address), one.pod or "-", one.container_id[:_ID_CHARACTERS] or "-", one.ifname or "-",
                     one.state))  # fmt: skip
    _print_table(rows)


def _place(options: argparse.Namespace, network: str) -> Place:
    data_dir = options.data_dir or _configured(Path(options.netconf), network, options.run_dir)
    return Place(data_dir, options.run_dir)


def _configured(folder: Path, network: str, run_dir: str) -> str:
    """Where the configuration of the network keeps its reservations; a network without one is an old one's remains."""
    try:
        entries = conflist.scan(folder)
        found = [entry.network for entry in entries if entry.network and entry.network.name == network]
        for plugin in found[0].plugins if found else ():
            keys = Section.of(loads(plugin.text), found[0].source).section("ipam")
            if HOST_LOCAL in (plugin.type, keys.text("type")):
                own = PLUGINS[plugin.type].data_dir if plugin.type in PLUGINS else ""
                return data_dir_of(keys, own and f"{run_dir}/{own}")
        broken = [entry.problem for entry in entries if entry.problem]
        if broken and not found:
            raise broken[0]  # it may be this network's
    except CNIError as error:
        raise Refused(f"{error}; say where the reservations are with --data-dir") from error
    return DATA_DIR


def _network(name: str) -> str:
    if not is_name(name):
        raise Refused(f"{name!r} is no name of a network")
    return name


def _same(text: str, address: Address) -> bool:
    """Whether it is another spelling of the address."""
    try:
        return Address.parse(text) == address
    except ValueError:
        return False


# --- nodes of the cluster -------------------------------------------------------------------------------


def _assign(options: argparse.Namespace) -> int:
    plan = Plan.parse(options.cluster, {4: options.length4, 6: options.length6}) if options.cluster else None
    Path(options.file).parent.mkdir(parents=True, exist_ok=True)
    networks = NodeCIDRs(options.file).assign(options.node, plan)
    if options.json:
        print(json.dumps({"node": options.node, "podCIDRs": _texts(networks)}))
    else:
        print(*networks, sep="\n")
    return 0


def _release_node(options: argparse.Namespace) -> int:
    networks = NodeCIDRs(options.file).release(options.name)
    if not networks:
        hint = f"of a network {options.name}, say which addresses or containers"
        raise Refused(f"no node {options.name} is in {options.file}; {hint}")
    if options.json:
        print(json.dumps({"node": options.name, "podCIDRs": _texts(networks)}))
    else:
        print(*networks, sep="\n")
    return 0


def _list(options: argparse.Namespace) -> int:
    kept = NodeCIDRs(options.file).read()
    if options.json:
        told = {
            "clusterCIDRs": _texts(kept.plan.clusters) if kept.plan else [],
            "nodes": {node: _texts(networks) for node, networks in sorted(kept.nodes.items())},
        }
        print(json.dumps(told, indent=4))
    elif kept.nodes:
        rows = [(node, " ".join(_texts(networks))) for node, networks in sorted(kept.nodes.items())]
        _print_table([("NODE", "NETWORKS"), *rows])
    else:
        _say("list", f"no node has a network in {options.file}")
    return 0


def _texts(networks: Sequence[Network]) -> list[str]:
    return [str(one) for one in networks]


# --- arguments ------------------------------------------------------------------------------------------


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podwire ipam",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--json", action="store_true", help="as JSON, for scripts")
    here = argparse.ArgumentParser(add_help=False)
    here.add_argument(
        "--data-dir", metavar="DIR", help=f'"dataDir" (what the network is configured to have, {DATA_DIR})'
    )
    netconf = environ.get("NETCONFPATH") or str(conflist.DEFAULT_FOLDER)
    here.add_argument("--netconf", metavar="DIR", default=netconf, help=f"configurations (NETCONFPATH, {netconf})")
    run_dir = environ.get("PODWIRE_RUN_DIR") or DEFAULT_RUN_DIR
    here.add_argument("--run-dir", metavar="DIR", default=run_dir, help=f"our own state (PODWIRE_RUN_DIR, {run_dir})")
    cluster = argparse.ArgumentParser(add_help=False)
    cluster.add_argument("--file", default=NODES_FILE, help=f"where the assignments are kept ({NODES_FILE})")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(
        name: str, run: Callable[[argparse.Namespace], int], what: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        found = verbs.add_parser(name, parents=[every, *parents], help=what, description=f"{what}.")
        found.set_defaults(run=run)
        return found

    show = verb("show", _show, "who holds which address of a network", here)
    show.add_argument("network", metavar="NETWORK")
    release = verb("release", _release, "takes back addresses of a network, or the networks of a node", here, cluster)
    release.add_argument("name", metavar="NETWORK|NODE", help="alone, a node")
    release.add_argument("what", metavar="ADDRESS|CONTAINER", nargs="*", help="of the network")
    release.add_argument("--force", action="store_true", help="although an attached pod uses it")
    repair = verb("repair", _repair, "takes back what nobody holds any more, and makes a new index", here)
    repair.add_argument("network", metavar="NETWORK")
    repair.add_argument("--dry-run", action="store_true", help="only say what it would take back")
    repair.add_argument(
        "--gone",
        action="store_true",
        help="also of pods whose namespace isn't there: only on the node itself, for a container may not see it",
    )
    assign = verb("assign", _assign, "gives a node its part of the cluster's networks", cluster)
    assign.add_argument("node", metavar="NODE")
    assign.add_argument("--cluster", metavar="CIDR", action="append", help="a network of the cluster, the first time")
    for version, what in ((4, "IPv4"), (6, "IPv6")):
        assign.add_argument(
            f"--length{version}",
            metavar="BITS",
            type=int,
            default=LENGTHS[version],
            help=f"prefix length of a node's {what} network ({LENGTHS[version]})",
        )
    verb("list", _list, "which node has which networks", cluster)
    return parser


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say(verb: str, *lines: str) -> None:
    for line in lines:
        print(f"podwire ipam {verb}: {line}", file=sys.stderr)

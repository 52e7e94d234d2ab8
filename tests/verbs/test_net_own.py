"""The one file as runtime and plugin at once: `podwire net` from the executable, over its own drop-in copies."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from cni.runtime.names import container_id
from tests import namespaces, oracle
from tests.session import TOP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Podwire = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def podwire(executables: Path, node: Path, tmp_path: Path) -> Podwire:
    """Runs `podwire ARGUMENTS` on a throw-away node that has one network."""
    ipam = {"type": "host-local", "dataDir": f"{tmp_path}/ipam", "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    bridge = {"type": "bridge", "bridge": "br0", "isDefaultGateway": True, "ipam": ipam}
    conflist = {"name": "podnet", "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "plugins": [bridge]}
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-podnet.conflist").write_text(json.dumps(conflist))
    environ = {
        "PATH": os.environ["PATH"],
        "PODWIRE_RUN_DIR": f"{tmp_path}/run",
        "NETCONFPATH": f"{tmp_path}/net.d",
        "CNI_PATH": str(executables),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", f"--net={node}", f"{executables}/podwire", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)

    return run


def succeeds(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_file_attaches_checks_collects_and_detaches(
    podwire: Podwire, node: Path, make_netns: Callable[[], Path], tmp_path: Path
) -> None:
    one, two = make_netns(), make_netns()

    assert succeeds(podwire("net", "status", "podnet")) == "podnet: ready\n"
    results = [json.loads(succeeds(podwire("net", "add", "podnet", str(netns)))) for netns in (one, two)]
    addresses = [result["ips"][0]["address"].partition("/")[0] for result in results]
    assert {result["cniVersion"] for result in results} == {"1.1.0"}
    assert namespaces.tcp(one, two, addresses[1]) == addresses[0]
    succeeds(podwire("net", "check", "podnet", str(one)))
    (listed,) = json.loads(succeeds(podwire("net", "list", "--json")))
    assert listed["attachments"] == 2

    assert succeeds(podwire("net", "gc", "podnet")) == ""  # both are alive
    assert [link.kind for link in oracle.links(node)] == ["bridge", "veth", "veth"]
    assert succeeds(podwire("net", "gc", "podnet", "--valid", f"{container_id(str(one))}/eth0")).startswith(
        "detached cnitool-"
    )
    assert oracle.links(two) == []
    succeeds(podwire("net", "check", "podnet", str(one)))

    succeeds(podwire("net", "del", "podnet", str(one)))
    succeeds(podwire("net", "del", "podnet", str(one)))
    assert [link.kind for link in oracle.links(node)] == ["bridge"]
    assert [file.name for file in (tmp_path / "ipam" / "podnet").glob("10.*")] == []
    assert os.listdir(tmp_path / "run/cni/results") == []


def test_a_plugins_error_is_passed_on_in_both_forms(podwire: Podwire, netns: Path) -> None:
    namespaces.shell(netns, "ip link add eth0 type bridge")

    done = podwire("net", "add", "podnet", str(netns))

    assert done.returncode == 1
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"
    assert done.stderr.startswith("podwire net add: podnet: bridge: ADD of cnitool-")
    assert "Traceback" not in done.stderr


def test_the_file_says_what_it_runs_on(podwire: Podwire) -> None:
    told = json.loads(succeeds(podwire("version", "--json")))

    assert told["code"] == "compiled"
    assert told["cniVersions"][-1] == "1.1.0"
    assert succeeds(podwire("net", "--help")).startswith("usage: podwire net")


def test_the_file_judges_configurations_and_knows_its_schema(podwire: Podwire, tmp_path: Path) -> None:
    file = tmp_path / "net.d/10-podnet.conflist"

    assert succeeds(podwire("net", "check-config")) == f"{file}: podnet, CNI 1.1.0: bridge: ok\n"
    assert succeeds(podwire("net", "check-config", "--schema")) == (TOP / "docs/podwire.schema.json").read_text()

    file.write_text(file.read_text().replace("isDefaultGateway", "isDefaultGatway").replace("br0", "br/0"))
    done = podwire("net", "check-config", str(file))

    assert (done.returncode, done.stdout) == (1, "")
    warning, error = done.stderr.splitlines()
    assert warning.endswith('bridge: warning: unknown key "isDefaultGatway"; did you mean "isDefaultGateway"?')
    assert "bridge: bridge must be the name of an interface" in error

"""`podwire net` as people and scripts meet it: arguments, variables, what is printed where, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cni import cli
from cni.cli import net
from cni.runtime.names import container_id
from tests.session import TOP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Podwire = Callable[..., tuple[int, str, str]]

NETNS = "/proc/self/ns/net"
ADDED = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.5/16"}], "extra": 1}

PLUGIN = """#!/bin/sh
echo "$CNI_COMMAND ${0##*/} $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS" >> "$CALLS"
cat > "$CALLS.stdin"
[ ! -e "$CALLS.fail" ] || { cat "$CALLS.fail"; exit 1; }
[ "$CNI_COMMAND" != ADD ] || echo '%s'
""" % json.dumps(ADDED)  # noqa: UP031  # the script has braces of its own


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    for name in ("conf", "bin"):
        (tmp_path / name).mkdir()
    return {
        "PATH": os.environ["PATH"],
        "NETCONFPATH": str(tmp_path / "conf"),
        "CNI_PATH": str(tmp_path / "bin"),
        "PODWIRE_RUN_DIR": str(tmp_path / "run"),
        "CALLS": str(tmp_path / "calls"),
    }


@pytest.fixture
def podnet(tmp_path: Path, environ: dict[str, str]) -> Path:
    """The file of a network of two plugins."""
    for name in ("one", "two"):
        (tmp_path / "bin" / name).write_text(PLUGIN)
        (tmp_path / "bin" / name).chmod(0o755)
    file = tmp_path / "conf" / "10-podnet.conflist"
    plugins = [{"type": "one"}, {"type": "two", "capabilities": {"mac": True}}]
    file.write_text(json.dumps({"name": "podnet", "cniVersion": "1.1.0", "plugins": plugins}))
    return file


@pytest.fixture
def podwire(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Podwire:
    """Runs `podwire net ARGUMENTS`: exit code, standard output, standard error."""

    def run(*arguments: str, **more: str) -> tuple[int, str, str]:
        code = net.main(arguments, {**environ, **more})
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def calls(environ: dict[str, str]) -> list[str]:
    with open(environ["CALLS"]) as file:
        return [line.rstrip() for line in file]


def test_an_attachment_from_add_to_del(podwire: Podwire, podnet: Path, environ: dict[str, str]) -> None:
    code, out, err = podwire("add", "podnet", NETNS)
    assert (code, json.loads(out), err) == (0, ADDED, "")
    assert podwire("check", "podnet", NETNS) == (0, "", "")
    assert podwire("status", "podnet") == (0, "podnet: ready\n", "")
    assert podwire("gc", "podnet") == (0, "", "")
    assert podwire("del", "podnet", NETNS) == (0, "", "")
    assert podwire("del", "podnet", NETNS) == (0, "", "")

    pod = f"{container_id(NETNS)} {NETNS} eth0"
    assert calls(environ) == [
        f"ADD one {pod}",
        f"ADD two {pod}",
        f"CHECK one {pod}",
        f"CHECK two {pod}",
        "STATUS one",
        "STATUS two",
        "GC one",
        "GC two",
        *(f"DEL two {pod}", f"DEL one {pod}") * 2,
    ]


def test_the_variables_are_cnitools_and_an_option_wins(
    podwire: Podwire, podnet: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    told = {"CNI_IFNAME": "net1", "CNI_ARGS": "A=1", "CAP_ARGS": '{"mac": "m", "ips": []}', "CNI_CONTAINERID": "c1"}

    assert podwire("add", "podnet", NETNS, **told)[0] == 0

    assert calls(environ)[0] == f"ADD one c1 {NETNS} net1 A=1"
    stdin = json.loads((tmp_path / "calls.stdin").read_text())
    assert stdin["runtimeConfig"] == {"mac": "m"}

    options = ["--ifname", "net2", "--args", "B=2", "--cap-args", "", "--container-id", "c2"]
    assert podwire("add", *options, "podnet", NETNS, **told)[0] == 0

    assert calls(environ)[2] == f"ADD one c2 {NETNS} net2 B=2"
    assert "runtimeConfig" not in json.loads((tmp_path / "calls.stdin").read_text())
    assert sorted(os.listdir(tmp_path / "run/cni/results")) == ["podnet-c1-net1", "podnet-c2-net2"]


def test_the_folders_can_be_given_as_options(podwire: Podwire, podnet: Path, tmp_path: Path) -> None:
    folders = [
        "--conf-dir",
        str(podnet.parent),
        "--bin-dir",
        f"/nowhere:{tmp_path}/bin",
        "--cache-dir",
        str(tmp_path / "c"),
    ]

    code, _, err = podwire("add", "podnet", NETNS, *folders, NETCONFPATH="/nowhere", CNI_PATH="/nowhere")

    assert (code, err) == (0, "")
    assert os.listdir(tmp_path / "c/results") == [f"podnet-{container_id(NETNS)}-eth0"]


def test_a_plugins_error_is_json_on_stdout_and_a_line_on_stderr(podwire: Podwire, podnet: Path, tmp_path: Path) -> None:
    error = {"cniVersion": "1.1.0", "code": 11, "msg": "busy", "details": "try again"}
    (tmp_path / "calls.fail").write_text(json.dumps(error))

    code, out, err = podwire("add", "podnet", NETNS, CNI_CONTAINERID="c1")

    assert code == 1
    assert json.loads(out) == error
    assert err.splitlines() == [
        "podwire net add: podnet: one: ADD of c1 failed: busy (code 11); try again",
        "podwire net add: podnet: one: DEL of c1 failed: busy (code 11); try again",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "othernet", NETNS], 'no network configuration with name "othernet"'),
        (["add", "podnet", "/nowhere/ns"], 'there is no network namespace "/nowhere/ns"; NETNS is a path, or a name'),
        (["add", "podnet", "nobody"], 'there is no network namespace "/run/netns/nobody"'),
        (["check", "podnet", "nobody"], 'there is no network namespace "/run/netns/nobody"'),
        (["check", "podnet", NETNS], "nothing is known of an ADD"),
        (["del", "podnet", ""], "the container is to be named"),
        (["del", "othernet", NETNS], "networks there: podnet"),
        (["add", "podnet", NETNS, "--cap-args", "{"], "CAP_ARGS: not JSON"),
        (["add", "podnet", NETNS, "--cap-args", "[]"], "CAP_ARGS: not a JSON object"),
        (["add", "podnet", NETNS, "--args", "A"], "CNI_ARGS: invalid pair"),
        (["add", "podnet", NETNS, "--container-id", "-"], "invalid characters in containerID"),
        (["gc", "podnet", "--valid", "c1"], "c1 is not CONTAINER_ID/INTERFACE"),
    ],
)
def test_what_is_wrong_before_a_plugin_runs_is_one_line_on_stderr(
    podwire: Podwire, podnet: Path, environ: dict[str, str], arguments: list[str], said: str
) -> None:
    code, out, err = podwire(*arguments)

    assert (code, out) == (1, "")
    assert err.startswith(f"podwire net {arguments[0]}: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not os.path.exists(environ["CALLS"])


def test_del_works_without_the_networks_file_and_without_the_namespace(
    podwire: Podwire, podnet: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ns").write_text("")
    podwire("add", "podnet", str(tmp_path / "ns"))
    (tmp_path / "ns").unlink()
    podnet.unlink()

    assert podwire("del", "podnet", str(tmp_path / "ns")) == (0, "", "")

    assert calls(environ)[-1] == f"DEL one {container_id(str(tmp_path / 'ns'))} {tmp_path}/ns eth0"
    assert os.listdir(tmp_path / "run/cni/results") == []


def test_del_of_a_container_needs_no_namespace(podwire: Podwire, podnet: Path, environ: dict[str, str]) -> None:
    podwire("add", "podnet", NETNS, "--container-id", "c1")

    assert podwire("del", "podnet", "", "--container-id", "c1")[0] == 0
    assert podwire("del", "podnet", "", "--container-id", "c2")[0] == 0

    assert calls(environ)[3] == f"DEL one c1 {NETNS} eth0"
    assert calls(environ)[5] == "DEL one c2  eth0"


def test_gc_says_what_it_detached(podwire: Podwire, podnet: Path) -> None:
    for container in ("c1", "c2", "c3"):
        podwire("add", "podnet", NETNS, "--container-id", container)

    assert podwire("gc", "podnet", "--valid", "c1/eth0", "--valid", "c2/eth0")[1] == "detached c3 eth0\n"
    assert podwire("gc", "--all", "podnet", NETNS)[1] == "detached c1 eth0\ndetached c2 eth0\n"


def test_what_was_not_asked_is_said(podwire: Podwire, podnet: Path) -> None:
    config = json.loads(podnet.read_text())
    podnet.write_text(json.dumps(config | {"cniVersion": "1.0.0", "disableCheck": "true"}))
    podwire("add", "podnet", NETNS)

    code, out, err = podwire("check", "podnet", NETNS)
    assert (code, out) == (0, "")
    assert "nothing was checked" in err
    code, out, err = podwire("status", "podnet")
    assert (code, out) == (0, "")
    assert "STATUS exists since CNI 1.1.0" in err
    code, out, err = podwire("gc", "podnet")
    assert (code, out) == (0, "")
    assert "GC exists since CNI 1.1.0" in err

    podnet.write_text(json.dumps(config | {"disableGC": True}))
    assert "nothing was collected" in podwire("gc", "podnet", "--all")[2]


# --- list ---------------------------------------------------------------------------------------------


def test_list_shows_what_counts_and_what_is_wrong_with_it(podwire: Podwire, podnet: Path) -> None:
    config = json.loads(podnet.read_text())
    (podnet.parent / "20-again.conflist").write_text(json.dumps(config))
    (podnet.parent / "30-lo.conf").write_text('{"name": "lo", "type": "loopback"}')
    (podnet.parent / "40-broken.conflist").write_text("{")
    podwire("add", "podnet", NETNS)

    code, out, err = podwire("list")

    rows = [line.split("  ") for line in out.splitlines()]
    table = [[cell.strip() for cell in row if cell] for row in rows]
    folder = podnet.parent
    assert table == [
        ["NAME", "CNI", "PLUGINS", "ATTACHED", "FILE"],
        ["podnet", "1.1.0", "one two", "1", f"{folder}/10-podnet.conflist"],
        ["podnet", "1.1.0", "one two", "1", f"{folder}/20-again.conflist", "shadowed by a file before it"],
        ["lo", "0.1.0", "loopback", "0", f"{folder}/30-lo.conf", "missing in CNI_PATH: loopback"],
    ]
    assert code == 1
    assert err.startswith(f"podwire net list: {folder}/40-broken.conflist: not JSON: ")


def test_list_shows_names_that_are_no_text(podnet: Path, environ: dict[str, str]) -> None:
    podnet.rename(os.fsdecode(os.fsencode(podnet.parent) + b"/\xff.conflist"))
    program = "import sys; from cni.cli import main; sys.exit(main(['net', 'list']))"

    for locale in ("C.UTF-8", "C"):
        listed = subprocess.run(
            [sys.executable, "-c", program], env={**environ, "LC_ALL": locale}, cwd=TOP, capture_output=True, check=True
        )
        assert rb"/\udcff.conflist" in listed.stdout


def test_list_is_json_for_scripts(podwire: Podwire, podnet: Path) -> None:
    (podnet.parent / "40-broken.conflist").write_text("{")

    code, out, _ = podwire("list", "--json")

    good, bad = json.loads(out)
    assert code == 1
    assert good == {
        "name": "podnet",
        "cniVersion": "1.1.0",
        "plugins": ["one", "two"],
        "missing": [],
        "disableCheck": False,
        "disableGC": False,
        "attachments": 0,
        "file": str(podnet),
        "shadowed": False,
    }
    assert bad["file"] == f"{podnet.parent}/40-broken.conflist"
    assert "not JSON" in bad["problem"]


def test_list_of_nothing_is_no_failure(podwire: Podwire, environ: dict[str, str]) -> None:
    code, out, err = podwire("list")

    assert (code, out) == (0, "")
    assert f"no network configurations in {environ['NETCONFPATH']}" in err
    assert podwire("list", "--json")[1] == "[]\n"


# --- the command around it ----------------------------------------------------------------------------


def test_help_names_every_verb_and_every_variable(podwire: Podwire, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net", "--help"]) == 0
    told = capsys.readouterr().out
    for verb in ("list", "add", "del", "check", "gc", "status"):
        assert f"    {verb} " in told
        assert cli.main(["net", verb, "--help"]) == 0
    told = capsys.readouterr().out
    for name in ("NETCONFPATH", "CNI_PATH", "CNI_IFNAME", "CNI_CONTAINERID", "CNI_ARGS", "CAP_ARGS", "PODWIRE_RUN_DIR"):
        assert name in told


def test_misuse_is_2_and_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["nonsense"], ["net"], ["net", "nonsense"], ["net", "add"], ["net", "add", "podnet"],
                      ["net", "gc", "podnet", "--all", "--valid", "c/e"]):  # fmt: skip
        assert cli.main(arguments) == 2
        assert "usage: podwire" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143)])
def test_an_interrupted_add_is_undone_and_leaves_by_its_signal(
    podnet: Path, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    (tmp_path / "bin" / "two").write_text(
        PLUGIN.replace("cat", f'[ "$CNI_COMMAND" != ADD ] || kill -{name} $PPID; cat', 1)
    )
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    before = signal.getsignal(signal.SIGTERM)

    assert cli.main(["net", "add", "podnet", NETNS, "--container-id", "c1"]) == code

    assert [line.split()[0:2] for line in calls(environ)] == [
        ["ADD", "one"],
        ["ADD", "two"],
        ["DEL", "two"],
        ["DEL", "one"],
    ]
    assert signal.getsignal(signal.SIGTERM) == before


def test_version_says_what_it_speaks_and_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in capsys.readouterr().out

    assert cli.main(["version", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cniVersions"][-1] == "1.1.0"
    assert told["code"] == "tree"


def test_a_reader_that_has_seen_enough_gets_no_complaint(podnet: Path, environ: dict[str, str]) -> None:
    program = "import sys; from cni.cli import main; sys.exit(main(['net', 'list']))"
    command = ["sh", "-c", '"$@" | true', "sh", sys.executable, "-c", program]

    done = subprocess.run(command, env=environ, cwd=TOP, check=True, stderr=subprocess.PIPE)

    assert done.stderr == b""

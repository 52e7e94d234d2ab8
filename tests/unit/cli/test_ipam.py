"""`podwire ipam` as people and scripts meet it: what it shows, what it takes back, what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cni import boot, cli
from cni.attach.record import Record, Records
from cni.cli import ipam
from cni.kernel.netns import Netns
from cni.key import Delegation, Key
from ipam.address import Address
from ipam.store import Directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Podwire = Callable[..., tuple[int, str, str]]

NOW = boot.stamp()
"""Of the machine that the tests run on."""


@pytest.fixture
def podwire(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Podwire:
    """Runs `podwire ipam …`: exit code, standard output, standard error."""
    places = {
        "show": ["--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")],
        "assign": ["--file", str(tmp_path / "var" / "nodes.json")],
    }
    places["repair"] = places["show"]
    places["list"] = places["assign"]
    places["release"] = places["show"] + places["assign"]

    def run(verb: str, *arguments: str) -> tuple[int, str, str]:
        code = cli.main(["ipam", verb, *places.get(verb, []), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def claim(tmp_path: Path, address: str, owner: str, stamp: str = "", pod: str = "") -> None:
    with Directory(str(tmp_path / "data"), "blue", boot=stamp, about=pod) as store:
        # Past the allocator, which would take back what an earlier boot left.
        store._recover()
        assert store.claim(Address.parse(address), owner)


def attached(tmp_path: Path, container_id: str, netns: Netns) -> None:
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "boot").write_text(NOW)
    key = Key("blue", container_id, "eth0", "bridge")
    Records(str(tmp_path / "run"), NOW).write(Record.begun(key, netns, 0, Delegation("host-local", "{}", "")))


@pytest.fixture
def blue(tmp_path: Path) -> Path:
    """A network with an address in every state; its directory."""
    claim(tmp_path, "10.1.0.2", "c0ffee-living-pod\r\neth0", NOW, "shop/cart-5d9")
    claim(tmp_path, "10.1.0.10", "c-gone\r\neth0", NOW)
    claim(tmp_path, "10.1.0.4", "c-reserved\r\neth0", NOW)
    folder = tmp_path / "data" / "blue"
    (folder / "10.1.0.5").write_text("c-others\r\neth0")
    (folder / "10.1.0.6").touch()
    (folder / "notes").write_text("not ours")
    stamps = tmp_path / "data" / ".podwire" / "blue" / "stamps"
    (folder / "fd00::7").write_text("c-old\r\neth0")
    ns = (folder / "fd00::7").stat().st_mtime_ns
    (stamps / "fd00::7").write_bytes(b"another-boot 7\n%d\nshop/old\nc-old\r\neth0" % ns)
    with Netns() as here:
        attached(tmp_path, "c0ffee-living-pod", here)
        here.inode += 1
        attached(tmp_path, "c-gone", here)
    return folder


def test_show_is_a_table_with_every_state_explained(blue: Path, podwire: Podwire) -> None:
    code, out, err = podwire("show", "blue")

    assert code == 0
    assert out.split("\n\n")[0].splitlines() == [
        "ADDRESS    POD            CONTAINER      INTERFACE  STATE",
        "10.1.0.2   shop/cart-5d9  c0ffee-living  eth0       attached",
        "10.1.0.4   -              c-reserved     eth0       reserved",
        "10.1.0.5   -              c-others       eth0       by another",
        "10.1.0.6   -              -              -          torn",
        "10.1.0.10  -              c-gone         eth0       gone",
        "fd00::7    shop/old       c-old          eth0       earlier boot",
    ]
    assert "gone: podwire attached the pod, and its namespace and its link are gone\n" in out
    assert err == f"podwire ipam show: {blue}/notes is no reservation; nothing of ours reads it\n"


def test_show_for_scripts(blue: Path, podwire: Podwire) -> None:
    code, out, err = podwire("show", "blue", "--json")

    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["directory"] == str(blue)
    assert told["unknown"] == ["notes"]
    assert told["reservations"][0] == {
        "address": "10.1.0.2",
        "containerID": "c0ffee-living-pod",
        "ifname": "eth0",
        "pod": "shop/cart-5d9",
        "state": "attached",
    }
    assert len(told["reservations"]) == 6


def test_a_network_that_was_never_used_holds_nothing(tmp_path: Path, podwire: Podwire) -> None:
    assert podwire("show", "red") == (0, "", f"podwire ipam show: no address is held in {tmp_path}/data/red\n")
    assert json.loads(podwire("show", "red", "--json")[1])["reservations"] == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "plugins",
    [
        [{"type": "bridge", "ipam": {"type": "host-local", "dataDir": "DATA"}}],
        [{"type": "tuning"}, {"type": "host-local", "IPAM": {"DataDir": "DATA"}}],
    ],
)
def test_a_network_is_looked_up_where_its_configuration_has_it(
    blue: Path,
    plugins: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = json.dumps({"cniVersion": "1.0.0", "name": "blue", "plugins": plugins})
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-blue.conflist").write_text(config.replace("DATA", str(blue.parent)))
    monkeypatch.setenv("NETCONFPATH", str(tmp_path / "net.d"))

    assert cli.main(["ipam", "show", "blue", "--json", "--run-dir", str(tmp_path / "run")]) == 0

    assert json.loads(capsys.readouterr().out)["directory"] == str(blue)


def test_podwire_keeps_reservations_with_its_own_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = {"type": "podwire", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}
    (tmp_path / "10-blue.conf").write_text(json.dumps({"cniVersion": "1.0.0", "name": "blue", **plugin}))
    monkeypatch.setenv("NETCONFPATH", str(tmp_path))

    assert cli.main(["ipam", "show", "blue", "--json", "--run-dir", str(tmp_path / "run")]) == 0

    assert json.loads(capsys.readouterr().out)["directory"] == str(tmp_path / "run" / "addresses" / "blue")


@pytest.mark.parametrize("ipam", [5, {"type": 5}, {"type": "host-local", "dataDir": 5}])
def test_a_configuration_that_does_not_say_where_is_an_error_and_not_the_default(
    ipam: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"cniVersion": "1.0.0", "name": "blue", "plugins": [{"type": "bridge", "ipam": ipam}]}
    (tmp_path / "10-blue.conflist").write_text(json.dumps(config))

    assert cli.main(["ipam", "show", "blue", "--netconf", str(tmp_path)]) == 1

    assert "--data-dir" in capsys.readouterr().err


def test_what_cannot_be_read_may_be_the_network_s_configuration(
    blue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-odd.conflist").write_text("{{")
    asked = ["ipam", "show", "blue", "--json", "--run-dir", str(tmp_path / "run"), "--netconf", str(tmp_path / "net.d")]

    assert cli.main(asked) == 1
    assert "10-odd.conflist" in capsys.readouterr().err

    plugin = {"type": "bridge", "ipam": {"type": "host-local", "dataDir": str(blue.parent)}}
    config = {"cniVersion": "1.0.0", "name": "blue", "plugins": [plugin]}
    (tmp_path / "net.d" / "20-blue.conflist").write_text(json.dumps(config))
    assert cli.main(asked) == 0


def test_a_folder_of_configurations_that_cannot_be_read_is_no_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert cli.main(["ipam", "show", "blue", "--netconf", str(tmp_path / "file")]) == 1

    assert "Not a directory" in capsys.readouterr().err


def held(blue: Path) -> list[str]:
    return sorted(path.name for path in blue.iterdir() if path.name[0] in "1f")


@pytest.mark.parametrize("what", ["10.1.0.5", "c-others"])
def test_release_takes_back_what_is_named(blue: Path, podwire: Podwire, what: str) -> None:
    code, out, _ = podwire("release", "blue", what)

    assert (code, out) == (0, "released 10.1.0.5 of c-others eth0 (by another)\n")
    assert "10.1.0.5" not in held(blue)
    assert len(held(blue)) == 5


def test_release_takes_any_spelling_of_an_address(blue: Path, podwire: Podwire) -> None:
    code, out, _ = podwire("release", "blue", "FD00:0::7")

    assert (code, out) == (0, "released fd00::7 of shop/old c-old eth0 (earlier boot)\n")


def test_release_refuses_what_is_in_use_unless_it_is_forced(blue: Path, podwire: Podwire) -> None:
    code, _, err = podwire("release", "blue", "10.1.0.4", "c0ffee-living-pod")

    assert code == 1
    assert err == "podwire ipam release: 10.1.0.2 is in use by an attached pod: delete the pod, or use --force\n"
    assert len(held(blue)) == 6
    assert podwire("release", "blue", "10.1.0.2", "--force")[0] == 0
    assert len(held(blue)) == 5


def test_release_of_what_is_not_held_says_where_to_look(blue: Path, podwire: Podwire) -> None:
    assert podwire("release", "blue", "10.1.0.99")[::2] == (
        1,
        "podwire ipam release: nothing of network blue is held as 10.1.0.99: `podwire ipam show blue` lists it\n",
    )


def test_repair_takes_back_what_is_nobody_s_and_leaves_the_rest(blue: Path, podwire: Podwire) -> None:
    left = blue.parent / ".podwire" / "blue" / "claim.1.2"
    left.touch()

    code, out, _ = podwire("repair", "blue", "--dry-run")
    assert (code, len(held(blue))) == (0, 6)
    assert out.replace("would release", "released") == podwire("repair", "blue")[1]

    assert held(blue) == ["10.1.0.10", "10.1.0.2", "10.1.0.4", "10.1.0.5"]
    assert not left.exists()
    assert podwire("repair", "blue") == (0, "", "podwire ipam repair: nothing to release\n")
    assert podwire("repair", "blue", "--gone")[1] == "released 10.1.0.10 of c-gone eth0 (gone)\n"


def test_repair_of_a_network_that_was_never_used_says_so(tmp_path: Path, podwire: Podwire) -> None:
    code, _, err = podwire("repair", "red")

    assert code == 1
    assert err == f"podwire ipam repair: {tmp_path}/data/red/lock: No such file or directory\n"


@pytest.mark.parametrize("told", [None, "another-boot 7", NOW.partition(" ")[0] + " 7"])
def test_of_the_kernel_s_own_boot_nothing_is_called_earlier_unless_the_plugins_say_so(
    tmp_path: Path, podwire: Podwire, told: str | None
) -> None:
    """Whoever calls may be in a container, where process 1 is another."""
    claim(tmp_path, "10.1.0.2", "c1\r\neth0", NOW.partition(" ")[0] + " 1")
    (tmp_path / "run").mkdir()
    if told is not None:
        (tmp_path / "run" / "boot").write_text(told)

    assert podwire("repair", "blue")[1] == ""

    (tmp_path / "run" / "boot").write_text(NOW)
    assert podwire("repair", "blue")[1] == "released 10.1.0.2 of c1 eth0 (earlier boot)\n"


@pytest.mark.parametrize("name", ["..", ".podwire", "a/b", ""])
def test_what_is_no_name_of_a_network_is_refused(podwire: Podwire, name: str) -> None:
    assert podwire("show", name)[::2] == (1, f"podwire ipam show: {name!r} is no name of a network\n")


# --- nodes --------------------------------------------------------------------------------------------


def test_nodes_are_assigned_listed_and_released(podwire: Podwire) -> None:
    clusters = ["--cluster", "10.244.0.0/16", "--cluster", "fd00:10:244::/56"]

    assert podwire("assign", "worker-1", *clusters) == (0, "10.244.0.0/24\nfd00:10:244::/64\n", "")
    assert podwire("assign", "worker-2")[1] == "10.244.1.0/24\nfd00:10:244:1::/64\n"
    assert podwire("assign", "worker-1")[1] == "10.244.0.0/24\nfd00:10:244::/64\n"
    assert podwire("list")[1].splitlines() == [
        "NODE      NETWORKS",
        "worker-1  10.244.0.0/24 fd00:10:244::/64",
        "worker-2  10.244.1.0/24 fd00:10:244:1::/64",
    ]
    assert podwire("release", "worker-1")[1] == "10.244.0.0/24\nfd00:10:244::/64\n"
    assert json.loads(podwire("list", "--json")[1]) == {
        "clusterCIDRs": ["10.244.0.0/16", "fd00:10:244::/56"],
        "nodes": {"worker-2": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
    }


def test_the_size_of_a_node_s_part_can_be_chosen(podwire: Podwire) -> None:
    code, out, _ = podwire("assign", "a", "--cluster", "10.244.0.0/16", "--length4", "26", "--json")

    told: dict[str, Any] = json.loads(out)
    assert (code, told) == (0, {"node": "a", "podCIDRs": ["10.244.0.0/26"]})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["assign", "a"], "which networks are to be divided has not been said yet"),
        (["assign", "a", "--cluster", "10.244.0.1/16"], "host bits"),
        (["assign", "a b", "--cluster", "10.244.0.0/16"], "no name of a node"),
        (["release", "a"], "no node a is in"),
    ],
)
def test_what_cannot_be_done_for_a_node_is_one_sentence(podwire: Podwire, arguments: list[str], words: str) -> None:
    code, out, err = podwire(*arguments)

    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_network_s_name_alone_is_not_taken_for_all_of_its_addresses(blue: Path, podwire: Podwire) -> None:
    code, _, err = podwire("release", "blue")

    assert code == 1
    assert err.endswith("of a network blue, say which addresses or containers\n")
    assert len(held(blue)) == 6


def test_without_a_verb_it_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ipam.main([])
    assert "usage: podwire ipam" in capsys.readouterr().err

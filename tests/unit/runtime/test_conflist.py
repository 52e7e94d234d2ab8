"""Configuration folders, read as libcni reads them; what it would say about a file is the yardstick."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cni.runtime import conflist
from cni.runtime.conflist import Network, NotFound
from cni.spec.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, INVALID_CONFIG, IO_FAILURE, CNIError

if TYPE_CHECKING:
    from pathlib import Path

BRIDGE = {"type": "bridge", "bridge": "br0"}


def network(**keys: Any) -> Network:
    return Network.parse(json.dumps({"name": "n", "cniVersion": "1.0.0", "plugins": [BRIDGE], **keys}), "n.conflist")


def write(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value))


def types(found: Network) -> list[str]:
    return [plugin.type for plugin in found.plugins]


# --- one list -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "version"),
    [
        ({"cniVersion": "0.4.0"}, "0.4.0"),
        ({"cniVersion": None}, "0.1.0"),
        ({"cniVersion": ""}, "0.1.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"]}, "1.1.0"),
        ({"cniVersion": "1.1.0", "cniVersions": ["0.3.1", "0.4.0"]}, "1.1.0"),
        ({"cniVersion": None, "cniVersions": ["0.4.0", "1.0.0", "0.3.1"]}, "1.0.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["9.0.0"]}, "1.0.0"),
        ({"cniVersion": "9.0.0", "cniVersions": ["0.3.0", "9.1.0"]}, "0.3.0"),
        ({"cniVersion": "1.0.0", "cniVersions": []}, "1.0.0"),
    ],
)
def test_the_highest_version_that_both_speak_is_chosen(keys: dict[str, Any], version: str) -> None:
    found = network(**keys)

    assert found.version == version
    assert found.versions[-1] == version


@pytest.mark.parametrize(
    ("keys", "code", "named"),
    [
        ({"cniVersion": "9.0.0"}, INCOMPATIBLE_VERSION, "9.0.0"),
        ({"cniVersion": "1.0"}, INCOMPATIBLE_VERSION, "1.0"),
        ({"cniVersion": "new"}, DECODING_FAILURE, "new"),
        ({"cniVersion": 1}, INVALID_CONFIG, "cniVersion"),
        ({"cniVersions": "1.0.0"}, INVALID_CONFIG, "cniVersions"),
        ({"cniVersions": [1]}, INVALID_CONFIG, "cniVersions"),
        ({"name": None}, INVALID_CONFIG, "name"),
        ({"name": "../etc"}, INVALID_CONFIG, "../etc"),
        ({"name": 1}, INVALID_CONFIG, "name"),
        ({"plugins": []}, INVALID_CONFIG, "no plugins"),
        ({"plugins": None}, INVALID_CONFIG, "no plugins"),
        ({"plugins": None, "loadOnlyInlinedPlugins": True}, INVALID_CONFIG, "no plugins"),
        ({"plugins": {}}, INVALID_CONFIG, "plugins"),
        ({"plugins": ["bridge"]}, INVALID_CONFIG, "plugins[0]"),
        ({"plugins": [{}]}, INVALID_CONFIG, "type"),
        ({"plugins": [{"type": 1}]}, INVALID_CONFIG, "type"),
        ({"plugins": [{"type": "t", "capabilities": {"ips": "yes"}}]}, INVALID_CONFIG, "ips"),
        ({"disableCheck": "maybe"}, INVALID_CONFIG, "disableCheck"),
        ({"disableGC": 1}, INVALID_CONFIG, "disableGC"),
    ],
)
def test_what_libcni_refuses_or_plugins_would_is_refused_by_name(keys: dict[str, Any], code: int, named: str) -> None:
    with pytest.raises(CNIError) as caught:
        network(**keys)

    assert caught.value.code == code
    assert named in str(caught.value)
    assert "n.conflist" in caught.value.msg or code == DECODING_FAILURE


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b'{"name": "a", "name": "b"}', b"1e999", b"[" * 100_000])
def test_what_is_no_json_object_is_named_by_its_file(data: bytes) -> None:
    for parse in (Network.parse, Network.parse_single):
        with pytest.raises(CNIError, match=r"^x\.conflist: ") as caught:
            parse(data, "x.conflist")
        assert caught.value.code == DECODING_FAILURE


def test_a_number_that_json_cannot_write_again_is_refused() -> None:
    with pytest.raises(CNIError, match="too large"):
        Network.parse('{"name": "n", "plugins": [{"type": "t", "mtu": 1e999}]}', "x")


@pytest.mark.parametrize(("value", "flag"), [(True, True), (False, False), ("true", True), ("False", False)])
def test_flags_may_be_strings(value: object, flag: bool) -> None:
    found = network(disableCheck=value, disableGC=value)

    assert (found.disable_check, found.disable_gc) == (flag, flag)


def test_capabilities_are_those_that_are_true() -> None:
    found = network(plugins=[{"type": "t", "capabilities": {"ips": True, "mac": False, "portMappings": True}}])

    assert found.plugins[0].capabilities == {"ips", "portMappings"}


def test_a_network_can_be_parsed_again_from_its_text() -> None:
    found = network(cniVersions=["1.1.0"], disableGC="true", plugins=[BRIDGE, {"type": "two"}])

    assert Network.parse(found.text, found.source) == found


# --- the folder ---------------------------------------------------------------------------------------


def test_lists_come_first_then_lone_plugins_each_in_byte_order(tmp_path: Path) -> None:
    lone = {"type": "loopback", "cniVersion": "0.3.1"}
    write(tmp_path / "20-b.conflist", {"name": "b", "plugins": [BRIDGE]})
    write(tmp_path / "10-a.conflist", {"name": "a", "plugins": [BRIDGE]})
    write(tmp_path / "B.conflist", {"name": "capital", "plugins": [BRIDGE]})
    write(tmp_path / "00-lone.json", {"name": "json", **lone})
    write(tmp_path / "01-lone.conf", {"name": "conf", **lone})
    write(tmp_path / ".hidden.conf", {"name": "hidden", **lone})
    write(tmp_path / "README.txt", "not ours")
    write(tmp_path / "disabled.conflist.bak", "not ours")
    (tmp_path / "folder.conflist").mkdir()

    entries = conflist.scan(tmp_path)

    assert [entry.network.name for entry in entries if entry.network] == [
        "a", "b", "capital", "hidden", "json", "conf",
    ]  # fmt: skip
    assert not [entry for entry in entries if entry.problem or entry.shadowed]


def test_a_lone_plugin_is_a_list_of_one(tmp_path: Path) -> None:
    write(
        tmp_path / "lo.conf", {"cniVersion": "0.3.1", "name": "lo", "type": "loopback", "capabilities": {"ips": True}}
    )

    found = conflist.find(tmp_path, "lo")

    assert (found.version, types(found)) == ("0.3.1", ["loopback"])
    assert found.plugins[0].capabilities == {"ips"}
    assert Network.parse(found.text, found.source) == found


def test_a_list_under_the_name_of_a_lone_plugin_is_an_error_that_says_so(tmp_path: Path) -> None:
    write(tmp_path / "n.conf", {"name": "n", "plugins": [BRIDGE]})

    with pytest.raises(NotFound, match=r"n\.conf: a list of plugins \(name the file \*\.conflist\)"):
        conflist.find(tmp_path, "n")


def test_the_first_of_two_files_counts(tmp_path: Path) -> None:
    write(tmp_path / "20.conflist", {"name": "n", "plugins": [{"type": "second"}]})
    write(tmp_path / "10.conflist", {"name": "n", "plugins": [{"type": "first"}]})
    write(tmp_path / "00.conf", {"name": "n", "type": "third"})

    assert types(conflist.find(tmp_path, "n")) == ["first"]
    assert [entry.shadowed for entry in conflist.scan(tmp_path)] == [False, True, True]


def test_a_broken_file_spoils_only_itself(tmp_path: Path) -> None:
    write(tmp_path / "00.conflist", "{")
    write(tmp_path / "10.conflist", {"name": "n", "plugins": [BRIDGE]})

    assert conflist.find(tmp_path, "n").name == "n"
    with pytest.raises(NotFound) as caught:
        conflist.find(tmp_path, "other")
    assert 'no network configuration with name "other"' in caught.value.msg
    assert "networks there: n" in caught.value.details
    assert "00.conflist: not JSON" in caught.value.details


def test_a_folder_that_is_not_there_is_empty_and_one_that_is_none_an_error(tmp_path: Path) -> None:
    assert conflist.scan(tmp_path / "absent") == ()
    with pytest.raises(NotFound, match="none"):
        conflist.find(tmp_path / "absent", "n")
    (tmp_path / "file").write_text("")
    with pytest.raises(CNIError, match="Not a directory") as caught:
        conflist.scan(tmp_path / "file")
    assert caught.value.code == IO_FAILURE


def test_a_file_that_cannot_be_read_is_a_problem_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "dangling.conflist").symlink_to("absent")

    (entry,) = conflist.scan(tmp_path)

    assert entry.problem is not None
    assert "dangling.conflist: No such file" in entry.problem.msg


# --- plugins in a folder of their own -----------------------------------------------------------------


@pytest.mark.parametrize("said", [{}, {"loadOnlyInlinedPlugins": False}, {"loadOnlyInlinedPlugins": "false"}])
def test_the_networks_own_folder_is_appended(tmp_path: Path, said: dict[str, Any]) -> None:
    write(tmp_path / "n.conflist", {"name": "n", "plugins": [BRIDGE], **said})
    write(tmp_path / "n" / "20.conf", {"type": "later", "key": 1})
    write(tmp_path / "n" / "10.conf", {"type": "sooner"})
    write(tmp_path / "n" / "00.conflist", {"type": "ignored"})
    write(tmp_path / "other" / "00.conf", {"type": "ignored"})

    found = conflist.find(tmp_path, "n")

    assert types(found) == ["bridge", "sooner", "later"]
    # Complete by itself, wherever it is parsed again: the folder may be gone when a DEL needs it.
    assert Network.parse(found.text, found.source, tmp_path) == found


@pytest.mark.parametrize("said", [True, "true", "TRUE"])
def test_the_networks_own_folder_is_left_out_where_the_list_says_so(tmp_path: Path, said: object) -> None:
    write(tmp_path / "n.conflist", {"name": "n", "plugins": [BRIDGE], "loadOnlyInlinedPlugins": said})
    write(tmp_path / "n" / "10.conf", {"type": "left-out"})

    assert types(conflist.find(tmp_path, "n")) == ["bridge"]


def test_a_network_may_have_all_its_plugins_in_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "n.conflist", {"name": "n"})
    write(tmp_path / "n" / "10.conf", BRIDGE)

    found = conflist.find(tmp_path, "n")

    assert types(found) == ["bridge"]
    assert Network.parse(found.text, found.source) == found


def test_a_broken_plugin_in_the_networks_folder_is_named_by_its_own_file(tmp_path: Path) -> None:
    write(tmp_path / "n.conflist", {"name": "n", "plugins": [BRIDGE]})
    for content, said in (("{", "not JSON"), ({}, "type")):
        write(tmp_path / "n" / "10.conf", content)

        with pytest.raises(NotFound) as caught:
            conflist.find(tmp_path, "n")

        assert f"{tmp_path}/n/10.conf: {said}" in caught.value.details

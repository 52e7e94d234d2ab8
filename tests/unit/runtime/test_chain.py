"""What plugins get from our runtime, verb by verb, against sections 2 and 3 of the specification."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from cni.runtime.cache import Cache, Corrupt
from cni.runtime.chain import Attachment, ChainFailed
from cni.spec.errors import (
    ALREADY_ATTACHED,
    DELEGATE_FAILED,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    STATE_UNUSABLE,
    UNKNOWN_CONTAINER,
    CNIError,
)
from cni.spec.versions import SUPPORTED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.runtime.recording import Plugins

NETNS = "/proc/self/ns/net"
POD = Attachment("c1", NETNS)


def order(plugins: Plugins) -> list[str]:
    return [str(call) for call in plugins.calls]


def cni_variables(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith("CNI_")}


# --- ADD ----------------------------------------------------------------------------------------------


def test_add_runs_the_plugins_in_order_each_with_the_result_of_the_one_before(plugins: Plugins) -> None:
    network = plugins.network({"type": "one", "bridge": "br0"}, {"type": "two"}, {"type": "three"})

    added = plugins.runtime.add(network, POD)

    assert order(plugins) == ["one ADD", "two ADD", "three ADD"]
    one, two, three = plugins.calls
    assert one.config == {"cniVersion": "1.1.0", "name": "podnet", "type": "one", "bridge": "br0"}
    assert two.config["prevResult"] == {"cniVersion": "1.1.0", "ips": [], "made": "one"}
    assert three.config["prevResult"] == {"cniVersion": "1.1.0", "ips": [], "made": "two"}
    assert json.loads(added.text) == {"cniVersion": "1.1.0", "ips": [], "made": "three"}


def test_add_tells_a_plugin_who_is_attached_and_where_to_find_delegates(plugins: Plugins) -> None:
    network = plugins.network("one")

    plugins.runtime.add(network, Attachment("c1", NETNS, "net1", "A=1;B=2"))

    assert cni_variables(plugins.calls[0].env) == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": NETNS,
        "CNI_IFNAME": "net1",
        "CNI_ARGS": "A=1;B=2",
        "CNI_PATH": str(plugins.bin),
    }


def test_plugins_inherit_the_rest_of_the_environment(plugins: Plugins) -> None:
    runtime = plugins.runtime_with(plugins.cache, HTTPS_PROXY="p", CNI_IFNAME="lo", CNI_COMMAND="DEL")

    runtime.add(plugins.network("one"), POD)

    env = plugins.calls[0].env
    assert (env["HTTPS_PROXY"], env["CNI_IFNAME"], env["CNI_COMMAND"]) == ("p", "eth0", "ADD")


def test_capabilities_become_the_runtime_config_of_the_plugins_that_ask_for_them(plugins: Plugins) -> None:
    network = plugins.network(
        "one",
        {"type": "two", "capabilities": {"portMappings": True, "bandwidth": False, "ips": True}},
    )
    told = {"portMappings": [{"hostPort": 80}], "bandwidth": {"ingressRate": 1}, "mac": "00:11:22:33:44:55"}

    plugins.runtime.add(network, Attachment("c1", NETNS, capability_args=told))

    one, two = plugins.calls
    assert "runtimeConfig" not in one.config
    assert two.config["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    assert "capabilities" not in two.config


def test_what_is_put_in_replaces_every_spelling_of_the_key(plugins: Plugins) -> None:
    network = plugins.network({"type": "one", "cniversion": "0.4.0", "Name": "other", "keep": {"Name": 1}})

    plugins.runtime.add(network, POD)

    assert plugins.calls[0].config == {
        "type": "one",
        "keep": {"Name": 1},
        "cniVersion": "1.1.0",
        "name": "podnet",
    }


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_network_speaks_its_version_to_every_plugin(plugins: Plugins, version: str) -> None:
    result: dict[str, Any] = {"cniVersion": version, "ip4": {"ip": "10.1.0.5/16"}}
    if version not in ("0.1.0", "0.2.0"):
        result = {"cniVersion": version, "dns": {"domain": "x"}}
    plugins.prints("one", result)
    network = plugins.network("one", "two", version=version)

    plugins.runtime.add(network, POD)

    assert [call.config["cniVersion"] for call in plugins.calls] == [version, version]
    assert plugins.calls[1].config["prevResult"] == result


def test_a_result_of_another_version_is_converted_for_the_next_plugin(plugins: Plugins) -> None:
    plugins.prints(
        "one", {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1"}]}
    )
    network = plugins.network("one", "two", version="1.0.0")

    plugins.runtime.add(network, POD)

    assert plugins.calls[1].config["prevResult"] == {
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1"}],
    }


def test_a_result_without_a_version_has_that_of_the_configuration(plugins: Plugins) -> None:
    plugins.prints("one", {"dns": {"domain": "x"}})
    network = plugins.network("one", "two", version="0.4.0")

    plugins.runtime.add(network, POD)

    assert plugins.calls[1].config["prevResult"] == {"cniVersion": "0.4.0", "dns": {"domain": "x"}}


@pytest.mark.parametrize("printed", ["", "no JSON", "[]", '{"cniVersion": "9.0.0"}', '{"ips": 1}', "{} {}"])
def test_a_plugin_that_prints_no_result_has_failed(plugins: Plugins, printed: str) -> None:
    network = plugins.network("one", "two")
    plugins.answer("one", "ADD", f"echo '{printed}'")

    with pytest.raises(ChainFailed, match=r"podnet: one: ADD of c1 failed"):
        plugins.runtime.add(network, POD)

    assert order(plugins) == ["one ADD", "one DEL"]


def test_a_failed_add_is_undone_over_the_plugins_that_were_started(plugins: Plugins) -> None:
    network = plugins.network("one", {"type": "two", "capabilities": {"mac": True}}, "three")
    plugins.fails("two", "ADD", 7, "bad", "key")
    pod = Attachment("c1", NETNS, "net1", "A=1", {"mac": "m"})

    with pytest.raises(ChainFailed) as caught:
        plugins.runtime.add(network, pod)

    assert order(plugins) == ["one ADD", "two ADD", "two DEL", "one DEL"]
    failure = caught.value.failures[0]
    assert (failure.plugin, failure.command, failure.error.code, failure.error.msg) == ("two", "ADD", 7, "bad")
    assert failure.error.details == "key"
    for call in plugins.calls[2:]:
        assert "prevResult" not in call.config
        assert (call.env["CNI_NETNS"], call.env["CNI_IFNAME"], call.env["CNI_ARGS"]) == (NETNS, "net1", "A=1")
    assert plugins.calls[2].config["runtimeConfig"] == {"mac": "m"}
    assert plugins.cache.attachments() == ()


def test_what_fails_while_an_add_is_undone_is_reported_behind_its_failure(plugins: Plugins) -> None:
    network = plugins.network("one", "two")
    plugins.fails("two", "ADD", msg="first")
    plugins.fails("two", "DEL", msg="second")

    with pytest.raises(ChainFailed) as caught:
        plugins.runtime.add(network, POD)

    assert order(plugins) == ["one ADD", "two ADD", "two DEL", "one DEL"]
    assert [failure.error.msg for failure in caught.value.failures] == ["first", "second"]


def test_a_plugin_that_knows_no_such_container_is_not_asked_to_clean_up(plugins: Plugins) -> None:
    network = plugins.network("one", "two")
    plugins.fails("two", "ADD", UNKNOWN_CONTAINER)

    with pytest.raises(ChainFailed):
        plugins.runtime.add(network, POD)

    assert order(plugins) == ["one ADD", "two ADD", "one DEL"]


def test_an_interrupted_add_is_undone(plugins: Plugins) -> None:
    network = plugins.network("one", "two")
    plugins.answer("two", "ADD", "kill -INT $PPID; exec sleep 1000")
    plugins.fails("one", "DEL", msg="still there")

    with pytest.raises(KeyboardInterrupt) as caught:
        plugins.runtime.add(network, POD)

    assert order(plugins) == ["one ADD", "two ADD", "two DEL", "one DEL"]
    assert "still there" in caught.value.__notes__[0]


def test_an_add_whose_result_cannot_be_kept_is_undone(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    network = plugins.network("one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(CNIError, match="No space left") as caught:
        plugins.runtime.add(network, POD)

    assert caught.value.code == STATE_UNUSABLE
    assert order(plugins) == ["one ADD", "one DEL"]
    assert not [file for file in plugins.cache.root.iterdir() if file.name != ".podwire.lock" and file.is_file()]


def test_a_second_add_is_refused_before_any_plugin_runs(plugins: Plugins) -> None:
    network = plugins.network("one")
    plugins.runtime.add(network, POD)

    with pytest.raises(CNIError) as caught:
        plugins.runtime.add(network, POD)

    assert caught.value.code == ALREADY_ATTACHED
    assert order(plugins) == ["one ADD"]
    plugins.runtime.add(network, Attachment("c1", NETNS, "eth1"))  # another interface is another attachment


def test_a_missing_plugin_is_found_out_before_any_runs(plugins: Plugins) -> None:
    network = plugins.network("one", "two")
    (plugins.bin / "two").unlink()

    with pytest.raises(CNIError, match='"two"') as caught:
        plugins.runtime.add(network, POD)

    assert caught.value.code == DELEGATE_FAILED
    assert order(plugins) == []


@pytest.mark.parametrize(
    "pod",
    [
        Attachment("", NETNS),
        Attachment("-c", NETNS),
        Attachment("c", NETNS, "much-too-long-name"),
        Attachment("c", NETNS, "a/b"),
        Attachment("c" * 250, NETNS),
        Attachment("c", NETNS, args="A"),
        Attachment("c", NETNS, args="A=1=2"),
        Attachment("c", NETNS, args="A=1;"),
    ],
)
def test_names_that_the_specification_forbids_reach_no_plugin(plugins: Plugins, pod: Attachment) -> None:
    network = plugins.network("one")

    for verb in (plugins.runtime.add, plugins.runtime.delete, plugins.runtime.check):
        with pytest.raises(CNIError) as caught:
            verb(network, pod)
        assert caught.value.code == INVALID_ENVIRONMENT
    assert order(plugins) == []


def test_one_container_is_worked_on_by_one_at_a_time(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    network = plugins.network("one")
    os.mkfifo(plugins.folder / "go")
    plugins.answer("one", "ADD", 'read _ < "$FAKE/go"; echo "{}"')
    thread = threading.Thread(target=plugins.runtime.add, args=(network, POD))
    thread.start()

    with (plugins.folder / "go").open("w") as go:  # open as soon as the plugin reads
        monkeypatch.setattr(fcntl, "F_OFD_SETLKW", fcntl.F_OFD_SETLK)  # who would wait gets an error
        for verb in (plugins.runtime.add, plugins.runtime.delete):
            with pytest.raises(CNIError, match="temporarily unavailable"):
                verb(network, Attachment("c1", NETNS, "eth1"))
        with pytest.raises(CNIError, match="temporarily unavailable"):
            plugins.runtime.gc(network)
        plugins.runtime.delete(network, Attachment("c2", NETNS))
        go.write("\n")
    thread.join()

    assert order(plugins) == ["one ADD", "one DEL"]


# --- CHECK --------------------------------------------------------------------------------------------


def test_check_asks_every_plugin_in_order_with_the_result_of_the_whole_add(plugins: Plugins) -> None:
    network = plugins.network("one", {"type": "two", "capabilities": {"mac": True}})
    plugins.runtime.add(network, Attachment("c1", NETNS, args="A=1", capability_args={"mac": "m"}))
    plugins.forget()

    assert plugins.runtime.check(network, POD)

    assert order(plugins) == ["one CHECK", "two CHECK"]
    for call in plugins.calls:
        assert call.config["prevResult"] == {"cniVersion": "1.1.0", "ips": [], "made": "two"}
        assert cni_variables(call.env) == {
            "CNI_COMMAND": "CHECK",
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": NETNS,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": "A=1",  # the ADD's, like the capabilities: the caller needn't remember them
            "CNI_PATH": str(plugins.bin),
        }
    assert plugins.calls[1].config["runtimeConfig"] == {"mac": "m"}


def test_check_passes_the_first_failure_on(plugins: Plugins) -> None:
    network = plugins.network("one", "two")
    plugins.runtime.add(network, POD)
    plugins.forget()
    plugins.fails("one", "CHECK", 103, "route is gone")

    with pytest.raises(ChainFailed) as caught:
        plugins.runtime.check(network, POD)

    assert [failure.error.code for failure in caught.value.failures] == [103]
    assert order(plugins) == ["one CHECK"]


def test_check_is_left_out_where_the_configuration_says_so(plugins: Plugins) -> None:
    network = plugins.network("one", disableCheck=True)
    plugins.runtime.add(network, POD)

    assert not plugins.runtime.check(network, POD)

    assert order(plugins) == ["one ADD"]


def test_check_before_its_version_and_without_an_add_are_errors(plugins: Plugins) -> None:
    old, new = plugins.network("one", version="0.3.1"), plugins.network("one", version="0.4.0")

    with pytest.raises(CNIError, match="does not allow CHECK") as caught:
        plugins.runtime.check(old, POD)
    assert caught.value.code == INCOMPATIBLE_VERSION
    with pytest.raises(CNIError, match="nothing is known of an ADD") as caught:
        plugins.runtime.check(new, POD)
    assert caught.value.code == UNKNOWN_CONTAINER


# --- DEL ----------------------------------------------------------------------------------------------


def test_del_runs_backwards_with_the_result_of_the_whole_add(plugins: Plugins) -> None:
    network = plugins.network("one", {"type": "two", "capabilities": {"mac": True}})
    plugins.runtime.add(network, Attachment("c1", NETNS, "eth0", "A=1", {"mac": "m"}))
    plugins.forget()

    plugins.runtime.delete(network, Attachment("c1", ""))

    assert order(plugins) == ["two DEL", "one DEL"]
    for call in plugins.calls:
        assert call.config["prevResult"] == {"cniVersion": "1.1.0", "ips": [], "made": "two"}
        assert call.config["cniVersion"] == "1.1.0"
        assert call.env["CNI_NETNS"] == NETNS
        assert call.env["CNI_ARGS"] == "A=1"
    assert plugins.calls[0].config["runtimeConfig"] == {"mac": "m"}
    assert plugins.cache.attachments() == ()


def test_del_without_an_add_runs_all_the_same_and_may_be_repeated(plugins: Plugins) -> None:
    network = plugins.network("one", "two")

    for _ in range(2):
        plugins.runtime.delete(network, Attachment("c1", ""))

    assert order(plugins) == ["two DEL", "one DEL"] * 2
    assert all("prevResult" not in call.config and call.env["CNI_NETNS"] == "" for call in plugins.calls)


def test_del_goes_on_after_a_failure_and_forgets_only_after_full_success(plugins: Plugins) -> None:
    network = plugins.network("one", "two", "three")
    plugins.runtime.add(network, POD)
    plugins.forget()
    plugins.fails("three", "DEL", 11, "busy")
    plugins.fails("one", "DEL", 999, "stuck")

    with pytest.raises(ChainFailed) as caught:
        plugins.runtime.delete(network, POD)

    assert order(plugins) == ["three DEL", "two DEL", "one DEL"]
    assert [failure.error.msg for failure in caught.value.failures] == ["busy", "stuck"]
    assert len(plugins.cache.attachments()) == 1

    plugins.succeeds("three", "DEL")
    plugins.succeeds("one", "DEL")
    plugins.runtime.delete(network, POD)

    assert plugins.calls[-1].config["prevResult"]["made"] == "three"
    assert plugins.cache.attachments() == ()


def test_del_before_its_version_has_no_prev_result(plugins: Plugins) -> None:
    network = plugins.network("one", version="0.3.1")
    plugins.runtime.add(network, POD)

    plugins.runtime.delete(network, POD)

    assert "prevResult" not in plugins.calls[-1].config
    assert plugins.cache.attachments() == ()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "other"}', '{"cniVersion": "1.0.0", "ips": []}'])
def test_del_tolerates_a_cache_file_that_says_nothing_and_removes_it(plugins: Plugins, content: str) -> None:
    network = plugins.network("one")
    file = plugins.cache.file("podnet", "c1", "eth0")
    file.parent.mkdir(parents=True)
    file.write_text(content)

    with pytest.raises(CNIError, match="has eth0 already"):
        plugins.runtime.add(network, POD)
    with pytest.raises(Corrupt, match="unusable"):
        plugins.runtime.check(network, POD)
    plugins.runtime.delete(network, POD)

    assert order(plugins) == ["one DEL"]
    assert "prevResult" not in plugins.calls[0].config
    assert not file.exists()


def test_del_tolerates_a_result_that_is_none(plugins: Plugins) -> None:
    network = plugins.network("one")
    plugins.runtime.add(network, POD)
    file = plugins.cache.file("podnet", "c1", "eth0")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"result": {"ips": 1}}))

    plugins.runtime.delete(network, POD)

    assert "prevResult" not in plugins.calls[-1].config
    assert not file.exists()


def test_check_and_del_use_the_configuration_of_the_add(plugins: Plugins) -> None:
    plugins.runtime.add(plugins.network({"type": "one", "mtu": 1400}, "two", version="1.0.0"), POD)
    plugins.forget()
    changed = plugins.network({"type": "one", "mtu": 9000}, version="1.1.0")

    plugins.runtime.check(changed, POD)
    plugins.runtime.delete(changed, POD)

    assert order(plugins) == ["one CHECK", "two CHECK", "two DEL", "one DEL"]
    assert plugins.calls[-1].config["mtu"] == 1400
    assert {call.config["cniVersion"] for call in plugins.calls} == {"1.0.0"}


def test_check_and_del_speak_the_version_of_the_add(plugins: Plugins) -> None:
    """containerd 1.6 and 1.7 don't know `cniVersions`, and so may the plugins that they called."""
    network = plugins.network("one", version="1.0.0", cniVersions=["0.4.0", "1.0.0", "1.1.0"])
    plugins.runtime.add(network, POD)
    cached = plugins.cache.read("podnet", "c1", "eth0")
    assert cached is not None
    plugins.cache.write(dataclasses.replace(cached, result={"cniVersion": "1.0.0"}))
    plugins.forget()

    plugins.runtime.check(network, POD)
    plugins.runtime.delete(network, POD)

    assert {call.config["cniVersion"] for call in plugins.calls} == {"1.0.0"}


def test_what_was_attached_can_be_detached_without_its_configuration(plugins: Plugins) -> None:
    plugins.runtime.add(plugins.network("one"), POD)

    remembered = plugins.runtime.remembered("podnet", POD)

    assert remembered is not None
    assert [plugin.type for plugin in remembered.plugins] == ["one"]
    assert plugins.runtime.remembered("othernet", POD) is None


def test_an_attachment_whose_file_is_anothers_is_left_alone(plugins: Plugins) -> None:
    # "podnet" + "c1-eth0" + "x" and "podnet" + "c1" + "eth0-x" have one file name.
    network = plugins.network("one")
    plugins.runtime.add(network, Attachment("c1", NETNS, "eth0-x"))
    plugins.forget()
    other = Attachment("c1-eth0", NETNS, "x")

    for verb in (plugins.runtime.add, plugins.runtime.check, plugins.runtime.delete):
        with pytest.raises(CNIError, match="is that of network podnet, container c1, eth0-x"):
            verb(network, other)

    assert order(plugins) == []
    assert len(plugins.cache.attachments()) == 1


# --- GC -----------------------------------------------------------------------------------------------


def attach(plugins: Plugins, netns: Path | str, *container_ids: str, version: str = "1.1.0") -> None:
    network = plugins.network("one", "two", version=version)
    for container_id in container_ids:
        plugins.runtime.add(network, Attachment(container_id, str(netns)))
    plugins.forget()


def test_gc_detaches_what_is_cached_and_not_valid_then_asks_the_plugins(plugins: Plugins) -> None:
    attach(plugins, NETNS, "c1", "c2")

    collected = plugins.runtime.gc(plugins.network("one", "two"), [("c2", "eth0"), ("c3", "eth1")])

    assert order(plugins) == ["two DEL", "one DEL", "one GC", "two GC"]
    assert plugins.calls[0].env["CNI_CONTAINERID"] == "c1"
    assert plugins.calls[0].config["prevResult"]["made"] == "two"
    for call in plugins.calls[2:]:
        listed = [{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c3", "ifname": "eth1"}]
        assert call.config == {
            "cniVersion": "1.1.0",
            "name": "podnet",
            "type": call.plugin,
            "cni.dev/valid-attachments": listed,
            "cni.dev/attachments": listed,
        }
        assert cni_variables(call.env) == {
            "CNI_COMMAND": "GC",
            "CNI_CONTAINERID": "",
            "CNI_NETNS": "",
            "CNI_IFNAME": "",
            "CNI_ARGS": "",
            "CNI_PATH": str(plugins.bin),
        }
    assert collected is not None
    assert [one.container_id for one in collected.detached] == ["c1"]
    assert [one.container_id for one in plugins.cache.attachments()] == ["c2"]


def test_gc_by_default_keeps_what_is_cached_and_has_its_namespace(plugins: Plugins, tmp_path: Path) -> None:
    attach(plugins, NETNS, "alive")
    attach(plugins, tmp_path / "gone", "dead")

    plugins.runtime.gc(plugins.network("one", "two"))

    assert [call.env["CNI_CONTAINERID"] for call in plugins.calls if call.command == "DEL"] == ["dead", "dead"]
    assert plugins.calls[-1].config["cni.dev/valid-attachments"] == [{"containerID": "alive", "ifname": "eth0"}]


def test_gc_of_nothing_valid_says_so_with_an_empty_list(plugins: Plugins) -> None:
    attach(plugins, NETNS, "c1")

    plugins.runtime.gc(plugins.network("one"), [])

    assert plugins.calls[-1].config["cni.dev/valid-attachments"] == []
    assert plugins.cache.attachments() == ()


def test_gc_before_its_version_only_detaches(plugins: Plugins) -> None:
    attach(plugins, NETNS, "c1", version="1.0.0")

    collected = plugins.runtime.gc(plugins.network("one", "two", version="1.0.0"), [])

    assert order(plugins) == ["two DEL", "one DEL"]
    assert collected is not None
    assert not collected.asked


def test_gc_is_left_out_where_the_configuration_says_so(plugins: Plugins) -> None:
    attach(plugins, NETNS, "c1")

    assert plugins.runtime.gc(plugins.network("one", disableGC=True), []) is None

    assert order(plugins) == []
    assert len(plugins.cache.attachments()) == 1


def test_gc_goes_on_after_failures_and_reports_them_all(plugins: Plugins) -> None:
    attach(plugins, NETNS, "c1", "c2")
    plugins.fails("two", "DEL", msg="del")
    plugins.fails("one", "GC", msg="gc")

    with pytest.raises(ChainFailed) as caught:
        plugins.runtime.gc(plugins.network("one", "two"), [])

    assert order(plugins) == ["two DEL", "one DEL"] * 2 + ["one GC", "two GC"]
    assert [failure.error.msg for failure in caught.value.failures] == ["del", "del", "gc"]
    assert len(plugins.cache.attachments()) == 2


def test_gc_takes_nothing_away_on_the_word_of_a_cache_that_it_cannot_read(plugins: Plugins) -> None:
    attach(plugins, NETNS, "c1", "c2")
    plugins.cache.file("podnet", "c1", "eth0").write_text('{"kind": "cniC')  # as libcni leaves it while it writes
    network = plugins.network("one", "two")

    with pytest.raises(Corrupt, match="podnet-c1-eth0"):
        plugins.runtime.gc(network)
    assert order(plugins) == []

    plugins.runtime.gc(network, [("c1", "eth0")])  # who knows may say so
    assert order(plugins) == ["two DEL", "one DEL", "one GC", "two GC"]


def test_gc_leaves_other_networks_alone(plugins: Plugins) -> None:
    attach(plugins, NETNS, "c1")
    network = plugins.network("one")
    other = type(network).parse(network.text.replace("podnet", "othernet"), "test")

    plugins.runtime.gc(other, [])

    assert order(plugins) == ["one GC"]
    assert len(plugins.cache.attachments()) == 1


# --- STATUS -------------------------------------------------------------------------------------------


def test_status_asks_every_plugin_and_tells_it_of_no_container(plugins: Plugins) -> None:
    network = plugins.network("one", {"type": "two", "x": 1})

    assert plugins.runtime.status(network)

    assert order(plugins) == ["one STATUS", "two STATUS"]
    assert plugins.calls[1].config == {"cniVersion": "1.1.0", "name": "podnet", "type": "two", "x": 1}
    assert cni_variables(plugins.calls[0].env) == {
        "CNI_COMMAND": "STATUS",
        "CNI_CONTAINERID": "",
        "CNI_NETNS": "",
        "CNI_IFNAME": "",
        "CNI_ARGS": "",
        "CNI_PATH": str(plugins.bin),
    }


def test_status_passes_the_first_failure_on_with_its_code(plugins: Plugins) -> None:
    network = plugins.network("one", "two")
    plugins.fails("one", "STATUS", 50, "no data plane")

    with pytest.raises(ChainFailed) as caught:
        plugins.runtime.status(network)

    assert caught.value.failures[0].error.code == 50
    assert order(plugins) == ["one STATUS"]


def test_status_before_its_version_asks_nobody(plugins: Plugins) -> None:
    assert not plugins.runtime.status(plugins.network("one", version="1.0.0"))

    assert order(plugins) == []


# --- everything else ----------------------------------------------------------------------------------


def test_plugins_that_are_not_there_are_named(plugins: Plugins) -> None:
    network = plugins.network("one", "two", {"type": "three"})
    (plugins.bin / "two").unlink()

    assert plugins.runtime.missing(network) == ("two",)


def test_a_cache_that_cannot_be_written_is_an_error_before_any_plugin_runs(plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    runtime = plugins.runtime_with(Cache(tmp_path / "file" / "cache"))

    with pytest.raises(CNIError, match="Not a directory") as caught:
        runtime.add(plugins.network("one"), POD)

    assert caught.value.code == STATE_UNUSABLE
    assert order(plugins) == []


def test_a_result_without_addresses_cannot_be_told_in_the_oldest_versions(plugins: Plugins) -> None:
    plugins.prints("one", {"cniVersion": "1.0.0", "ips": []})
    network = plugins.network("one", version="0.2.0")

    with pytest.raises(ChainFailed, match="no valid IP addresses") as caught:
        plugins.runtime.add(network, POD)

    assert caught.value.failures[0].error.code == INVALID_CONFIG

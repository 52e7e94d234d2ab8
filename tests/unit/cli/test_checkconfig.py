"""`podwire net check-config`: what is wrong, where, and what to do about it; before a pod finds out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cni.cli import checkconfig, keys, net, schema
from cni.plugins import PLUGINS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Check = Callable[..., tuple[int, list[str], list[str]]]

IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}
BRIDGE: dict[str, Any] = {"type": "bridge", "isGateway": True, "ipam": IPAM}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Checks a list of these plugins: exit code, and the lines of both streams without what every line begins with."""

    def run(*members: dict[str, Any], **network: Any) -> tuple[int, list[str], list[str]]:
        file = folder / "10-podnet.conflist"
        file.write_text(json.dumps({"cniVersion": "1.0.0", "name": "podnet", "plugins": list(members), **network}))
        code = net.main(["check-config", str(file)], {})
        printed = capsys.readouterr()
        start = f"podwire net check-config: {file}: "
        said = printed.err.splitlines()
        assert [line for line in said if not line.startswith(start)] == []
        out = [line.removeprefix(f"{file}: ") for line in printed.out.splitlines()]
        return code, out, [line.removeprefix(start) for line in said]

    return run


def test_what_is_well_is_ok(check: Check) -> None:
    assert check(BRIDGE) == (0, ["podnet, CNI 1.0.0: bridge: ok"], [])
    tuning = {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "cni.dev/whatever": 1}
    assert check(BRIDGE, tuning) == (0, ["podnet, CNI 1.0.0: bridge tuning: ok"], [])


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (
            {**BRIDGE, "mtu": "1500"},
            'bridge: bridge: mtu must be a whole number, got "1500"; correct "mtu" in the network configuration',
        ),
        (
            {**BRIDGE, "ipam": {"type": "host-local"}},
            'bridge: no IP ranges specified; bridge.ipam needs "ranges", as in [[{"subnet": "10.1.0.0/16"}]]',
        ),
        (
            {**BRIDGE, "ipam": {"type": "host-local", "subnet": "10.1.0.1/24"}},
            "bridge: invalid range set 0: Network has host bits set. For a subnet mask of length 24 the network "
            "address is 10.1.0.0; correct the ranges in bridge.ipam",
        ),
        (
            {**BRIDGE, "vlan": 7},
            "bridge: bridge: vlan = 7 is not supported: bridge VLAN filtering is not implemented; "
            'remove "vlan" from the network configuration',
        ),
        (
            {"type": "tuning"},
            "tuning: it works on what plugins before it attached; name it behind the one that makes the interface",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_plugin_would_refuse_is_an_error_with_its_cure(check: Check, member: dict[str, Any], said: str) -> None:
    assert check(member) == (1, [], [said])


def test_each_member_is_judged_and_named(check: Check) -> None:
    code, out, said = check({**BRIDGE, "bridge": "a/b"}, {"type": "tuning", "mac": "nonsense"}, {"type": "somebodys"})

    assert (code, out, len(said)) == (1, [], 2)
    assert said[0].startswith("plugins[0] (bridge): bridge: bridge must be the name of an interface")
    assert said[1].startswith("plugins[1] (tuning): tuning: mac must be a unicast MAC address")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"isGatway": True}, 'unknown key "isGatway"; did you mean "isGateway"?'),
        ({"ISGATEWAY2": True}, 'unknown key "ISGATEWAY2"; did you mean "isGateway"?'),
        ({"colour": "red"}, 'unknown key "colour"; remove it'),
        ({"dns": {"nameserver": []}}, 'unknown key "nameserver" in dns; did you mean "nameservers"?'),
        ({"vlanTrunk": [{"minId": 1}, {"maxIDs": 1}]}, 'unknown key "maxIDs" in vlanTrunk[1]; did you mean "maxID"?'),
        ({"subnet": "10.1.0.0/24"}, 'unknown key "subnet"; did you mean "ipam.subnet"?'),
        ({"mac": "02:00:00:00:00:01"}, 'unknown key "mac"; remove it'),
        ({"ipam": {**IPAM, "datadir": "/run", "dataDirs": 1}},
         'unknown key "dataDirs" in ipam; did you mean "dataDir"?'),
        ({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24", "start": "10.1.0.9"}]]}},
         'unknown key "start" in ipam.ranges[0][0]; did you mean "rangeStart"?'),
        ({"capabilities": {"portMapping": True}}, 'unknown capability "portMapping"; did you mean "portMappings"?'),
        ({"capabilities": {"somebodys": True}}, None),
        ({"ipam": {"type": "static", "adresses": []}}, None),
    ],
    ids=str,
)  # fmt: skip
def test_an_unknown_key_is_told_with_what_was_perhaps_meant(
    check: Check, keys: dict[str, Any], said: str | None
) -> None:
    code, out, told = check({**BRIDGE, **keys})

    told = [line for line in told if "vlan = " not in line and "vlanTrunk = " not in line]
    assert told == ([f"bridge: warning: {said}"] if said else [])
    if "vlanTrunk" not in keys:
        assert (code, len(out)) == (0, 1)


@pytest.mark.parametrize(
    ("members", "twice"),
    [
        ([{"type": "tuning", "mtu": 1400}, {"type": "tuning", "MTU": 1400}], "tuning"),
        ([{"type": "tuning", "mtu": 1400}, {"type": "tuning", "txQLen": 7}], ""),
        ([{"type": "tuning", "mtu": 1400}, {"type": "tuning", "txQLen": 7}, {"type": "tuning", "mtu": 1400}], "tuning"),
        ([{"type": "firewall"}, {"type": "tuning", "mtu": 1400}, {"type": "firewall"}], "firewall"),
        ([{"type": "firewall"}, {"type": "firewall", "ingressPolicy": "isolated"}], ""),
        ([{**BRIDGE, "bridge": "br1"}], "bridge"),
        ([{"type": "somebodys"}, {"type": "somebodys"}], ""),
    ],
    ids=str,
)
def test_a_member_that_cannot_be_told_from_another_is_an_error(
    check: Check, members: list[dict[str, Any]], twice: str
) -> None:
    code, _, said = check(BRIDGE, *members)

    text = f"{twice} is in the chain twice, and the second would find its pods attached; make one of the two"
    assert (code, said) == ((1, [text]) if twice else (0, []))


def test_a_key_of_the_list_that_nobody_knows_is_told(check: Check) -> None:
    code, _, said = check(BRIDGE, disableGc=True, cniVersion="1.1.0", isGateway=True, disableChek=True)

    assert code == 0
    assert said == [
        'warning: unknown key "isGateway"; remove it',
        'warning: unknown key "disableChek"; did you mean "disableCheck"?',
    ]


def test_podwire_lets_nothing_unknown_pass(check: Check) -> None:
    ipam = {"type": "host-local", "subnet": "10.1.0.0/24"}
    code, out, said = check({"type": "podwire", "ipam": {**ipam, "range": []}, "masquarade": False, "subnet": ""})

    assert (code, out) == (1, [])
    assert said[:3] == [
        'podwire: unknown key "range" in ipam; did you mean "ranges"?',
        'podwire: unknown key "masquarade"; did you mean "masquerade"?',
        'podwire: unknown key "subnet"; did you mean "ipam.subnet"?',
    ]


def test_a_plugin_that_will_be_told_nothing_is_warned_of(check: Check) -> None:
    _, _, said = check(BRIDGE, {"type": "portmap"})

    assert (
        'plugins[1] (portmap): warning: it will be told nothing to do; add "capabilities": {"portMappings": true}'
        in said
    )
    assert not any(
        "told nothing" in one for one in check(BRIDGE, {"type": "portmap", "capabilities": {"portMappings": True}})[2]
    )


def test_what_is_read_only_where_the_runtime_has_something_to_say_is_judged_too(check: Check) -> None:
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    podwire = {"type": "podwire", "capabilities": {"portMappings": True}, "ipam": IPAM}

    for members in ((BRIDGE, {**portmap, "snat": "no"}), ({**podwire, "snat": "no"},)):
        assert "snat must be true or false" in check(*members)[2][0]


def test_a_version_that_a_plugin_does_not_speak_is_an_error(check: Check) -> None:
    assert check(BRIDGE, {"type": "firewall"}, cniVersion="0.4.0")[0] == 0
    code, _, said = check(BRIDGE, {"type": "firewall"}, cniVersion="0.3.1")

    assert (code, said[0].split(": ")[0]) == (1, "plugins[1] (firewall)")


def test_ranges_may_come_from_the_runtime(check: Check) -> None:
    ipam = {"type": "host-local"}

    assert check({**BRIDGE, "ipam": ipam, "capabilities": {"ipRanges": True}})[0] == 0
    assert check({**BRIDGE, "ipam": {**ipam, "subnet": "10"}, "capabilities": {"ipRanges": True}})[0] == 1


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.conflist", "{", "not JSON: "),
        ("a.conflist", "[]", "[] is not a JSON object; correct the file"),
        ("a.conflist", '{"name": "a", "cniVersion": "9.9.9", "plugins": []}', "no plugins in list"),
        ("a.conflist", '{"name": "a", "cniVersion": "9.9.9", "plugins": [{"type": "b"}]}', "incompatible CNI versions"),
        ("a.conflist", '{"name": "a b", "plugins": [{"type": "b"}]}', "name must be letters"),
        ("a.conf", '{"name": "a", "plugins": [{"type": "b"}]}', "a list of plugins; name the file *.conflist"),
        ("a.conf", '{"name": "a", "type": "bridge", "mtu": -1}', "bridge: bridge: mtu must be"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_with_its_cure(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, said: str
) -> None:
    (folder / name).write_text(content)

    assert net.main(["check-config", str(folder / name)], {}) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.count(f"{folder / name}") == 1


def test_a_file_that_is_not_there_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert net.main(["check-config", str(folder / "nothing.conf")], {}) == 1

    assert capsys.readouterr().err == f"podwire net check-config: {folder}/nothing.conf: No such file or directory\n"


def test_without_a_file_it_is_all_of_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert net.main(["check-config"], {"NETCONFPATH": str(folder)}) == 0
    assert "no network configurations in" in capsys.readouterr().err
    (folder / "a.conf").write_text('{"cniVersion": "0.4.0", "name": "a", "type": "loopback"}')
    (folder / "b.conflist").write_text("{")
    (folder / "c.txt").write_text("{")

    assert net.main(["check-config"], {"NETCONFPATH": str(folder)}) == 1

    printed = capsys.readouterr()
    assert printed.out == f"{folder}/a.conf: a, CNI 0.4.0: loopback: ok\n"
    assert printed.err.startswith(f"podwire net check-config: {folder}/b.conflist: not JSON")


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert net.main(["check-config", "--schema"], {}) == 0

    assert json.loads(capsys.readouterr().out) == schema.PODWIRE


# --- keys -------------------------------------------------------------------------------------------


def test_every_plugin_of_ours_has_its_keys() -> None:
    assert set(PLUGINS) <= set(keys.PLUGINS)
    assert set(checkconfig.STRICT) <= set(keys.PLUGINS)

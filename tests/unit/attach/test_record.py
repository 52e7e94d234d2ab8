"""Records: every object comes back as it was written, and what isn't this boot's record counts as absent."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cni.attach import objects, reading, record
from cni.attach.record import Record, Records
from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.netns import Netns
from cni.kernel.ports import Bridge, BridgePort, LinkUp, Veth
from cni.kernel.sysctl import Sysctl
from cni.key import Delegation, Key
from cni.spec.errors import INVALID_ENVIRONMENT, CNIError
from cni.wanted import Switch, Wanted
from ipam.address import Address, Interface, Network
from tests.unit.kernel import objects as kinds

if TYPE_CHECKING:
    from pathlib import Path

BOOT = "3f1c2c0e-boot 17"
TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
"""Lone surrogates too: CNI_ARGS and CNI_NETNS may hold bytes that aren't UTF-8."""

NUMBERS = st.integers(0, (1 << 64) - 1)
STAGES = st.sampled_from([record.BEGUN, record.PLANNED, record.COMPLETE, record.LEAVING])
KEYS = st.builds(Key, TEXT, TEXT, TEXT, TEXT)

GROUPS = {
    "switches": kinds.SWITCHES,
    "settings": kinds.SYSCTLS,
    "openings": kinds.OPENINGS,
    "veths": kinds.VETHS,
    "ifbs": kinds.IFBS,
    "tuning": kinds.SYSCTLS,
    "amends": st.one_of(kinds.SYSCTLS, kinds.SETTINGS),
    "pod": st.one_of(kinds.UPS, kinds.LINK_ADDRESSES, kinds.ROUTES, kinds.NEIGHBOURS),
    "node": st.one_of(
        kinds.PORTS,
        kinds.PORT_MTUS,
        kinds.FDB_ENTRIES,
        kinds.NEIGHBOURS,
        kinds.BUCKETS,
        kinds.HOOKS,
        kinds.REDIRECTS,
    ),
}
WANTED = st.builds(Wanted, **{name: st.lists(things, max_size=2).map(tuple) for name, things in GROUPS.items()})
OBJECTS = WANTED.map(objects.to_json)
RECORDS = st.builds(
    Record,
    KEYS,
    STAGES,
    TEXT.map(lambda path: path.replace("\0", "")),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.builds(Delegation, TEXT, TEXT, TEXT),
    OBJECTS,
    TEXT,
    st.booleans(),
)

KEY = Key("net", "c1", "eth0", "bridge")
PLAIN = Record(KEY, record.BEGUN, "/run/netns/a", 4, 4026532000, 17, Delegation("", "", ""), {})

FULL = PLAIN._replace(
    stage=record.COMPLETE,
    delegation=Delegation("host-local", '{"name": "net"}', "IgnoreUnknown=1"),
    objects=objects.to_json(
        Wanted(
            switches=(Switch(Bridge("cni0", "02:00:00:00:00:01", 1500), (Interface.parse("10.0.0.1/24"),)),),
            settings=(Sysctl("net/ipv4/ip_forward", "1"),),
            veths=(Veth(KEY.tag, "02:00:00:00:00:02", "eth0", "02:00:00:00:00:03", 1500, "cni0"),),
            pod=(
                LinkUp("eth0"),
                LinkAddress("eth0", Interface.parse("10.0.0.2/24")),
                LinkRoute("eth0", Network.parse("::/0"), Address.parse("fd00::1"), 1400, 1300, 7, 77, 0),
            ),
            node=(BridgePort(KEY.tag, True, False), FdbEntry(KEY.tag, "02:00:00:00:00:03")),
        )
    ),
)


def json_of(some: Record, boot: str = BOOT) -> Any:
    return json.loads(record.to_json(some, boot))


def read(value: object) -> Record | None:
    return record.from_json(json.dumps(value).encode(), BOOT)


# --- the codec --------------------------------------------------------------------------------------


@given(RECORDS)
def test_a_record_comes_back_as_it_was_written(some: Record) -> None:
    assert record.from_json(record.to_json(some, BOOT).encode(), BOOT) == some


@pytest.mark.parametrize("group", GROUPS)
def test_every_kind_of_object_keeps_its_kind(group: str) -> None:
    """A NamedTuple is a tuple: equality alone would not see a LinkUp come back as something else."""

    @settings(max_examples=30)
    @given(st.lists(GROUPS[group], min_size=1, max_size=3).map(tuple))
    def check(things: tuple[object, ...]) -> None:
        wanted = Wanted(**{group: things})  # type: ignore[arg-type]  # of that group
        some = PLAIN._replace(objects=objects.to_json(wanted))

        found = record.from_json(record.to_json(some, BOOT).encode(), BOOT)

        assert found is not None
        back = getattr(reading.wanted_of(found.objects), group)
        assert [(type(one), one) for one in back] == [(type(one), one) for one in things]

    check()


def test_a_file_that_ends_early_counts_as_absent() -> None:
    whole = record.to_json(FULL, BOOT).encode()

    assert record.from_json(whole, BOOT) == FULL
    for length in range(len(whole)):
        assert record.from_json(whole[:length], BOOT) is None


@given(st.binary(max_size=60))
@example(b"\xff")
@example(b"null")
@example(b"[]")
@example(b"{}")
@example(b'{"format": 1}')
@example(b"[" * 100_000)
def test_garbage_counts_as_absent(data: bytes) -> None:
    assert record.from_json(data, BOOT) is None


def test_a_record_of_another_boot_or_another_format_counts_as_absent() -> None:
    assert record.from_json(record.to_json(PLAIN, "another boot").encode(), BOOT) is None
    assert read({**json_of(PLAIN), "format": 2}) is None
    assert read({**json_of(PLAIN), "boot": None}) is None
    assert read(json_of(PLAIN)) == PLAIN


ODD: tuple[object, ...] = (
    None,
    True,
    -1,
    0.5,
    "",
    "a/b",
    "1.2.3.4",
    [],
    ["up"],
    [1, 2, 3, 4],
    ["veth", 1],
    {},
    {"a": 1},
)


def spots(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The places of all values inside of a JSON value."""
    inner: list[tuple[object, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path] * bool(path) + [spot for name, part in inner for spot in spots(part, (*path, name))]


def test_a_record_with_something_odd_in_it_is_never_half_understood() -> None:
    """It counts as absent, unless the odd value is as good as any: then it can be written and read again.

    So do its objects, when somebody asks for them.
    """
    for *way, last in spots(json_of(FULL)):
        for odd in ODD:
            value = json_of(FULL)
            inside = value
            for name in way:
                inside = inside[name]
            inside[last] = odd

            found = read(value)

            if found is not None:
                assert record.from_json(record.to_json(found, BOOT).encode(), BOOT) == found
                for texts in (found.key, found.delegation, (found.stage, found.netns, found.config)):
                    assert all(isinstance(text, str) for text in texts)
                wanted = reading.wanted_of(found.objects)
                if wanted is not None:
                    assert reading.wanted_of(objects.to_json(wanted)) == wanted
                    assert reading.switches_of(found.objects) == wanted.switches
                    own = {veth.name for veth in wanted.veths}
                    assert objects.hanging_of(found.objects) == [one for one in wanted.node if one.link not in own]


def test_of_what_hangs_on_others_links_that_is_found_which_can_be_read_whatever_stands_beside_it() -> None:
    good = ["neighbour", "cni0", "10.0.0.2", "02:00:00:00:00:03"]
    beside: list[list[Any]] = [
        ["neighbour"],
        ["neighbour", 1, 2, 3],
        ["neighbour", "cni0", "no address", ""],
        ["of tomorrow", {}],
    ]

    found = objects.hanging_of({"node": [*beside, good], "pod": [["of tomorrow"]]})

    assert found == [Neighbour("cni0", Address.parse("10.0.0.2"), "02:00:00:00:00:03")]


def test_what_is_read_of_objects_is_none_where_a_part_of_it_cannot_be_read() -> None:
    assert reading.wanted_of({"pod": [["of tomorrow"]]}) is None
    assert reading.switches_of({"switches": [["switch", ["cni0", "02:00:00:00:00:01", 1500], ["nowhere"]]]}) is None


def test_a_record_of_an_older_version_has_the_defaults_of_what_came_later() -> None:
    """As written by the first version, and by one before it that knew no duplicate address detection and no metrics."""
    value = json_of(PLAIN)
    value["objects"] = {"pod": [["address", "eth0", "10.1.0.5/16"], ["route", "eth0", "0.0.0.0/0", "10.1.0.1"]]}
    del value["config"], value["more"]

    found = read(value)

    assert found
    assert (found.config, found.more) == ("", False)
    wanted = reading.wanted_of(found.objects)
    assert wanted
    assert wanted.pod == (
        LinkAddress("eth0", Interface.parse("10.1.0.5/16"), dad=False),
        LinkRoute("eth0", Network.parse("0.0.0.0/0"), Address.parse("10.1.0.1")),
    )


def test_a_group_of_a_later_version_is_none_of_our_business() -> None:
    value = json_of(FULL)
    value["objects"]["of tomorrow"] = 5

    found = read(value)

    assert found
    assert reading.wanted_of(found.objects) == reading.wanted_of(FULL.objects)


def test_a_folder_that_cannot_be_made_is_an_error_and_no_endless_try() -> None:
    with pytest.raises(FileNotFoundError):
        record.make_dirs("/proc/podwire/attachments")


@pytest.mark.parametrize("missing", ["boot", "stage", "key", "netns", "delegation", "objects"])
def test_a_record_that_lacks_something_counts_as_absent(missing: str) -> None:
    value = json_of(PLAIN)
    del value[missing]

    assert read(value) is None


# --- the store --------------------------------------------------------------------------------------


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(str(tmp_path / "run"), BOOT)


def names(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_a_record_is_one_file_for_root_alone_named_after_its_key(records: Records, tmp_path: Path) -> None:
    records.write(PLAIN)

    assert names(tmp_path) == ["run/attachments/net/c1@eth0@bridge.json"]
    assert os.stat(records.path(KEY)).st_mode & 0o777 == 0o600
    for folder in ("run", "run/attachments", "run/attachments/net"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_what_was_written_last_is_what_is_read(records: Records) -> None:
    assert records.read(KEY) is None

    records.write(PLAIN)
    records.write(PLAIN.leaving())

    assert records.read(KEY) == PLAIN._replace(stage=record.LEAVING)


def test_a_record_can_be_removed_twice(records: Records, tmp_path: Path) -> None:
    records.write(PLAIN)

    records.remove(KEY)
    records.remove(KEY)

    assert records.read(KEY) is None
    assert names(tmp_path) == []


def test_a_record_that_cannot_be_written_leaves_the_one_before_and_nothing_else(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.write(PLAIN)

    def full(_fd: int, _data: bytes, _path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record, "write_all", full)

    with pytest.raises(OSError) as caught:
        records.write(PLAIN.leaving())
    assert caught.value.errno == errno.ENOSPC
    assert records.read(KEY) == PLAIN
    assert names(tmp_path) == ["run/attachments/net/c1@eth0@bridge.json"]


def test_removing_takes_what_a_killed_writer_left_along(records: Records, tmp_path: Path) -> None:
    records.write(PLAIN)
    (tmp_path / f"run/attachments/net/.{KEY.tag}").write_bytes(b'{"format"')

    assert [one.key for one in records.of_network("net")] == [KEY]
    records.remove(KEY)

    assert names(tmp_path) == []


def test_a_disk_that_takes_a_part_at_a_time_gets_all_of_it(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    from cni.lean import posix

    write = posix.write
    monkeypatch.setattr(posix, "write", lambda fd, data: write(fd, bytes(data[:7])))

    records.write(PLAIN)

    assert records.read(KEY) == PLAIN


def test_records_are_listed_by_network_and_what_cannot_be_read_is_passed_over(records: Records, tmp_path: Path) -> None:
    keys = [KEY, Key("net", "c2", "eth0", "bridge"), Key("other", "c1", "eth0", "bridge")]
    for key in keys:
        records.write(PLAIN._replace(key=key))
    folder = tmp_path / "run/attachments/net"
    (folder / "c3@eth0@bridge.json").write_bytes(b"")
    (folder / "c4@eth0@bridge.json").write_text(record.to_json(PLAIN, "another boot"))
    (folder / "README").write_text("not ours")

    assert sorted(one.key for one in records.of_network("net")) == keys[:2]
    assert sorted(one.key for one in records.all()) == keys
    assert list(records.of_network("unheard of")) == []


def test_of_many_records_none_is_missed_that_is_being_written_anew(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells a long folder in parts, and a file that another takes the place of meanwhile is in none."""
    keys = [Key("net", f"pod{i}", "eth0", "bridge") for i in range(200)]
    for key in keys:
        records.write(Record(key, record.COMPLETE, "/run/netns/a", 1, 2, 3, Delegation("", "", ""), {}))
    listed = record.listdir
    misses = iter(["pod7@eth0@bridge.json", "pod8@eth0@bridge.json"] * 2)

    def list_but_one(path: str) -> list[str]:
        names = listed(path)
        if path.endswith("/net"):
            names.remove(next(misses))
        return names

    monkeypatch.setattr(record, "listdir", list_but_one)

    assert sorted(records.every_key()) == sorted(keys)
    assert sorted(one.key for one in records.all()) == sorted(keys)


def test_a_key_whose_file_name_would_be_too_long_is_refused_before_anything_is_written(
    records: Records, tmp_path: Path
) -> None:
    longest = 255 - len("@eth0@bridge.json")

    records.write(PLAIN._replace(key=KEY._replace(container_id="c" * longest)))
    with pytest.raises(CNIError) as caught:
        records.write(PLAIN._replace(key=KEY._replace(container_id="c" * (longest + 1))))

    assert caught.value.code == INVALID_ENVIRONMENT
    assert "CNI_CONTAINERID" in caught.value.msg
    assert len(names(tmp_path)) == 1


# --- which namespace --------------------------------------------------------------------------------


def test_a_record_knows_its_namespace_by_device_inode_and_cookie() -> None:
    with Netns() as here:
        old = Record.begun(KEY, here, 17, Delegation("", "", ""))

        assert record.is_in(old, here, 17)
        assert not record.is_in(old, here, 18)  # the inode number was given out again
        assert not record.is_in(old._replace(inode=old.inode + 1), here, 17)
        assert not record.is_in(old._replace(device=old.device + 1), here, 17)


def test_where_the_kernel_has_no_cookies_the_inode_decides() -> None:
    with Netns() as here:
        old = Record.begun(KEY, here, 0, Delegation("", "", ""))

        assert record.is_in(old, here, 17)
        assert record.is_in(old._replace(cookie=17), here, 0)


def test_an_attachment_lives_while_its_namespace_is_where_it_was(tmp_path: Path) -> None:
    with Netns() as here:
        old = Record.begun(KEY, here, 0, Delegation("", "", ""))

        assert record.lives(old)
        assert not record.lives(old._replace(inode=old.inode + 1))
        assert not record.lives(old._replace(netns=str(tmp_path / "gone")))
        assert not record.lives(old._replace(netns=str(tmp_path)))

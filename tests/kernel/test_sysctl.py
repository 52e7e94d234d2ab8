"""Network sysctls: read, written and found in the namespace of the thread that asks."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cni.kernel import sysctl
from cni.kernel.sysctl import Sysctl
from cni.lean import posix
from tests import namespaces

ARP_NOTIFY = Sysctl("net/ipv4/conf/lo/arp_notify", "1")


def test_a_setting_is_made_and_found_in_the_namespace_and_nowhere_else(netns: Path) -> None:
    def make() -> tuple[bool, bool]:
        before = ARP_NOTIFY.find()
        ARP_NOTIFY.make()
        return before, ARP_NOTIFY.find()

    assert namespaces.inside(netns, make) == (False, True)

    assert namespaces.shell(netns, "cat /proc/sys/net/ipv4/conf/lo/arp_notify") == "1\n"
    assert not ARP_NOTIFY.find()
    assert sysctl.read(ARP_NOTIFY.path) == "0"


def test_what_is_as_wanted_is_not_written(netns: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    really = posix.open

    def watched(path: str | Path, flags: int) -> int:
        if str(path).startswith("/proc/sys/"):  # the harness opens files too
            opened.append(flags & posix.O_WRONLY)
        return really(path, flags)

    namespaces.inside(netns, ARP_NOTIFY.make)
    monkeypatch.setattr(posix, "open", watched)

    namespaces.inside(netns, ARP_NOTIFY.make)
    monkeypatch.undo()

    assert opened == [0]


def test_an_interface_with_a_dot_in_its_name_is_no_other_interface(netns: Path) -> None:
    namespaces.shell(netns, "ip link add eth0.1 type bridge")
    setting = Sysctl("net/ipv4/conf/eth0.1/arp_notify", "1")

    namespaces.inside(netns, setting.make)

    assert namespaces.inside(netns, setting.find)
    assert str(setting) == "net/ipv4/conf/eth0.1/arp_notify=1"


def test_several_numbers_are_found_however_they_are_set_apart(netns: Path) -> None:
    setting = Sysctl("net/ipv4/ip_local_port_range", "20000 30000")

    namespaces.inside(netns, setting.make)

    assert namespaces.inside(netns, lambda: sysctl.read(setting.path)) == "20000\t30000"
    assert namespaces.inside(netns, setting.find)
    assert not namespaces.inside(netns, setting._replace(value="20000 3000").find)


def test_a_setting_can_be_set_back_to_nothing(netns: Path) -> None:
    setting = Sysctl("net/ipv4/ip_local_reserved_ports", "8080")
    namespaces.inside(netns, setting.make)

    namespaces.inside(netns, setting._replace(value="").make)

    assert namespaces.inside(netns, lambda: sysctl.read(setting.path)) == ""
    assert namespaces.inside(netns, setting._replace(value="").find)


@pytest.mark.needs("sysctl")
def test_it_is_written_as_sysctl_takes_it(netns: Path) -> None:
    assert str(ARP_NOTIFY) == "net.ipv4.conf.lo.arp_notify=1"
    namespaces.shell(netns, "ip link add eth0.1 type bridge")

    for setting in (ARP_NOTIFY, Sysctl("net/ipv4/conf/eth0.1/arp_notify", "1")):
        namespaces.shell(netns, f"sysctl -w {setting}")

        assert namespaces.inside(netns, setting.find)


@pytest.mark.parametrize("path", ["net/ipv4/conf/nothing/arp_notify", "net/ipv4/ip_forward/beneath"])
def test_what_there_is_not_is_none_and_cannot_be_made(path: str) -> None:
    setting = Sysctl(path, "1")

    assert sysctl.read(path) is None
    assert not setting.find()
    with pytest.raises(OSError) as caught:
        setting.make()
    assert caught.value.errno in (errno.ENOENT, errno.ENOTDIR)
    assert f"sysctl -w {path.replace('/', '.')}=1: " in str(caught.value)


def test_a_value_that_the_kernel_refuses_is_an_error_that_names_the_setting(netns: Path) -> None:
    setting = Sysctl("net/ipv4/conf/lo/arp_notify", "a lot")

    with pytest.raises(OSError) as caught:
        namespaces.inside(netns, setting.make)

    assert caught.value.errno == errno.EINVAL
    assert str(caught.value) == "sysctl -w net.ipv4.conf.lo.arp_notify=a lot: Invalid argument (EINVAL)"


def test_a_setting_that_must_not_be_written_is_an_error_that_names_it() -> None:
    """/proc/sys may be mounted read-only, as in a container."""
    setting = Sysctl("kernel/osrelease", "7")

    with pytest.raises(OSError) as caught:
        setting.make()

    assert caught.value.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    assert "sysctl -w kernel.osrelease=7: " in str(caught.value)


@pytest.fixture
def proc_sys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of /proc/sys, of a kernel of the test's own."""
    monkeypatch.setattr(sysctl, "_ROOT", f"{tmp_path}/")
    return tmp_path


def test_a_kernel_without_ipv6_has_none_of_its_settings(proc_sys: Path) -> None:
    forwarding = "net/ipv6/conf/all/forwarding"
    assert sysctl.read(forwarding) is None

    (proc_sys / forwarding).parent.mkdir(parents=True)
    (proc_sys / forwarding).write_text("0\n")

    assert sysctl.read(forwarding) == "0"


def test_what_cannot_be_read_is_an_error(proc_sys: Path) -> None:
    (proc_sys / "net").mkdir()

    with pytest.raises(OSError) as caught:
        sysctl.read("net")

    assert caught.value.errno == errno.EISDIR

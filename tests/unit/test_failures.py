"""What the shell makes of the operating system's refusals: a code that says whose trouble it is, and what to do."""

from __future__ import annotations

import errno
import os

import pytest

from cni import failing
from cni.kernel.netlink import NetlinkError, Refused
from cni.spec import errors


@pytest.mark.parametrize("refusal", [NetlinkError, Refused])
def test_what_the_kernel_refuses_is_told_as_a_command(refusal: type[Refused]) -> None:
    failure = failing.translated(refusal(errno.EROFS, "sysctl -w net.ipv4.ip_forward=1"))

    assert failure.code == errors.KERNEL_REFUSED
    assert failure.msg == "sysctl -w net.ipv4.ip_forward=1: Read-only file system (EROFS)"
    assert "PODWIRE_RUN_DIR" not in failure.details


def test_what_a_file_system_refuses_is_told_with_the_file() -> None:
    failure = failing.translated(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/podwire/boot"))

    assert failure.code == errors.STATE_UNUSABLE
    assert failure.msg == "/run/podwire/boot: No space left on device (ENOSPC)"
    assert "make room" in failure.details


@pytest.mark.parametrize("code", sorted(errors.PASSING))
def test_what_may_pass_is_worth_another_try(code: int) -> None:
    for error in (OSError(code, os.strerror(code)), NetlinkError(code, "ip link show lo")):
        assert failing.translated(error).code == errors.TRY_AGAIN_LATER

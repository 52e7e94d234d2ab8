"""What stands between a test in a machine and its report here: the archive that boots, and the judgement."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests import session
from tests.vm import machine
from tests.vm.guest.reports import NEVER_RAN
from tests.vm.initramfs import Archive, modules, needed_by
from tests.vm.machine import Report, Reports


@pytest.mark.needs("busybox")
def test_an_archive_unpacks_to_what_was_put_in(tmp_path: Path) -> None:
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/kept").write_bytes(b"12345")
    (tmp_path / "tree/left_out").touch()
    with Archive(tmp_path / "archive") as archive:
        archive.file("/a/b/script", b"#!/bin/sh\n", 0o755, mtime=1000)
        archive.file("/a/b/script", b"a second one is not taken")
        archive.tree(tmp_path / "tree", Path("/tree"), leave_out=lambda path: path.name == "left_out")

    with (tmp_path / "archive").open("rb") as packed:
        subprocess.run(["busybox", "cpio", "-idm"], cwd=tmp_path, stdin=packed, check=True, capture_output=True)

    script = tmp_path / "a/b/script"
    assert (script.read_bytes(), script.stat().st_mode & 0o777, script.stat().st_mtime) == (b"#!/bin/sh\n", 0o755, 1000)
    assert (tmp_path / "tree/below/kept").read_bytes() == b"12345"


def test_a_program_comes_with_its_shared_objects() -> None:
    assert any(path.name.startswith("libc.so") for path in needed_by(Path(sys.executable).resolve()))


def test_a_module_comes_after_those_it_depends_on(tmp_path: Path) -> None:
    for name, depends in {"bridge": "stp,llc", "stp": "llc", "llc": "", "veth": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.ko").write_bytes(f"\0license=GPL\0depends={depends}\0name={name}\0".encode())

    assert [path.stem for path in modules(tmp_path, "bridge", "veth", "llc")] == ["llc", "stp", "bridge", "veth"]


def judged(tmp_path: Path, name: str, **outcomes: str) -> str:
    """What `Reports.judge` says of `name`; "" when it has nothing to say."""
    console = tmp_path / "console"
    console.write_text("Kernel panic: of all things\nCall Trace:\n")
    reports = [Report(f"f.py::{test}", outcome, f"text of {test}") for test, outcome in outcomes.items()]
    try:
        Reports({report.test: report for report in reports}, console).judge(name)
    except (pytest.fail.Exception, pytest.skip.Exception) as verdict:
        return f"{type(verdict).__name__}: {verdict.msg}"
    return ""


def test_one_failure_among_many_counts_and_is_quoted(tmp_path: Path) -> None:
    assert judged(tmp_path, "f.py", a="passed", b="skipped") == ""
    assert "Failed: f.py::c: failed\ntext of c" in judged(tmp_path, "f.py", a="passed", b="skipped", c="failed")
    assert judged(tmp_path, "f.py::a", a="passed", c="failed") == ""


def test_what_was_only_skipped_is_skipped(tmp_path: Path) -> None:
    assert judged(tmp_path, "f.py", a="skipped", b="skipped") == "Skipped: text of a"


@pytest.mark.parametrize("outcomes", [{}, {"a": NEVER_RAN}, {"a": "passed", "b": NEVER_RAN}], ids=str)
def test_a_machine_that_stopped_half_way_is_a_failure_with_its_last_words(
    tmp_path: Path, outcomes: dict[str, str]
) -> None:
    verdict = judged(tmp_path, "f.py", **outcomes)

    assert "the machine stopped before it was done" in verdict
    assert "of all things" in verdict
    assert "Call Trace" not in verdict


def test_a_command_whose_time_is_up_is_killed() -> None:
    assert list(machine.output(["sh", "-c", "echo said; exec sleep 600"], 0.5)) == ["said\n"]


def test_a_command_that_nobody_reads_any_more_is_killed() -> None:
    with contextlib.closing(machine.output(["sh", "-c", "echo $$; exec sleep 600"], 600)) as lines:
        pid = json.loads(next(lines))

    assert not Path(f"/proc/{pid}").exists()


def test_a_command_ends_with_who_started_it() -> None:
    starter = """
import sys
from tests.vm import machine
for line in machine.output(["sh", "-c", "echo $$; exec sleep 600"], 600):
    print(line, end="", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", starter], cwd=session.TOP, stdout=subprocess.PIPE) as process:
        assert process.stdout
        command = os.pidfd_open(int(process.stdout.readline()))
        try:
            process.kill()

            assert select.select([command], [], [], 60)[0] == [command]
        finally:
            os.close(command)

"""A virtual machine, from the kernel that it boots to what its tests had to say.

The tests of `guest/` are ordinary tests; what is special about them is the kernel. So a machine gets this checkout,
the interpreter and the packages that run here, and runs pytest in a session as any machine does. The kernel writes
to its first serial port, `guest.reports` one line of JSON for each test to the second.

    here                                        in the machine
    boot ── kernel, initramfs ──▶ QEMU ──▶ /init ──▶ tests.session ──▶ pytest guest/…
    judge ◀── {"test": …, "outcome": …} ◀─────── second serial port ◀───────┘

There is no disk, no network and no KVM: emulation is some fifteen times slower, and works everywhere.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import threading
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from tests import session
from tests.vm.guest.reports import NEVER_RAN
from tests.vm.initramfs import Archive, modules, needed_by

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

OLDEST = "6.1"
"""The oldest kernel that is supported: Debian 12's."""

ROOTS = (session.TOP / ".cache/vm", Path("/"))
"""Where a kernel is looked for: where tests/deps.sh unpacks one, and where the machine has its own."""

CHECKOUT = Path("/podwire")
PLUGINS = Path("/opt/cni/bin")
"""Both in the machine."""

QEMU = "qemu-system-x86_64"

PATIENCE_S = 1800.0
"""How long a boot may take with all its tests: ten minutes and more on an idle machine, much longer on a busy one."""

FINE = ("passed", "skipped")

MODULES = (
    "veth", "bridge", "dummy", "macvlan",
    "ifb", "sch_tbf", "sch_ingress", "cls_u32", "cls_matchall", "act_mirred", "act_gact", "act_police",
    "crc32c_generic", "nf_tables", "nft_ct", "nft_chain_nat", "nft_nat", "nft_masq", "nft_redir",
    "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nft_objref", "nft_meta_bridge",
    "nf_conntrack_netlink", "br_netfilter",
)  # fmt: skip
"""What a test may ask for; there is nobody in the machine who loads a module when it is needed."""
COMMANDS = ("ip", "bridge", "tc", "unshare", "nsenter", "mount", "nft", "conntrack")
"""Of iproute2, util-linux, nftables and conntrack; all else is busybox's, whose `ip` and `unshare` know too little."""

PACKAGES = ("pytest", "hypothesis", "pyroute2")

INIT = """\
#!/bin/busybox sh
# Process 1. What follows -- on the kernel's command line are pytest's arguments.
/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module"; done
export PYTHONPATH=/packages PYTHONDONTWRITEBYTECODE=1
cd {checkout}
{python} -m tests.session -p tests.vm.guest.reports --color=no --continue-on-collection-errors "$@"
reboot -f
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    image: Path
    modules: Path


def kernel(version: str = OLDEST) -> Kernel:
    """A kernel of that version. Skips where there is none, or nothing to boot it with."""
    if platform.machine() != "x86_64":
        pytest.skip("lacks: an x86-64 processor")
    _command(QEMU)
    for image in [image for root in ROOTS for image in sorted(root.glob(f"boot/vmlinuz-{version}.*-amd64"))]:
        folder = image.parent.parent / "lib/modules" / image.name.removeprefix("vmlinuz-")
        if folder.is_dir():
            return Kernel(image, folder)
    pytest.skip(f"lacks: Debian's Linux {version} (package linux-image-amd64, in .cache/vm)")


# --- what is in it ----------------------------------------------------------------------------------


def interpreter() -> Path:
    """The distribution's interpreter that `.venv` was made with: the packages there fit no other."""
    path = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    if not (path.exists() and path.samefile(sys._base_executable)):  # type: ignore[attr-defined]  # as venv finds it
        pytest.skip(f"lacks: a .venv made with {path}")
    return path


def write_initramfs(path: Path, system: Kernel, executables: Path) -> None:
    """The machine's file system: Python, this checkout, and CNI executables."""
    python = interpreter()
    with Archive(path) as archive:
        archive.file("/init", INIT.format(checkout=CHECKOUT, python=python).encode(), 0o755)
        archive.device("/dev/console", 5, 1)
        for folder in ("/proc", "/sys", "/run", "/var/lib", "/var/tmp", "/root"):
            archive.folder(folder)
        archive.folder("/tmp", 0o1777)
        archive.program(_command("busybox"), Path("/bin/busybox"))
        # busybox's own shell takes the `ip` of busybox for that of the PATH.
        archive.program(_command("dash"), Path("/bin/sh"))
        for name in COMMANDS:
            archive.program(_command(name), Path("/usr/bin", name))
        for number, module in enumerate(modules(system.modules, *MODULES)):
            archive.copy(module, Path(f"/modules/{number:02}-{module.name}"))
        archive.program(python)
        _add_library(archive, Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})))
        for name in sorted(_closure(PACKAGES)):
            _add_package(archive, metadata.distribution(name))
        for folder in ("cni", "ipam", "install", "tests"):
            archive.tree(session.TOP / folder, CHECKOUT / folder)
        archive.copy(session.TOP / "pyproject.toml", CHECKOUT / "pyproject.toml")
        archive.tree(executables, PLUGINS)


def _command(name: str) -> Path:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"lacks: {name}")
    return Path(found)


def _add_library(archive: Archive, library: Path) -> None:
    """The standard library, without its tests, what is for building Python, and another ABI's extensions."""
    abi = sysconfig.get_config_var("SOABI")
    large = {"test", "lib2to3", "ensurepip", "pydoc_data", "distutils", "idlelib", "tkinter", "turtledemo"}

    def unneeded(path: Path) -> bool:
        foreign = path.suffix == ".so" and abi not in path.name
        return foreign or path.name in large or path.name.startswith("config-")

    archive.tree(library, leave_out=unneeded)
    for extension in library.glob(f"lib-dynload/*.{abi}.so"):
        for needed in needed_by(extension):
            archive.copy(needed)


def _closure(names: Iterable[str]) -> set[str]:
    """The packages and all that they require."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            required = map(Requirement, metadata.requires(name) or ())
            pending += [one.name for one in required if not one.marker or one.marker.evaluate({"extra": ""})]
    return found


def _add_package(archive: Archive, package: metadata.Distribution) -> None:
    for file in package.files or ():
        source = Path(str(package.locate_file(file)))
        if ".." not in file.parts and source.exists():  # scripts are outside, and of no use here
            archive.copy(source, Path("/packages", file))
            if source.suffix == ".so":
                for needed in needed_by(source):
                    archive.copy(needed)


# --- what it says -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one test in the machine: pytest's word for it, or `NEVER_RAN`, and the reason."""

    test: str
    outcome: str
    text: str


@dataclass(frozen=True, slots=True)
class Reports:
    """What the tests of one boot said, and where the kernel's own words are."""

    reports: dict[str, Report]
    console: Path

    def judge(self, name: str) -> None:
        """Fails or skips as the tests of that name did: a test in all its variants, or all of a file or a folder."""
        parts = (f"{name}[", f"{name}::", f"{name}/")
        found = [report for test, report in self.reports.items() if test == name or test.startswith(parts)]
        failed = [f"{report.test}: {report.outcome}\n{report.text}" for report in found if report.outcome not in FINE]
        if not found or any(report.outcome == NEVER_RAN for report in found):
            # What a panic prints after its first line is for those who debug the kernel.
            said = self.console.read_text(errors="replace").partition("Call Trace:")[0]
            failed.append(
                "\n".join(["the machine stopped before it was done; its last words:", *said.splitlines()[-15:]])
            )
        if failed:
            pytest.fail("\n\n".join(failed), pytrace=False)
        if all(report.outcome == "skipped" for report in found):
            pytest.skip(found[0].text)


def boot(system: Kernel, initramfs: Path, console: Path, options: str, tests: Iterable[str]) -> Reports:
    """Boots a machine, with `options` on the kernel's command line, to run these tests; it is gone afterwards."""
    # Nothing of it is to be protected from itself, and what protects costs most where it is emulated.
    line = f"console=ttyS0 panic=-1 mitigations=off {options} -- {' '.join(tests)}"
    command = [
        QEMU, "-accel", "tcg", "-cpu", "qemu64,+rdrand", "-m", "1024",
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-serial", f"file:{console}", "-serial", "stdio",
        "-kernel", str(system.image), "-initrd", str(initramfs), "-append", line,
    ]  # fmt: skip
    with contextlib.closing(output(command, PATIENCE_S)) as lines:
        said = [Report(**json.loads(line)) for line in lines if line.startswith("{")]
    return Reports({report.test: report for report in said}, console)


def output(command: list[str], patience_s: float) -> Generator[str]:
    """The lines that a command writes until it ends, its time is up, or nobody reads them; it doesn't survive that."""
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],  # not even a pytest that is killed leaves it behind
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout
        limit = threading.Timer(patience_s, process.kill)
        limit.start()
        try:
            yield from process.stdout
        finally:
            limit.cancel()
            process.kill()

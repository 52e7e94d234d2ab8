"""What `cni.invoke` promises about strangers' programs: it neither hangs, nor leaks, nor swallows an error."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni import invoke
from cni.key import Key
from cni.spec.errors import DELEGATE_FAILED, INVALID_CONFIG, INVALID_ENVIRONMENT, CNIError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Script = Callable[[str], str]

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes an executable of a shell script's text."""

    def make(text: str, name: str = "plugin") -> str:
        return executable(tmp_path / name, text)

    return make


def executable(file: Path, text: str) -> str:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Neither descriptor nor child survives a call."""
    before = sorted(os.listdir("/proc/self/fd"))

    yield

    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# --- what goes in and comes out -----------------------------------------------------------------------


def test_stdin_arrives_and_stdout_comes_back(script: Script) -> None:
    assert invoke.run(script("cat"), ENVIRONMENT, b'{"name": "n"}') == b'{"name": "n"}'


def test_the_environment_is_the_given_one_and_no_other(script: Script) -> None:
    printed = invoke.run(script("/usr/bin/env -u PWD -u OLDPWD -u _ -u SHLVL"), {"CNI_COMMAND": "ADD", "X": "ä"}, b"")

    assert sorted(printed.decode().split()) == ["CNI_COMMAND=ADD", "X=ä"]


def test_bytes_that_are_not_utf8_pass_through_the_environment(script: Script) -> None:
    printed = invoke.run(script('printf %s "$CNI_ARGS"'), {"CNI_ARGS": b"A=\xff".decode(errors="surrogateescape")}, b"")

    assert printed == b"A=\xff"


def test_more_in_and_out_than_pipes_hold_at_the_same_time(script: Script) -> None:
    config = os.urandom(3 << 20)

    assert invoke.run(script("cat"), ENVIRONMENT, config) == config


def test_a_plugin_may_print_before_it_reads(script: Script) -> None:
    config = b"x" * (1 << 20)

    printed = invoke.run(script("head -c 1000000 /dev/zero; wc -c"), ENVIRONMENT, config)

    assert printed.lstrip(b"\0").strip() == b"1048576"


def test_a_plugin_need_not_read_its_stdin(script: Script) -> None:
    assert invoke.run(script("exec 0<&-; echo done"), ENVIRONMENT, b"x" * (1 << 20)) == b"done\n"


def test_a_plugin_that_closes_its_stdout_still_gets_its_whole_configuration(script: Script, tmp_path: Path) -> None:
    plugin = script(f"exec >&-; cat > {tmp_path}/seen")

    assert invoke.run(plugin, ENVIRONMENT, b"x" * (1 << 20)) == b""
    assert (tmp_path / "seen").stat().st_size == 1 << 20


def test_a_daemon_left_behind_with_the_plugins_stdout_is_not_waited_for(script: Script, tmp_path: Path) -> None:
    # It ends when we write into the FIFO, and says so by closing its own end of another.
    os.mkfifo(tmp_path / "end")
    plugin = script(f"read _ < {tmp_path}/end & echo result")

    printed = invoke.run(plugin, ENVIRONMENT, b"")

    assert printed == b"result\n"
    (tmp_path / "end").write_text("\n")


def test_output_without_end_is_cut_and_its_plugin_killed(script: Script) -> None:
    with pytest.raises(CNIError) as caught:
        invoke.run(script("exec cat /dev/zero"), ENVIRONMENT, b"")

    assert caught.value.code == DELEGATE_FAILED
    assert "more than 8 MiB" in caught.value.msg


def test_standard_error_is_ours(script: Script, capfd: pytest.CaptureFixture[str]) -> None:
    invoke.run(script("echo a log line >&2"), ENVIRONMENT, b"")

    assert capfd.readouterr().err == "a log line\n"


def test_no_descriptor_of_ours_reaches_the_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!{sys.executable} -IS\nimport posix\nprint(*posix.listdir('/proc/self/fd'))\n")
    plugin.chmod(0o755)
    handed_on = {fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and inheritable(fd)}

    printed = invoke.run(str(plugin), ENVIRONMENT, b"")

    assert len(set(map(int, printed.split())) - handed_on) == 4  # 0, 1, 2 and the directory being listed


def inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # the one that listed the directory
        return False


def test_standard_streams_that_are_closed_here_confuse_nothing(script: Script) -> None:
    plugin = script("cat")
    kept = os.dup(0), os.dup(1)
    try:
        os.close(0)
        os.close(1)
        printed = invoke.run(plugin, ENVIRONMENT, b"config")
    finally:
        os.dup2(kept[0], 0)
        os.dup2(kept[1], 1)
        for descriptor in kept:
            os.close(descriptor)

    assert printed == b"config"


def test_the_plugin_dies_of_a_broken_pipe_like_any_other_program(script: Script) -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN

    assert invoke.run(script("trap 'echo can be trapped' PIPE; kill -PIPE $$"), ENVIRONMENT, b"") == b"can be trapped\n"


# --- errors -------------------------------------------------------------------------------------------


def test_the_plugins_own_error_is_passed_on_as_it_is(script: Script) -> None:
    plugin = script("""echo '{"cniVersion": "1.0.0", "code": 42, "msg": "no", "details": "ask"}'; exit 1""")

    with pytest.raises(CNIError) as caught:
        invoke.run(plugin, ENVIRONMENT, b"")

    assert (caught.value.code, caught.value.msg, caught.value.details) == (42, "no", "ask")


@pytest.mark.parametrize(
    ("text", "how", "said"),
    [
        ("exit 3", "exit status 3", "printed nothing"),
        ("kill -9 $$", "killed by signal 9", "printed nothing"),
        ("echo oh no; exit 1", "exit status 1", "oh no"),
        ("printf '\\377'; exit 1", "exit status 1", "\\ufffd"),
        ("""echo '{"code": true, "msg": "no"}'; exit 1""", "exit status 1", '"msg"'),
        ("""echo '{"code": 7}'; exit 1""", "exit status 1", '"code"'),
        ("echo '[]'; exit 1", "exit status 1", "[]"),
        ("head -c 100000 /dev/zero | tr '\\0' x; exit 1", "exit status 1", "xxx'…"),
    ],
)
def test_a_failure_without_an_error_object_says_what_is_known(script: Script, text: str, how: str, said: str) -> None:
    plugin = script(text)

    with pytest.raises(CNIError) as caught:
        invoke.run(plugin, ENVIRONMENT, b"")

    assert caught.value.code == DELEGATE_FAILED
    assert plugin in caught.value.msg
    assert how in caught.value.msg
    assert said in caught.value.details
    assert len(caught.value.details) < 400


def test_what_cannot_be_executed_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "garbage").write_text("no program")
    (tmp_path / "garbage").chmod(0o755)

    for name, reason in (("plain", "Permission denied"), ("garbage", "Exec format error"), ("absent", "No such file")):
        with pytest.raises(CNIError) as caught:
            invoke.run(str(tmp_path / name), ENVIRONMENT, b"")
        assert caught.value.code == DELEGATE_FAILED
        assert str(tmp_path / name) in caught.value.msg
        assert reason in caught.value.msg


@pytest.fixture
def busy(tmp_path: Path, nothing_left: None) -> Iterator[tuple[str, int]]:
    """An executable, and the descriptor by which it is still open for writing."""
    plugin = tmp_path / "plugin"
    plugin.write_bytes(Path("/bin/true").read_bytes())
    plugin.chmod(0o755)
    writer = os.open(plugin, os.O_WRONLY)
    yield str(plugin), writer
    with contextlib.suppress(OSError):
        os.close(writer)


def test_an_executable_that_is_still_being_written_is_tried_again(
    busy: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, writer = busy
    monkeypatch.setattr(time, "sleep", lambda _: os.close(writer))

    assert invoke.run(plugin, ENVIRONMENT, b"") == b""


def test_an_executable_that_stays_open_for_writing_is_an_error_after_five_seconds(
    busy: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, _ = busy
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)

    with pytest.raises(CNIError, match="Text file busy"):
        invoke.run(plugin, ENVIRONMENT, b"")

    assert 4.5 < sum(waited) < 5.5


def test_an_interrupted_call_kills_and_reaps_its_plugin(script: Script) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    plugin = script("kill -USR1 $PPID; exec sleep 1000")
    before = signal.signal(signal.SIGUSR1, interrupt)
    started = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            invoke.run(plugin, ENVIRONMENT, b"")
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert time.monotonic() - started < 60


def test_ignored_sigchld_is_named_since_it_hides_every_exit_status(script: Script) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(CNIError, match="SIGCHLD") as caught:
            invoke.run(script("exit 0"), ENVIRONMENT, b"")
    finally:
        signal.signal(signal.SIGCHLD, before)

    assert caught.value.code == DELEGATE_FAILED


# --- find ---------------------------------------------------------------------------------------------


def test_the_first_directory_that_has_the_plugin_wins(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "bridge").mkdir()  # a directory is no plugin
    for name in ("b", "c"):
        executable(tmp_path / name / "bridge", "")

    found = invoke.find("bridge", [f"{tmp_path}/absent", f"{tmp_path}/a", f"{tmp_path}/b/", f"{tmp_path}/c"])

    assert found == f"{tmp_path}/b/bridge"


def test_a_link_to_a_plugin_is_a_plugin(tmp_path: Path) -> None:
    executable(tmp_path / "podwire", "")
    (tmp_path / "bridge").symlink_to("podwire")

    assert invoke.find("bridge", [str(tmp_path)]) == f"{tmp_path}/bridge"


def test_an_absent_plugin_is_named_with_the_path_that_was_searched() -> None:
    with pytest.raises(CNIError) as caught:
        invoke.find("absent", ["/nowhere", "", "/opt/nothing"])

    assert caught.value.code == DELEGATE_FAILED
    assert '"absent"' in caught.value.msg
    assert "/nowhere:/opt/nothing" in caught.value.msg


@pytest.mark.parametrize("name", ["../bridge", "/bin/sh", "a/b", ".", "..", "bridge\0", "\ud800"])
def test_a_name_that_could_leave_cni_path_is_refused(name: str) -> None:
    with pytest.raises(CNIError, match="invalid plugin name") as caught:
        invoke.find(name, ["/bin"])

    assert caught.value.code == INVALID_CONFIG


def test_no_name_and_no_path_are_errors_of_their_own() -> None:
    with pytest.raises(CNIError, match="no plugin name") as caught:
        invoke.find("", ["/bin"])
    assert caught.value.code == INVALID_CONFIG

    with pytest.raises(CNIError, match="CNI_PATH") as caught:
        invoke.find("sh", [""])  # an empty entry is not the current directory
    assert caught.value.code == INVALID_ENVIRONMENT


# --- delegates ----------------------------------------------------------------------------------------


def test_a_delegate_sees_the_protocols_variables_and_the_rest_of_the_environment(tmp_path: Path) -> None:
    executable(tmp_path / "ipam", 'printf "%s|" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_IFNAME" '
                                  '"$CNI_ARGS" "$CNI_PATH" "$HTTP_PROXY"; cat')  # fmt: skip
    inherited = {**ENVIRONMENT, "HTTP_PROXY": "p", "CNI_COMMAND": "CHECK", "CNI_IFNAME": "lo"}
    key = Key("net", "c1", "eth0", "bridge")

    printed = invoke.delegate("ADD", "ipam", key, "/run/netns/x", "A=1", ["/nowhere", str(tmp_path)], b"{}", inherited)

    assert printed.decode() == f"ADD|c1|/run/netns/x|eth0|A=1|/nowhere:{tmp_path}|p|{{}}"


def test_a_delegate_of_no_attachment_is_told_of_none(tmp_path: Path) -> None:
    executable(tmp_path / "ipam", 'printf "%s|" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_IFNAME"')
    inherited = {**ENVIRONMENT, "CNI_CONTAINERID": "somebody else's"}

    assert invoke.delegate("GC", "ipam", None, "", "", [str(tmp_path)], b"{}", inherited) == b"GC||||"


def test_files_are_looked_for_by_their_bytes_whatever_the_locale(tmp_path: Path) -> None:
    executable(tmp_path / "plügin", "echo here")
    assert stat.S_ISREG((tmp_path / "plügin").stat().st_mode)

    assert invoke.run(invoke.find("plügin", [str(tmp_path)]), ENVIRONMENT, b"") == b"here\n"


def test_variables_that_no_environment_can_hold_leave_nothing_open(script: Script) -> None:
    with pytest.raises(ValueError, match="null"):
        invoke.run(script("exit 0"), {"CNI_ARGS": "A=\0"}, b"")

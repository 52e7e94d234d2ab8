"""The one file is started: by whatever shell, interpreter and name, it becomes the program or says what it lacks."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from install import executable
from tests import interpreters, session
from tests.calls import Outcome, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


COMPILED_FOR = (11, 12, 13)
"""Minor versions that have to run at full speed."""

SHELLS = {"sh": ["/bin/sh"], "dash": ["dash"], "bash": ["bash"], "busybox": ["busybox", "sh"]}

# Stands in for the program, and tells in what world it finds itself.
PROGRAM = '''
import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import cni.absent
from cni.parts import early


def main(argv: "list[str]") -> int:
    """Documented."""
    modules = sorted(sys.modules)
    import json

    told = {
        "argv": argv,
        "path": sys.path,
        "loader": type(early.__loader__).__module__,
        "version": list(sys.version_info[:2]),
        "gc": gc.isenabled(),
        "early": early.WORD,
        "modules": modules,
        "searched": early.__spec__ is not None,
    }
    command = argv[1] if len(argv) > 1 else ""
    if command == "later":
        print("ready", flush=True)
        sys.stdin.readline()
        from cni.parts import later

        told["later"] = later.WORD
    elif command == "raise":
        import traceback

        try:
            early.fails()
        except ZeroDivisionError:
            told["traceback"] = traceback.format_exc()
    elif command == "leave":
        return int(argv[2])
    elif command == "pin":
        from pathlib import Path

        from install import executable

        executable.write(Path(argv[3]), executable.pinned(Path(argv[0]).read_bytes(), argv[2]))
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\\n")
    return 0
'''
EARLY = """\
from __future__ import annotations

from ipam import WORD

def fails():
    return 1 // 0
"""
TREE = {
    "cni/__init__.py": "",
    "cni/__main__.py": PROGRAM,
    "cni/parts/__init__.py": "",
    "cni/parts/early.py": EARLY,
    "cni/parts/later.py": "WORD = 'old'\n",
    "ipam/__init__.py": "WORD = 'early'\n",
}


def make_tree(root: Path, changes: Mapping[str, str] | None = None) -> Path:
    for name, text in {**TREE, **(changes or {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    # The loader and what is beside it are the real ones.
    shutil.copytree(session.TOP / "install", root / "install", ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The stand-in's executable, with members for all that is found here."""
    return executable.build(make_tree(tmp_path_factory.mktemp("tree")), executable.interpreters())


@pytest.fixture(scope="module")
def uncompiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same without any member, as it meets an interpreter that the build didn't know."""
    return executable.build(make_tree(tmp_path_factory.mktemp("tree")), [])


@pytest.fixture
def place(tmp_path: Path) -> Callable[[bytes], Path]:
    """Puts an executable in place and returns its path."""

    def place(content: bytes) -> Path:
        path = tmp_path / "podwire"
        executable.write(path, content)
        return path

    return place


def spy(folder: Path, minor: int) -> str:
    """An interpreter, to be pinned, that says on stderr what it compiles after the header's text, and what it lists."""
    path = folder / "spy"
    hook = (
        "import sys\n"
        "def _hook(event, arguments):\n"
        " if event == 'compile': sys.stderr.write('compiled: %r\\n' % (arguments[1],))\n"
        " if event == 'os.listdir': sys.stderr.write('listed: %r\\n' % arguments)\n"
        "sys.addaudithook(_hook)\n"
    )
    path.write_text(f'#!/bin/sh\nfirst=$3; shift 3\nexec {interpreters.python(minor)} -IS -c "{hook}$first" "$@"\n')
    path.chmod(0o755)
    return str(path)


# --- interpreters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("minor", COMPILED_FOR)
def test_nothing_is_compiled_and_no_directory_searched_where_there_is_a_member(
    minor: int, executables: Path, tmp_path: Path, unique: Callable[[], str], netns: Path
) -> None:
    pinned = tmp_path / "loopback"
    executable.write(pinned, executable.pinned((executables / "podwire").read_bytes(), spy(tmp_path, minor)))
    call = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": unique(),
        "CNI_NETNS": str(netns),
        "CNI_IFNAME": "lo",
        "CNI_PATH": str(executables),
        "PODWIRE_RUN_DIR": str(tmp_path / "run"),
    }

    outcome = run([pinned], call, b'{"cniVersion": "1.0.0", "name": "n", "type": "loopback"}')

    assert [one["address"] for one in outcome.result["ips"]] == ["127.0.0.1/8", "::1/128"]
    assert "compiled:" not in outcome.stderr
    assert "listed:" not in outcome.stderr


@pytest.mark.parametrize("minor", COMPILED_FOR)
def test_starting_from_a_member_imports_nothing_but_the_program(
    minor: int, built: bytes, place: Callable[[bytes], Path]
) -> None:
    python = interpreters.python(minor)
    bare = run([python, "-IS", "-c", "import sys, json; print(json.dumps([*sys.modules]))"]).stdout

    told = run([place(executable.pinned(built, python))]).result

    program = {"cni", "cni.__main__", "cni.parts", "cni.parts.early", "ipam"}
    assert {*told["modules"]} - {*json.loads(bare)} == program | {"gc"}
    assert not told["searched"], "a module that another needs was left to the import system"


@pytest.mark.parametrize("minor", COMPILED_FOR)
def test_without_a_member_the_sources_run(
    minor: int, uncompiled: bytes, place: Callable[[bytes], Path], tmp_path: Path
) -> None:
    path = place(executable.pinned(uncompiled, spy(tmp_path, minor)))

    outcome = run([path, "raise"])

    assert outcome.result["loader"] == "zipimport"
    assert outcome.result["early"] == "early"
    assert "During handling" not in outcome.result["traceback"]
    # So the spy of the test above does see what is compiled, and what is searched.
    assert f"compiled: '{path}/cni/__main__.py'" in outcome.stderr
    assert "listed: " in outcome.stderr


@pytest.mark.parametrize("minor", COMPILED_FOR)
@pytest.mark.parametrize("damage", ["magic number", "index"])
def test_a_member_for_another_bytecode_or_unreadable_is_not_run(
    minor: int, damage: str, built: bytes, place: Callable[[bytes], Path]
) -> None:
    python = interpreters.python(minor)
    content = executable.pinned(built, python)
    ask = "import _frozen_importlib_external as e; print(e.MAGIC_NUMBER.hex(), end='')"
    magic = run([python, "-IS", "-c", ask]).stdout.decode()
    entry = "".join(f"\\x{byte:02x}" for byte in bytes.fromhex(magic)).encode()
    if damage == "magic number":
        assert content.count(entry) == 1
        content = content.replace(entry, rb"\x00\x00\x00\x00")
    else:
        start, _ = ast.literal_eval(re.findall(rb"p,n=({.*?})", content)[0].decode())[bytes.fromhex(magic)]
        content = content[:start] + b"\0\0\0\0" + content[start + 4 :]

    told = run([place(content)]).result

    assert told["loader"] == "zipimport"
    assert told["version"] == [3, minor]


@pytest.mark.parametrize("minor", [6, 9, 10])
def test_an_interpreter_that_is_too_old_is_a_cni_error_naming_it(
    minor: int, built: bytes, place: Callable[[bytes], Path]
) -> None:
    python = interpreters.python(minor)
    path = place(executable.pinned(built, python))

    error = run([path], {"CNI_COMMAND": "ADD"}, b'{"cniVersion": "0.4.0"}').error
    sentence = run([path])

    assert error["code"] == 107
    assert error["cniVersion"] == "0.4.0"
    assert f"{python} is Python 3.{minor}" in error["msg"]
    assert "apt-get install python3" in error["details"]
    assert (sentence.code, sentence.stdout) == (1, b"")
    assert sentence.stderr == f"{error['msg']}. {error['details']}\n"


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b'{"cniVersion": 1}', b"\xff"])
def test_the_error_about_a_too_old_interpreter_needs_no_configuration(
    stdin: bytes, built: bytes, place: Callable[[bytes], Path]
) -> None:
    path = place(executable.pinned(built, interpreters.python(9)))

    assert run([path], {"CNI_COMMAND": "ADD"}, stdin).error["cniVersion"] == "0.1.0"


def test_what_an_old_interpreter_reads_is_valid_python_3_6(built: bytes) -> None:
    first = re.findall(rb"first='(.*?)'\n", built, re.DOTALL)[0].decode()
    rarely = ast.parse(first, feature_version=(3, 6)).body[-1]

    assert isinstance(rarely, ast.Expr)
    text = rarely.value.args[0].args[1]  # type: ignore[attr-defined]  # it is `exec(c.pop("loader", text))`
    ast.parse(ast.literal_eval(text), feature_version=(3, 6))
    ast.parse((session.TOP / "install/sources.py").read_text(), feature_version=(3, 6))
    assert (session.TOP / "install/__init__.py").read_text() == ""


# --- the header looks for an interpreter ------------------------------------------------------------


@pytest.fixture
def in_usr_bin(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a command where /usr/bin has these Pythons and no others; each only says its name."""

    def run_in(command: Sequence[str | Path], pythons: Sequence[str] = (), **arguments: Any) -> Outcome:
        original, shown = tmp_path / "original", tmp_path / "shown"
        for folder in (original, shown):
            folder.mkdir()
        for name in os.listdir("/usr/bin"):
            if not name.startswith("python3"):
                (shown / name).symlink_to(original / name)
        for name in pythons:
            (shown / name).write_text('#!/bin/sh\necho "$0"\n')
            (shown / name).chmod(0o755)
        setup = 'mount --bind /usr/bin "$0"; mount --bind "$1" /usr/bin; shift; exec "$@"'
        return run(
            ["unshare", "--mount", "sh", "-ec", setup, str(original), str(shown), *map(str, command)], **arguments
        )

    return run_in


@pytest.mark.parametrize("shell", SHELLS)
def test_with_no_interpreter_at_all_the_shell_prints_a_cni_error(
    shell: str, built: bytes, place: Callable[[bytes], Path], in_usr_bin: Callable[..., Outcome]
) -> None:
    if not shutil.which(SHELLS[shell][0]):
        pytest.skip(f"lacks: {shell}")
    env = {"CNI_COMMAND": "ADD", "PATH": os.environ["PATH"], "tried": "x", "config": "y"}
    conf = b'{\n "bridge": "b",\n "cniVersion" : "0.3.1",\n "prevResult": {"cniVersion": "1.0.0"}}'

    error = in_usr_bin([*SHELLS[shell], place(built)], env=env, stdin=conf).error

    assert error["code"] == 107
    assert error["cniVersion"] == "0.3.1"
    assert "Python 3.11 or later" in error["msg"]
    assert "there is none at /usr/bin/python3." in error["msg"]
    assert " /usr/bin/python3.11" in error["msg"]
    assert "apt-get install python3" in error["details"]


def test_with_no_interpreter_at_all_people_get_a_sentence(
    built: bytes, place: Callable[[bytes], Path], in_usr_bin: Callable[..., Outcome]
) -> None:
    outcome = in_usr_bin([place(built)], env={"PATH": os.environ["PATH"]})

    assert (outcome.code, outcome.stdout) == (1, b"")
    assert "apt-get install python3" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize("stdin", [b"", b"{}", b"nonsense", b'{"cniVersion": "1\\"', b'{"cniVersion": 1}', b"\0\xff\n"])
def test_the_shell_finds_some_version_for_its_error_in_any_configuration(
    stdin: bytes, built: bytes, place: Callable[[bytes], Path]
) -> None:
    path = place(executable.pinned(built, "/nowhere/python3.12"))

    error = run([path], {"CNI_COMMAND": ""}, stdin).error

    assert error["cniVersion"] == "0.1.0"
    assert "/nowhere/python3.12" in error["msg"]


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["python3.9", "python3.10", "python3.11", "python3.14"], "python3.11"),  # the only one with a member
        (["python3.9", "python3.14", "python3.15"], "python3.15"),
        (["python3.20", "python3.21"], "python3.20"),
    ],
)
def test_the_newest_interpreter_with_a_member_is_taken_else_the_newest(
    present: Sequence[str],
    chosen: str,
    tmp_path: Path,
    place: Callable[[bytes], Path],
    in_usr_bin: Callable[..., Outcome],
) -> None:
    known = executable.interpreter(interpreters.python(11))
    assert known
    path = place(executable.build(make_tree(tmp_path / "tree"), [known]))

    outcome = in_usr_bin([path], present, env={"PATH": os.environ["PATH"]})

    assert outcome.stdout.decode() == f"/usr/bin/{chosen}\n"


def test_an_interpreter_is_pinned_and_released_without_another_build(built: bytes) -> None:
    python = interpreters.python(11)

    again = executable.pinned(executable.pinned(built, python), None)

    assert executable.pinned(built, python) != built
    assert again == built


@pytest.mark.parametrize("kind", ["compiled", "uncompiled"])
def test_an_interpreter_may_be_named_in_the_header_by_hand(
    kind: str, built: bytes, uncompiled: bytes, place: Callable[[bytes], Path]
) -> None:
    content = built if kind == "compiled" else uncompiled
    python = os.fsencode(interpreters.python(11))

    told = run([place(re.sub(rb"for python in .*;", b"for python in %s;" % python, content, count=1))]).result

    assert told["loader"] == ("install.loader" if kind == "compiled" else "zipimport")


def test_an_executable_can_make_a_pinned_copy_of_itself(
    built: bytes, place: Callable[[bytes], Path], tmp_path: Path
) -> None:
    python = interpreters.python(11)

    assert run([place(built), "pin", python, tmp_path / "copy"]).code == 0

    assert (tmp_path / "copy").read_bytes() == executable.pinned(built, python)


@pytest.mark.parametrize("name", ["an interpreter", "$(true)`true`", "a\N{SNOWMAN}"])
def test_an_interpreter_of_almost_any_name_can_be_pinned(
    name: str, built: bytes, place: Callable[[bytes], Path], tmp_path: Path
) -> None:
    (tmp_path / name).symlink_to(interpreters.python(11))

    assert run([place(executable.pinned(built, str(tmp_path / name)))]).result["version"] == [3, 11]


@pytest.mark.parametrize("python", ["python3.12", "", "/a'b", '/a"b', "/a\\b", "/a\nb"])
def test_a_path_that_would_change_the_header_is_refused(python: str, built: bytes) -> None:
    with pytest.raises(ValueError, match="absolute"):
        executable.pinned(built, python)


# --- names, paths and surroundings ------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_any_shell_starts_it_with_its_arguments_as_they_are(
    shell: str, built: bytes, place: Callable[[bytes], Path]
) -> None:
    if not shutil.which(SHELLS[shell][0]):
        pytest.skip(f"lacks: {shell}")
    arguments = ["x y", "", "-c", "'\"$(false)\n", "\N{SNOWMAN}"]

    told = run([*SHELLS[shell], path := place(built), *arguments], {"PATH": os.environ["PATH"]}).result

    assert told["argv"] == [str(path), *arguments]


@pytest.mark.parametrize("name", [b"a b", b"a'b", b'a"b', b"a\nb", b"-c", b"$HOME*", b"\xe2\x98\x83", b"\xff"])
def test_it_may_be_called_anything(name: bytes, built: bytes, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(path)).write_bytes(built)
    os.chmod(path, 0o755)

    told = run([path, "raise"]).result

    assert os.fsencode(told["argv"][0]) == path
    assert told["loader"] == "install.loader"
    assert "return 1 // 0" in told["traceback"]


def test_it_is_found_through_a_link_in_the_path_or_relative_to_a_directory(
    built: bytes, place: Callable[[bytes], Path], tmp_path: Path
) -> None:
    path = place(built)
    (tmp_path / "bridge").symlink_to(path)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    linked = run([tmp_path / "bridge"]).result
    in_path = run(["sh", "-c", "exec bridge"], env).result
    relative = run(["sh", "-c", 'cd "$0"; exec ./bridge', str(tmp_path)], env).result

    assert linked["argv"] == in_path["argv"] == [f"{tmp_path}/bridge"]
    assert relative["argv"] == ["./bridge"]


@pytest.mark.parametrize("minor", COMPILED_FOR)
def test_the_environment_changes_nothing_and_only_the_standard_library_is_on_the_path(
    minor: int, built: bytes, uncompiled: bytes, place: Callable[[bytes], Path], tmp_path: Path
) -> None:
    python = interpreters.python(minor)
    (tmp_path / "json.py").write_text("raise SystemExit('ours is not the standard library')")
    names = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONINSPECT", "ENV", "BASH_ENV")
    hostile = dict.fromkeys(names, str(tmp_path)) | {"LC_ALL": "C", "PYTHONDEVMODE": "1"}
    bare = run([python, "-IS", "-c", "import sys, json; print(json.dumps({'path': sys.path}))"]).result["path"]

    from_member = run([place(executable.pinned(built, python))], hostile)
    from_sources = run([path := place(executable.pinned(uncompiled, python))], hostile)

    assert from_member.result["path"] == bare
    assert from_sources.result["path"] == [str(path), *bare]
    assert from_member.stderr == from_sources.stderr == ""


@pytest.mark.parametrize("minor", COMPILED_FOR)
def test_a_traceback_shows_lines_and_names_no_path_of_the_builder(
    minor: int, built: bytes, place: Callable[[bytes], Path]
) -> None:
    told = run([place(executable.pinned(built, interpreters.python(minor))), "raise"]).result

    assert told["loader"] == "install.loader"
    assert 'File "<podwire>/cni/parts/early.py", line 6, in fails\n    return 1 // 0\n' in told["traceback"]


def test_garbage_is_collected_for_people_and_not_for_a_plugin(built: bytes, place: Callable[[bytes], Path]) -> None:
    path = place(built)

    assert run([path]).result["gc"]
    assert not run([path], {"CNI_COMMAND": "ADD"}).result["gc"]


def test_the_exit_code_is_the_programs(built: bytes, uncompiled: bytes, place: Callable[[bytes], Path]) -> None:
    assert run([place(built), "leave", "7"]).code == 7
    assert run([place(uncompiled), "leave", "7"]).code == 7


@pytest.mark.parametrize(("kind", "code"), [("compiled", "compiled"), ("uncompiled", "sources")])
def test_podwire_version_tells_whether_it_was_compiled(
    kind: str, code: str, executables: Path, place: Callable[[bytes], Path]
) -> None:
    if kind == "compiled":
        path = executables / "podwire"
    else:
        path = place(executable.build(session.TOP, []))

    assert run([path, "version", "--json"]).result["code"] == code


# --- what can happen to a file ----------------------------------------------------------------------


def test_a_truncated_file_is_an_error_and_nothing_of_it_runs(built: bytes, place: Callable[[bytes], Path]) -> None:
    header = built.index(b"PK\3\4")

    for kept in (header, header + 1, header + (len(built) - header) // 2, len(built) - 1):
        path = place(built[:kept])
        error = run([path], {"CNI_COMMAND": "ADD"}, b"{}").error
        sentence = run([path])

        assert (error["cniVersion"], error["code"], error["details"]) == ("0.1.0", 5, "")
        assert str(path) in error["msg"]
        assert (sentence.code, sentence.stdout) == (1, b"")
        assert sentence.stderr == error["msg"] + "\n"


@pytest.mark.parametrize("text", [b"i", b"N", b"(", b"{"], ids=["a number", "None", "a tuple", "a dictionary"])
def test_whatever_stands_where_the_code_should_be_is_not_taken_for_it(
    text: bytes, built: bytes, place: Callable[[bytes], Path]
) -> None:
    """It would be read as an object of any kind, even as one of half a milliard parts, with memory for these."""
    header = built.index(b"PK\3\4")
    path = place(built[:header] + text * (len(built) - header))
    ask = f"ulimit -v {1 << 20}; exec {path}"

    error = run(["/bin/sh", "-c", ask], {"CNI_COMMAND": "ADD"}, b"{}").error

    assert error["code"] == 5


def test_a_program_that_is_overwritten_while_it_runs_takes_nothing_else_for_its_code(
    built: bytes, tmp_path: Path, place: Callable[[bytes], Path]
) -> None:
    """As by `cp -f`; an installer that knows better renames."""
    path = place(built)
    newer = executable.build(
        make_tree(tmp_path / "tree", {"cni/parts/later.py": "WORD = 'new'\n"}), executable.interpreters()
    )
    assert len(newer) == len(built)

    with subprocess.Popen([path, "later"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == b"ready\n"
        path.write_bytes(newer)
        stdout, stderr = it.communicate(b"go\n", timeout=60)

    assert stdout == b""
    assert f"{path} was overwritten while it ran" in stderr.decode()


def test_a_running_program_goes_on_with_what_it_was_started_from(
    built: bytes, tmp_path: Path, place: Callable[[bytes], Path]
) -> None:
    path = place(built)
    newer = executable.build(make_tree(tmp_path / "tree", {"cni/parts/later.py": "WORD = 'new'\n"}), [])

    with subprocess.Popen([path, "later"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        executable.write(path, newer)
        told = json.loads(running.communicate(b"go\n", timeout=60)[0])

    assert told["later"] == "old"


def test_an_executable_is_replaced_at_once_and_by_another_file(
    built: bytes, uncompiled: bytes, place: Callable[[bytes], Path]
) -> None:
    path = place(built)
    with path.open("rb") as old:
        executable.write(path, uncompiled)

        assert old.read() == built
    assert path.read_bytes() == uncompiled
    assert path.stat().st_mode & 0o7777 == 0o755
    assert os.listdir(path.parent) == [path.name]


def test_a_failed_write_leaves_what_was_there(built: bytes, place: Callable[[bytes], Path]) -> None:
    path = place(built)

    with pytest.raises(TypeError):
        executable.write(path, "not bytes")  # type: ignore[arg-type]  # so that it fails half way

    assert path.read_bytes() == built
    assert os.listdir(path.parent) == [path.name]


def test_the_drop_in_names_are_copies_not_links(executables: Path) -> None:
    files = {name: (executables / name).lstat() for name in executable.NAMES}

    assert sorted(os.listdir(executables)) == sorted(executable.NAMES)
    assert len({status.st_ino for status in files.values()}) == len(files)
    assert {(executables / name).read_bytes() for name in files} == {(executables / "podwire").read_bytes()}
    assert all(status.st_nlink == 1 and status.st_mode == 0o100755 for status in files.values())


# --- the build --------------------------------------------------------------------------------------


def test_same_sources_and_interpreters_give_the_same_bytes_anywhere(built: bytes, tmp_path: Path) -> None:
    for number in range(2):
        root = make_tree(tmp_path / str(number))
        again = executable.build(root, executable.interpreters())

        assert again == built
        assert bytes(root) not in again


def test_the_archive_is_an_ordinary_one_with_the_sources_in_it(built: bytes, place: Callable[[bytes], Path]) -> None:
    python = interpreters.python(11)
    path = place(executable.pinned(built, python))
    ask = "import sys; sys.path.insert(0, sys.argv[1]); import cni.parts.early as m; print(m.__file__)"

    assert run([python, "-IS", "-c", ask, path]).stdout.decode() == f"{path}/cni/parts/early.py\n"
    if shutil.which("unzip"):
        tested = run(["unzip", "-tq", path], {"PATH": os.environ["PATH"]})
        assert tested.code == 1  # a warning: there is something before the archive
        assert b"No errors detected" in tested.stdout
        listed = run(["unzip", "-p", path, "cni/__main__.py"], {"PATH": os.environ["PATH"]})
        assert listed.stdout.decode() == PROGRAM


def test_an_interpreter_that_will_not_do_gets_no_member(tmp_path: Path) -> None:
    (tmp_path / "python3.12").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3.12").chmod(0o755)
    old = interpreters.python(10)
    good = interpreters.python(11)

    known = executable.distinct([str(tmp_path / "python3.12"), str(tmp_path / "absent"), old, good, good])

    assert [one.path for one in known] == [good]


@pytest.mark.parametrize("variable", [True, False])
def test_the_build_can_be_told_for_which_interpreters(variable: bool, tmp_path: Path) -> None:
    python = interpreters.python(11)
    command = [interpreters.python(11), "-m", "install.executable", "--output", str(tmp_path / "bin"), "--names", "a,b"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(session.TOP)}

    if variable:
        outcome = run(command, env | {"PYTHONS": python})
    else:
        outcome = run([*command, "--python", python], env)

    assert outcome.code == 0
    assert f"3.11 ({python})" in outcome.stdout.decode()
    assert sorted(os.listdir(tmp_path / "bin")) == ["a", "b"]
    with zipfile.ZipFile(tmp_path / "bin/a") as archive:
        members = [name for name in archive.namelist() if name.startswith("compiled/")]
    assert members == ["compiled/cpython-311"]


def test_modules_are_unmarshalled_with_those_that_the_same_calls_need(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "cni/__init__.py": "",
        "cni/a.py": "import cni.b",
        "cni/b.py": "try:\n    from cni import c\nexcept ImportError:\n    pass",
        "cni/c.py": "def seldom():\n    from cni.d import x",
        "cni/d.py": "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import cni.a\nelse:\n    from cni.e import x",
        "cni/e.py": "x = 1",
        "cni/f.py": "import ipam",
        "ipam/__init__.py": "",
    }
    monkeypatch.setattr(executable, "CALLS", {"ADD": ("cni.a", "cni.f"), "DEL": ("cni.c", "cni.f")})

    modules = executable.modules_of(texts)

    assert {name: module.needs for name, module in modules.items()} == {
        "cni": (),
        "cni.a": ("cni", "cni.b"),
        "cni.b": ("cni", "cni.c"),
        "cni.c": ("cni",),
        "cni.d": ("cni", "cni.e"),
        "cni.e": ("cni",),
        "cni.f": ("cni", "ipam"),
        "ipam": (),
    }
    assert executable.parts_of(modules) == [
        ["cni", "cni.c", "cni.f"],  # of both
        ["cni.a", "cni.b"],  # of an ADD
        ["cni.d"],  # of neither
        ["cni.e"],
        ["ipam"],  # of both, and another package
    ]

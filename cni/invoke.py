"""Runs another plugin: finds it in CNI_PATH, hands it a configuration, reads its result or its error.

Used for delegates on the path of a pod, and by the runtime's side (`cni.runtime`) for every plugin of a
chain. A plugin is a stranger's program, so nothing is taken for granted: it may read none of its stdin or
answer before it has read all of it, leave a daemon behind that holds its stdout, print without end, or die
of a signal. None of this hangs us, and none of it leaves a zombie or a descriptor behind.

Standard error is inherited: plugins log there, and the runtime above us collects it. There is no timeout;
the runtime above us has one, and knows better how long a plugin may take.
"""

from __future__ import annotations

from errno import EAGAIN, ECHILD, EINTR, EPIPE, ETXTBSY

from cni.lean import JSONError, fcntl, loads, posix, select, signal, time
from cni.spec.errors import DELEGATE_FAILED, INVALID_CONFIG, INVALID_ENVIRONMENT, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final, Self

    from cni.key import Key

MAX_OUTPUT_BYTES: Final = 8 << 20
"""As much as we accept as a configuration ourselves."""

_CHUNK_BYTES: Final = 65536  # what a pipe holds
_SHOWN_BYTES: Final = 200  # of output that is no CNI error

# An installer that replaces a plugin by writing into it makes exec fail with ETXTBSY until it has closed the
# file. Short waits first: a copy takes milliseconds. Five seconds in all, as libcni waits.
_BUSY_WAITS_S: Final = (0.01, 0.05, 0.2, 0.75, 1.5, 2.5)


def find(name: str, path: Sequence[str]) -> str:
    """The first regular file called `name` in the directories of `path`.

    Raises CNIError. Whether it can be executed shows when it is: a file without the x bit is an error that
    somebody should see, not a reason to look further.
    """
    if not name:
        raise CNIError(INVALID_CONFIG, "no plugin name provided", 'the configuration needs a "type"')
    try:
        _bytes(name)
    except UnicodeEncodeError:
        raise CNIError(INVALID_CONFIG, f"invalid plugin name: {name!a}", "it is not valid Unicode") from None
    if "/" in name or "\0" in name or name in (".", ".."):
        raise CNIError(
            INVALID_CONFIG, f"invalid plugin name: {name!a}", "a type is the name of a file in CNI_PATH, not a path"
        )
    directories = [directory for directory in path if directory]
    if not directories:
        raise CNIError(INVALID_ENVIRONMENT, f'CNI_PATH names no directory to look for plugin "{name}" in')
    for directory in directories:
        candidate = f"{directory.rstrip('/')}/{name}"
        try:
            mode = posix.stat(_bytes(candidate)).st_mode
        except OSError:
            continue
        if mode & 0o170000 == 0o100000:  # S_IFMT, S_IFREG in <linux/stat.h>
            return candidate
    raise CNIError(
        DELEGATE_FAILED,
        f'failed to find plugin "{name}" in CNI_PATH: {":".join(directories)}',
        'install it into one of these directories, or correct "type"',
    )


def run(executable: str, environ: Mapping[str, str], stdin: bytes) -> bytes:
    """What `executable` prints, with exactly this environment and standard input, when it exits with 0.

    Raises CNIError: the plugin's own (code, msg and details as it printed them), or DELEGATE_FAILED with what is
    known when it failed without one.
    """
    with _Child() as child:
        child.start(executable, environ)
        output = child.talk(stdin)
        if output is None:
            raise CNIError(
                DELEGATE_FAILED, f"{executable}: printed more than {MAX_OUTPUT_BYTES >> 20} MiB and was killed"
            )
        code = child.wait()
    if code == 0:
        return output
    raise _error_of(executable, code, output)


def delegate(
    command: str,
    type: str,
    key: Key | None,
    netns: str,
    args: str,
    path: Sequence[str],
    config: bytes,
    environ: Mapping[str, str],
) -> bytes:
    """Runs the plugin `type` for one attachment (`key` is None for GC and STATUS, which have none).

    A delegate sees its caller's environment, `environ`, with the protocol's variables set for it.
    """
    executable = find(type, path)
    return run(
        executable,
        {
            **environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": key.container_id if key else "",
            "CNI_NETNS": netns,
            "CNI_IFNAME": key.ifname if key else "",
            "CNI_ARGS": args,
            "CNI_PATH": ":".join(path),
        },
        config,
    )


class _Child:
    """A plugin being run, and our ends of its standard input and output. Leaving the block ends and reaps it."""

    def __init__(self) -> None:
        self._pid = -1
        self._pidfd = -1
        self._stdin = -1
        self._stdout = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._stdin, self._stdout, self._pidfd)
        if self._pid >= 0:
            # Something else than the plugin ended this call; nobody would ever read what it answers.
            try:
                posix.kill(self._pid, signal.SIGKILL)
            except OSError:
                pass
            self.wait()

    def start(self, executable: str, environ: Mapping[str, str]) -> None:
        """Raises CNIError when the file can't be executed."""
        waits = iter(_BUSY_WAITS_S)
        while not self._started(executable, environ):
            wait_s = next(waits, None)
            if wait_s is None:
                raise _not_executable(executable, posix.strerror(ETXTBSY))
            time.sleep(wait_s)

    def _started(self, executable: str, environ: Mapping[str, str]) -> bool:
        """False when somebody has the file open for writing."""
        opened: list[int] = []
        # A handler that raises (Ctrl-C) has to wait until the child is in our hands, or nobody would ever end it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            theirs_in, self._stdin = _pipe(opened)
            self._stdout, theirs_out = _pipe(opened)
            posix.set_blocking(self._stdin, False)
            posix.set_blocking(self._stdout, False)
            self._pid = _spawn(executable, environ, theirs_in, theirs_out, mask)
            _close(theirs_in, theirs_out)
            try:
                self._pidfd = posix.pidfd_open(self._pid)
            except (AttributeError, OSError):
                pass  # not in every build, not in every sandbox: then a daemon that is left behind holds us up
        except BaseException as error:
            _close(*opened)
            self._stdin = self._stdout = -1
            if not isinstance(error, OSError):
                raise
            if error.errno == ETXTBSY:
                return False
            raise _not_executable(executable, error.strerror or str(error)) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return True

    def talk(self, stdin: bytes) -> bytes | None:
        """Writes `stdin` and reads what comes until the plugin is done; None when that is more than we take.

        Both at once: a plugin that prints before it has read everything would otherwise wait for us, and we for it.
        Done is the end of its output or the end of its process, for a daemon left behind may hold the output open.
        """
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        if self._pidfd >= 0:
            poll.register(self._pidfd, select.POLLIN)
        rest = memoryview(stdin)
        if rest:
            poll.register(self._stdin, select.POLLOUT)
        else:
            self._end_stdin()
        chunks: list[bytes] = []
        size = 0
        listening = True
        while listening or rest:
            ready = dict(poll.poll())
            if self._stdin in ready:
                rest = rest[self._write(rest) :]
                if not rest:
                    poll.unregister(self._stdin)
                    self._end_stdin()
            # A process found dead is looked at before its output is read: all that it has printed is then there.
            dead = self._pidfd in ready
            while listening and (chunk := self._read()) is not None:
                if not chunk:
                    # Closed by a plugin that may still be reading: it gets the rest of its configuration.
                    poll.unregister(self._stdout)
                    listening = False
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_OUTPUT_BYTES:
                    return None
            if dead:
                break
        return b"".join(chunks)

    def wait(self) -> int | None:
        """The exit status, negative for a signal; None when it can't be known, because SIGCHLD is ignored."""
        try:
            _, status = posix.waitpid(self._pid, 0)
        except OSError as error:
            if error.errno != ECHILD:
                raise
            self._pid = -1
            return None
        self._pid = -1
        return posix.waitstatus_to_exitcode(status)

    def _write(self, data: memoryview) -> int:
        """How much of `data` is dealt with: all of it, when nobody reads any more."""
        try:
            return posix.write(self._stdin, data[:_CHUNK_BYTES])
        except OSError as error:
            if error.errno == EPIPE:
                return len(data)
            if error.errno in (EAGAIN, EINTR):
                return 0
            raise

    def _read(self) -> bytes | None:
        """The next bytes; b"" at the end, None when there is nothing yet."""
        try:
            return posix.read(self._stdout, _CHUNK_BYTES)
        except OSError as error:
            if error.errno in (EAGAIN, EINTR):
                return None
            raise

    def _end_stdin(self) -> None:
        _close(self._stdin)
        self._stdin = -1


def _spawn(executable: str, environ: Mapping[str, str], stdin: int, stdout: int, mask: Iterable[int]) -> int:
    # vfork inside: neither our memory's size nor our threads matter. All our descriptors are close-on-exec.
    return posix.posix_spawn(
        _bytes(executable),
        [_bytes(executable)],
        {_bytes(name): _bytes(value) for name, value in environ.items()},
        file_actions=[(posix.POSIX_SPAWN_DUP2, stdin, 0), (posix.POSIX_SPAWN_DUP2, stdout, 1)],
        setsigmask=mask,
        # The interpreter ignores these two, exec would pass that on, and a shell script can't take it back.
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


def _not_executable(executable: str, why: str) -> CNIError:
    return CNIError(
        DELEGATE_FAILED,
        f"{executable}: cannot be executed: {why}",
        f"try it by hand: CNI_COMMAND=VERSION {executable}",
    )


def _error_of(executable: str, code: int | None, output: bytes) -> CNIError:
    """The error object that the plugin printed, or one that says what it did instead."""
    try:
        printed = loads(output)
    except JSONError:
        printed = None
    if isinstance(printed, dict):
        number, text, details = printed.get("code"), printed.get("msg"), printed.get("details", "")
        if isinstance(number, int) and not isinstance(number, bool) and isinstance(text, str):
            return CNIError(number, text, details if isinstance(details, str) else "")
    if code is None:
        how = "its exit status is unknown, since SIGCHLD is ignored in this process"
    elif code < 0:
        how = f"killed by signal {-code}"
    else:
        how = f"exit status {code}"
    shown = output[:_SHOWN_BYTES].decode("utf-8", "replace")
    said = f"it printed {shown!a}{'…' if len(output) > _SHOWN_BYTES else ''}" if output else "it printed nothing"
    return CNIError(
        DELEGATE_FAILED, f"{executable}: failed without a CNI error: {how}", f"{said}; its standard error may say more"
    )


def _pipe(opened: list[int]) -> tuple[int, int]:
    """A pipe whose ends are close-on-exec and none of 0, 1, 2, also when one of those is closed.

    An end that happened to be 1 would be overwritten by the child's standard output before it is used.
    """
    ends = list(posix.pipe2(posix.O_CLOEXEC))
    opened += ends
    for i, end in enumerate(ends):
        if end <= 2:
            ends[i] = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3)
            opened.append(ends[i])
            opened.remove(end)
            _close(end)
    return ends[0], ends[1]


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            posix.close(descriptor)


def _bytes(text: str) -> bytes:
    # Not the file system's encoding: under a foreign locale that is not what the environment was read with.
    return text.encode("utf-8", "surrogateescape")

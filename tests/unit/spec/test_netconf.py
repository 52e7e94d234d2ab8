"""stdin: every way in which a configuration can be wrong, and what comes of one that is right."""

from __future__ import annotations

import json
import os
import select
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import netconf
from cni.spec.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, INVALID_CONFIG, IO_FAILURE
from cni.spec.netconf import STDIN_BYTES, NetConf, read_stdin, spoken
from cni.spec.result import DNS, Interface, IPConfig, Result
from cni.spec.versions import SUPPORTED
from ipam.address import Interface as Prefixed
from tests.unit.spec import anything
from tests.unit.spec.anything import failure, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST = {"cniVersion": "1.1.0", "name": "pods", "type": "bridge"}


def parsed(**more: object) -> NetConf:
    return NetConf.parse(json.dumps({**LEAST, **more}).encode())


# --- what is right ----------------------------------------------------------------------------------


def test_a_configuration_becomes_typed_and_keeps_its_bytes() -> None:
    raw = json.dumps(
        {
            **LEAST,
            "mtu": 1400,
            "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"},
            "capabilities": {"portMappings": True, "bandwidth": False, "mac": None},
            "runtimeConfig": {"mac": "c2:11:22:33:44:55"},
            "args": {"cni": {"ips": ["10.1.0.9"]}, "labels": [{"key": "app"}]},
            "dns": {"nameservers": ["10.1.0.1"]},
            "prevResult": {
                "cniVersion": "1.1.0",
                "interfaces": [{"name": "eth0"}],
                "ips": [{"address": "10.1.0.9/16", "interface": 0}],
                "extra": 1,
            },
            "somebodys": {"own": "key"},
        },
        indent=3,
    ).encode()

    conf = NetConf.parse(raw)

    assert (conf.cni_version, conf.name, conf.type, conf.raw) == ("1.1.0", "pods", "bridge", raw)
    assert conf.keys.where == "bridge"
    assert conf.keys.integer("mtu") == 1400
    assert conf.keys.raw("somebodys") == {"own": "key"}
    assert conf.ipam.where == "bridge.ipam"
    assert conf.ipam.text("type") == "host-local"
    assert conf.runtime_config.text("mac") == "c2:11:22:33:44:55"
    assert conf.args.where == "bridge.args.cni"
    assert conf.args.texts("ips") == ("10.1.0.9",)
    assert conf.capabilities == {"portMappings"}
    assert conf.dns == DNS(nameservers=("10.1.0.1",))
    assert conf.prev_result == Result(
        interfaces=(Interface("eth0"),), ips=(IPConfig(Prefixed.parse("10.1.0.9/16"), None, 0),)
    )
    assert conf.valid_attachments is None


@pytest.mark.parametrize("absent", [{}, dict.fromkeys(["ipam", "runtimeConfig", "args", "dns", "prevResult"])])
def test_absent_and_null_leave_everything_empty(absent: dict[str, object]) -> None:
    conf = parsed(**absent)

    assert conf.ipam.empty
    assert conf.runtime_config.empty
    assert conf.args.empty
    assert conf.dns is None
    assert conf.prev_result is None
    assert conf.capabilities == frozenset()
    assert conf.valid_attachments is None


@pytest.mark.parametrize("header", [{}, {"cniVersion": None}, {"cniVersion": ""}])
def test_without_a_version_the_first_one_is_spoken(header: dict[str, object]) -> None:
    conf = NetConf.parse(json.dumps({"name": "pods", **header}).encode())

    assert conf.cni_version == "0.1.0"
    assert conf.type == ""


def test_keys_of_the_protocol_match_without_regard_to_case() -> None:
    conf = NetConf.parse(
        b'{"CNIVersion":"0.4.0","NAME":"pods","Type":"bridge","RuntimeConfig":{"MAC":"x"},"IPAM":{"TYPE":"y"}}'
    )

    assert (conf.cni_version, conf.name, conf.type) == ("0.4.0", "pods", "bridge")
    assert conf.runtime_config.text("mac") == "x"
    assert conf.ipam.text("type") == "y"


def test_an_empty_previous_result_is_one() -> None:
    assert parsed(prevResult={}).prev_result == Result()


def test_a_previous_result_speaks_its_own_version_or_the_configurations() -> None:
    expected = Result(ips=(IPConfig(Prefixed.parse("10.1.0.9/16")),))

    assert parsed(prevResult={"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.9/16"}}).prev_result == expected
    assert parsed(cniVersion="0.2.0", prevResult={"ip4": {"ip": "10.1.0.9/16"}}).prev_result == expected


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "x" * 255])
def test_network_names_that_can_name_a_folder(name: str) -> None:
    assert parsed(name=name).name == name


# --- what is wrong: the table -----------------------------------------------------------------------

WRONG: dict[str, tuple[bytes | dict[str, object], int, str]] = {
    # no JSON object
    "nothing": (b"", DECODING_FAILURE, "error unmarshall network config: unexpected end of JSON input"),
    "blanks": (b" \n\t ", DECODING_FAILURE, "error unmarshall network config: unexpected end of JSON input"),
    "no JSON": (b"Ceci n'est pas un JSON", DECODING_FAILURE, "error unmarshall network config: no JSON value found"),
    "cut off": (b'{"name": "pods", ', DECODING_FAILURE, "error unmarshall network config: Expecting property name"),
    "two documents": (b'{"name":"a"} {"name":"b"}', DECODING_FAILURE, "text after the JSON document, at character 13"),
    "invalid UTF-8": (b'{"name":"\xff"}', DECODING_FAILURE, "error unmarshall network config: 'utf-8' codec can't"),
    "UTF-16": ('{"name":"a"}'.encode("utf-16"), DECODING_FAILURE, "error unmarshall network config: 'utf-8' codec"),
    "byte order mark": (b'\xef\xbb\xbf{"name":"a"}', DECODING_FAILURE, "error unmarshall network config: no JSON"),
    "control character": (b'{"name":"a\nb"}', DECODING_FAILURE, "error unmarshall network config: Invalid control"),
    "duplicate key": (b'{"name":"a","name":"b"}', DECODING_FAILURE, 'duplicate key "name"'),
    "duplicate key inside": (b'{"name":"a","x":[{"b":1,"b":1}]}', DECODING_FAILURE, 'duplicate key "b"'),
    "NaN": (b'{"name":"a","mtu":NaN}', DECODING_FAILURE, "NaN is not JSON"),
    "Infinity": (b'{"name":"a","mtu":-Infinity}', DECODING_FAILURE, "-Infinity is not JSON"),
    "deep lists": (b'{"x":' + b"[" * 1_000_000, DECODING_FAILURE, "nested too deeply"),
    "deep objects": (b'{"x":' * 1_000_000, DECODING_FAILURE, "nested too deeply"),
    "number of 5000 digits": (b'{"name":"a","mtu":' + b"9" * 5000 + b"}", DECODING_FAILURE, "Exceeds the limit"),
    "null": (b"null", DECODING_FAILURE, "error unmarshall network config: null is not an object"),
    "list": (b"[]", DECODING_FAILURE, "error unmarshall network config: [] is not an object"),
    "string": (b'"name"', DECODING_FAILURE, 'error unmarshall network config: "name" is not an object'),
    "number": (b"1e999", DECODING_FAILURE, "error unmarshall network config: a number too large is not an object"),
    "name of another type": (
        {"name": 5},
        DECODING_FAILURE,
        "error unmarshall network config: name must be a string, got 5",
    ),
    "version of another type": (
        {"cniVersion": 1.0},
        DECODING_FAILURE,
        "decoding version from network config: cniVersion must be a string, got 1.0",
    ),
    # the name
    "no name": ({"name": None}, INVALID_CONFIG, "missing network name"),
    "empty name": ({"name": ""}, INVALID_CONFIG, "missing network name"),
    **{
        f"name {name!r}": ({"name": name}, INVALID_CONFIG, "invalid characters found in network name")
        for name in (".", "..", "a/b", "../a", "a\n", ".a", "_a", "-a", "a b", "ä", "a\0", "\ud800", "a@b")
    },
    "long name": ({"name": "x" * 256}, INVALID_CONFIG, "network name is too long"),
    # the version
    "no version": ({"cniVersion": "adsfsadf"}, DECODING_FAILURE, 'failed to convert major version part "adsfsadf"'),
    "four parts": ({"cniVersion": "1.1.0.0"}, DECODING_FAILURE, 'invalid version "1.1.0.0": too many parts'),
    "short version": ({"cniVersion": "1.1"}, INCOMPATIBLE_VERSION, "incompatible CNI versions"),
    "version to come": ({"cniVersion": "1.2.0"}, INCOMPATIBLE_VERSION, "incompatible CNI versions"),
    "version to come, with other shapes": ({"cniVersion": "2.0.0", "ipam": []}, INCOMPATIBLE_VERSION, "incompatible"),
    # the rest
    "type": ({"type": 5}, INVALID_CONFIG, "network configuration: type must be a string, got 5"),
    "two spellings": ({"IPAM": {}, "ipam": {}}, INVALID_CONFIG, 'bridge: ipam is given twice, as "IPAM" and "ipam"'),
    "two names": ({"NAME": "x"}, INVALID_CONFIG, 'bridge: name is given twice, as "name" and "NAME"'),
    **{
        f"{key} is {value!r}": ({key: value}, INVALID_CONFIG, f"bridge.{key} must be a JSON object, got ")
        for key in ("ipam", "runtimeConfig", "args", "dns", "capabilities")
        for value in ("x", 5, True, [], ["x"])
    },
    "args.cni": ({"args": {"cni": "x"}}, INVALID_CONFIG, 'bridge.args.cni must be a JSON object, got "x"'),
    "capability": (
        {"capabilities": {"mac": 1}},
        INVALID_CONFIG,
        "bridge.capabilities: mac must be true or false, got 1",
    ),
    "nameservers": ({"dns": {"nameservers": "x"}}, INVALID_CONFIG, "bridge.dns: nameservers must be a list of strings"),
    "search": ({"dns": {"search": [1]}}, INVALID_CONFIG, "bridge.dns: search[0] must be a string, got 1"),
    "options": ({"dns": {"options": [None]}}, INVALID_CONFIG, "bridge.dns: options[0] must be a string, got null"),
    "domain": ({"dns": {"domain": []}}, INVALID_CONFIG, "bridge.dns: domain must be a string, got []"),
    "half a surrogate pair": (
        {"dns": {"domain": "\ud83d"}},
        INVALID_CONFIG,
        "bridge.dns: domain must be valid Unicode",
    ),
    "prevResult": ({"prevResult": []}, INVALID_CONFIG, "prevResult must be a JSON object, got []"),
    "prevResult to come": (
        {"prevResult": {"cniVersion": "1.2.0"}},
        INCOMPATIBLE_VERSION,
        'prevResult: unsupported CNI result version "1.2.0"',
    ),
    "prevResult inside": (
        {"prevResult": {"ips": [{}, {"address": "10.1.0.9"}]}},
        INVALID_CONFIG,
        "prevResult.ips[0]: address must be an address with its prefix length",
    ),
    "attachments": (
        {"cni.dev/valid-attachments": {}},
        INVALID_CONFIG,
        "bridge: cni.dev/valid-attachments must be a list of objects, got {}",
    ),
    "attachment": (
        {"cni.dev/attachments": ["x"]},
        INVALID_CONFIG,
        'bridge: cni.dev/attachments[0] must be an object, got "x"',
    ),
    "half an attachment": (
        {"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b"}]},
        INVALID_CONFIG,
        "bridge.cni.dev/valid-attachments[1]: ifname must be a string that is not empty, got null",
    ),
    "attachment of nobody": (
        {"cni.dev/valid-attachments": [{"containerID": "", "ifname": "eth0"}]},
        INVALID_CONFIG,
        'bridge.cni.dev/valid-attachments[0]: containerID must be a string that is not empty, got ""',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_code(case: str) -> None:
    value, code, message = WRONG[case]
    stdin = value if isinstance(value, bytes) else json.dumps({**LEAST, **value}).encode()

    error = refusal(NetConf.parse, stdin)

    assert error.code == code, error
    assert message in error.msg
    assert len(error.msg) < 400


def test_many_keys_of_which_the_last_is_twice_are_refused_at_once() -> None:
    stdin = b'{"last":1,' + b",".join(b'"%d":1' % i for i in range(300_000)) + b',"299999":1}'

    assert refusal(NetConf.parse, stdin).msg.endswith('duplicate key "299999"')


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_the_list_of_valid_attachments_has_two_names(key: str) -> None:
    one = {"containerID": "a", "ifname": "eth0"}

    assert parsed(
        **{key: [one, one, {"containerID": "a", "ifname": "net1", "more": 1}]}
    ).valid_attachments == frozenset([("a", "eth0"), ("a", "net1")])
    assert parsed(**{key: []}).valid_attachments == frozenset()
    assert parsed(**{key: None}).valid_attachments is None


def test_of_two_lists_of_valid_attachments_none_is_forgotten() -> None:
    def lists(valid: object, draft: object) -> frozenset[tuple[str, str]] | None:
        return parsed(**{"cni.dev/valid-attachments": valid, "cni.dev/attachments": draft}).valid_attachments

    a, b = ({"containerID": name, "ifname": "eth0"} for name in "ab")
    assert lists([a], [a]) == frozenset([("a", "eth0")])
    assert lists([a], [b]) == frozenset([("a", "eth0"), ("b", "eth0")])
    assert lists(None, [b]) == frozenset([("b", "eth0")])
    assert lists([], None) == frozenset()
    assert lists(None, None) is None


NOT_NEEDED = {"type", "ipam", "IPAM", "runtimeConfig", "args", "capabilities", "dns", "prevResult"} | {
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
}


def is_needed(case: str) -> bool:
    value = WRONG[case][0]
    return not isinstance(value, dict) or not value.keys() <= NOT_NEEDED


@pytest.mark.parametrize("case", [case for case in WRONG if not is_needed(case)])
def test_leaving_goes_without_what_cannot_be_read(case: str) -> None:
    value = WRONG[case][0]
    assert isinstance(value, dict)

    found = NetConf.begun(json.dumps({**LEAST, **value}).encode()).whole(leaving=True)

    assert found.name == LEAST["name"]
    assert found.prev_result is None
    assert found.dns is None
    assert not ({"ipam", "IPAM"} & value.keys()) or not (found.ipam.empty or found.ipam.text("type"))


def test_leaving_reads_a_previous_result_that_can_be_read() -> None:
    stdin = json.dumps({**LEAST, "prevResult": {"ips": [{"address": "10.1.0.9/16"}]}}).encode()

    assert NetConf.begun(stdin).whole(leaving=True).prev_result == Result(
        ips=(IPConfig(Prefixed.parse("10.1.0.9/16")),)
    )


@pytest.mark.parametrize("case", [case for case in WRONG if is_needed(case)])
def test_all_else_that_is_wrong_is_told_on_leaving_too(case: str) -> None:
    value, code, _ = WRONG[case]
    stdin = value if isinstance(value, bytes) else json.dumps({**LEAST, **value}).encode()

    assert refusal(lambda: NetConf.begun(stdin)).code == code


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.4.0","name":"../x","ipam":5}', "0.4.0"),
        (b'{"CNIVERSION":"1.0.0"}', "1.0.0"),
        (b"{}", "0.1.0"),
        (b'{"cniVersion":null}', "0.1.0"),
        (b'{"cniVersion":"1.2.0"}', "1.1.0"),
        (b'{"cniVersion":"x"}', "1.1.0"),
        (b'{"cniVersion":5}', "1.1.0"),
        (b'{"cniVersion":"0.4.0","CNIVersion":"0.3.0"}', "1.1.0"),
        (b"", "1.1.0"),
        (b"[]", "1.1.0"),
        (b"\xff", "1.1.0"),
    ],
)
def test_an_error_is_told_in_the_version_of_its_configuration(stdin: bytes, version: str) -> None:
    assert spoken(stdin) == version


# --- anything ---------------------------------------------------------------------------------------

KEYS = [
    *("cniVersion", "name", "type", "ipam", "dns", "runtimeConfig", "args", "capabilities", "prevResult"),
    *("cni.dev/valid-attachments", "cni.dev/attachments", "MTU", "mtu", "Name"),
]
PREVIOUS = st.dictionaries(
    st.sampled_from(["cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6"]),
    anything.JSON
    | st.sampled_from(["0.1.0", "0.3.0", "1.1.0"])
    | st.lists(
        st.dictionaries(
            st.sampled_from(["name", "address", "version", "interface", "gateway", "dst", "gw", "table", "ip", "mtu"]),
            anything.SCALAR | st.sampled_from(["10.0.0.1/8", "::/0", "10.0.0.1", "::1", "4", "6"]),
        ),
        max_size=2,
    ),
)
CODES = {DECODING_FAILURE, INVALID_CONFIG, INCOMPATIBLE_VERSION, IO_FAILURE}


def assert_fails_only_in_our_terms(stdin: bytes) -> None:
    error = failure(NetConf.parse, stdin)
    assert error is None or error.code in CODES
    assert spoken(stdin) in SUPPORTED


@given(anything.JSON)
def test_any_json_value_fails_only_in_our_terms(value: object) -> None:
    assert_fails_only_in_our_terms(json.dumps(value).replace("Infinity", "1e999").encode())


@given(st.dictionaries(st.sampled_from(KEYS), anything.JSON))
def test_any_value_of_any_key_fails_only_in_our_terms(value: dict[str, Any]) -> None:
    assert_fails_only_in_our_terms(json.dumps({**LEAST, **value}).replace("Infinity", "1e999").encode())


@given(PREVIOUS)
def test_any_previous_result_fails_only_in_our_terms(value: object) -> None:
    assert_fails_only_in_our_terms(json.dumps({**LEAST, "prevResult": value}).replace("Infinity", "1e999").encode())


@given(st.binary() | st.text('{}[]",:eE+-.0123456789ntrufalse \\u\n', max_size=60).map(str.encode))
def test_any_bytes_fail_only_in_our_terms(stdin: bytes) -> None:
    assert_fails_only_in_our_terms(stdin)
    assert_fails_only_in_our_terms(b'{"name":"a","x":' + stdin + b"}")


# --- reading ----------------------------------------------------------------------------------------


class Pipe:
    """A pipe whose writing end is fed by a thread, which doesn't mind when nobody reads to the end."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.thread: threading.Thread | None = None

    def feed(self, *parts: bytes) -> None:
        def write() -> None:
            try:
                for part in parts:
                    rest = memoryview(part)
                    while rest:
                        rest = rest[os.write(self.writer, rest) :]
            except BrokenPipeError:
                pass
            finally:
                os.close(self.writer)

        self.thread = threading.Thread(target=write)
        self.thread.start()

    def close(self) -> None:
        os.close(self.reader)
        if self.thread is not None:
            self.thread.join()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_stdin_is_read_to_its_end(pipe: Pipe) -> None:
    pipe.feed(b"{", b'"name"', b':"x"}' + b" " * 200_000)

    assert read_stdin(pipe.reader) == b'{"name":"x"}' + b" " * 200_000


def test_an_empty_stdin_is_no_bytes(pipe: Pipe) -> None:
    pipe.feed()

    assert read_stdin(pipe.reader) == b""


def test_ten_megabytes_are_refused_before_they_are_all_read(pipe: Pipe) -> None:
    pipe.feed(b'{"name":"x","more":"' + b"x" * 10_000_000 + b'"}')

    error = refusal(read_stdin, pipe.reader)

    assert error.code == IO_FAILURE
    assert error.msg == f"error reading from stdin: more than {STDIN_BYTES} bytes"


def test_a_configuration_handed_over_in_memory_has_the_same_limit() -> None:
    padding = STDIN_BYTES - len(json.dumps(LEAST))

    assert NetConf.parse(json.dumps(LEAST).encode() + b" " * padding).name == "pods"
    assert refusal(NetConf.parse, json.dumps(LEAST).encode() + b" " * (padding + 1)).code == IO_FAILURE


def test_exactly_the_limit_is_read(pipe: Pipe) -> None:
    pipe.feed(b"12345")

    assert read_stdin(pipe.reader, 5) == b"12345"


def test_a_byte_beyond_the_limit_is_too_much(pipe: Pipe) -> None:
    pipe.feed(b"123456")

    assert refusal(read_stdin, pipe.reader, 5).code == IO_FAILURE


class Poll:
    """Stands for select.poll: what is waited for arrives then, and not earlier."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    def register(self, fd: int, events: int) -> None:
        assert (fd, events) == (self.pipe.reader, select.POLLIN)

    def poll(self) -> None:
        os.write(self.pipe.writer, b"{}")
        os.close(self.pipe.writer)


def test_a_non_blocking_stdin_is_waited_for(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    os.set_blocking(pipe.reader, False)
    monkeypatch.setattr(netconf, "select", SimpleNamespace(POLLIN=select.POLLIN, poll=lambda: Poll(pipe)))

    assert read_stdin(pipe.reader) == b"{}"


def test_a_closed_stdin_is_an_error_with_its_cause(pipe: Pipe) -> None:
    pipe.feed()
    closed = os.dup(pipe.reader)
    os.close(closed)

    error = refusal(read_stdin, closed)

    assert error.code == IO_FAILURE
    assert error.msg == "error reading from stdin: Bad file descriptor"
    assert isinstance(error.__cause__, OSError)


def test_a_stdin_that_is_a_directory_is_an_error() -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        assert refusal(read_stdin, fd).msg == "error reading from stdin: Is a directory"
    finally:
        os.close(fd)

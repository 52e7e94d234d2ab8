"""The environment of a call: every rule, in the reference's order and words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.errors import INVALID_ENVIRONMENT
from cni.spec.request import COMMANDS, Request, is_name, parse_args, require_container_id, require_ifname
from tests.unit.spec import anything
from tests.unit.spec.anything import failure, refusal

FULL = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "some-container",
    "CNI_NETNS": "/run/netns/some",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "K=V",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}


def words(environ: dict[str, str]) -> str:
    """Of the error with code 4 that this environment must end with."""
    error = refusal(Request.parse, environ)
    assert error.code == INVALID_ENVIRONMENT
    return error.msg


def test_a_request_is_what_the_environment_says() -> None:
    assert Request.parse(FULL) == Request(
        command="ADD",
        container_id="some-container",
        netns="/run/netns/some",
        ifname="eth0",
        args="K=V",
        path=("/opt/cni/bin", "/usr/lib/cni"),
        netns_override=False,
    )


# --- what is required -------------------------------------------------------------------------------

REQUIRED = {
    "ADD": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
    "CHECK": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
    "DEL": ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
    "GC": ["CNI_PATH"],
    "STATUS": ["CNI_PATH"],
    "VERSION": [],
    "UPDATE": [],
}


@pytest.mark.parametrize("command", REQUIRED)
@pytest.mark.parametrize("absent", [name for name in FULL if name != "CNI_COMMAND"])
@pytest.mark.parametrize("how", ["unset", "empty"])
def test_a_variable_may_be_missing_where_the_command_does_not_need_it(command: str, absent: str, how: str) -> None:
    environ = {**FULL, "CNI_COMMAND": command, absent: ""}
    if how == "unset":
        del environ[absent]

    if absent not in REQUIRED[command]:
        assert Request.parse(environ).command == command
        return

    assert words(environ) == f"required env variables [{absent}] missing"


@pytest.mark.parametrize("command", REQUIRED)
def test_all_missing_variables_are_listed_in_order(command: str) -> None:
    environ = {"CNI_COMMAND": command}
    if not REQUIRED[command]:
        assert Request.parse(environ) == Request(command, "", "", "", "", (), False)
        return

    assert words(environ) == f"required env variables [{','.join(REQUIRED[command])}] missing"


def test_without_a_command_nothing_else_is_asked_for() -> None:
    assert words({}) == "required env variables [CNI_COMMAND] missing"
    assert words({**FULL, "CNI_COMMAND": ""}) == "required env variables [CNI_COMMAND] missing"


def test_a_malformed_variable_is_told_before_missing_ones() -> None:
    assert words({"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a/b"}) == "invalid characters in containerID"
    assert words({"CNI_COMMAND": "ADD", "CNI_IFNAME": "a/b"}).startswith("interface name contains")


def test_of_two_malformed_variables_the_container_id_comes_first() -> None:
    assert words({**FULL, "CNI_CONTAINERID": "!", "CNI_IFNAME": "a/b"}) == "invalid characters in containerID"


@pytest.mark.parametrize("command", ["GC", "STATUS", "VERSION", "UPDATE"])
def test_what_a_command_does_not_need_is_not_validated(command: str) -> None:
    environ = {**FULL, "CNI_COMMAND": command, "CNI_CONTAINERID": "a/b", "CNI_IFNAME": "a/b"}

    assert Request.parse(environ).container_id == "a/b"


def test_an_unknown_command_is_refused_when_asked() -> None:
    for command in COMMANDS:
        Request.parse({**FULL, "CNI_COMMAND": command}).require_known()
    for command in ("UPDATE", "add", "ADD ", "\udcff"):
        request = Request.parse({**FULL, "CNI_COMMAND": command})
        error = refusal(request.require_known)
        assert error.code == INVALID_ENVIRONMENT
        assert error.msg == f"unknown CNI_COMMAND: {command}"
        assert "ADD, DEL, CHECK, STATUS, GC, VERSION" in error.details


# --- container ID -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a", "0", "A_b.c-d", "cnitool-77383ca0a0715733ca6f", "x" * 4000, "a..", "9-"])
def test_names_that_the_specification_allows(text: str) -> None:
    assert is_name(text)
    require_container_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "_a",
        ".a",
        "-a",
        ".",
        "..",
        "a/b",
        "a b",
        "a\n",
        "\na",
        "a@b",
        "a:b",
        "a%b",
        "ä",
        "aä",
        "a\u0660",
        "²",
        "a\0",
        "\udcff",
    ],
)
def test_names_that_it_does_not(text: str) -> None:
    assert not is_name(text)
    error = refusal(require_container_id, text)
    assert (error.code, error.msg, error.details) == (
        INVALID_ENVIRONMENT,
        "invalid characters in containerID",
        text,
    )


def test_an_empty_container_id_is_a_missing_one() -> None:
    assert not is_name("")
    assert refusal(require_container_id, "").msg == "missing containerID"


# --- interface name ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["e", "eth0", "a.b", "...", "x" * 15, "ü" * 7 + "x", "a@b", "a\x1cb", "a\x1fb", "😀"])
def test_interface_names_that_the_reference_takes(text: str) -> None:
    require_ifname(text)


WHITE_SPACE = "contains / or : or whitespace characters"


@pytest.mark.parametrize(
    ("text", "message", "details"),
    [
        ("", "interface name is empty", "CNI_IFNAME"),
        ("x" * 16, "interface name is too long", "interface name should be less than 16 characters"),
        ("ü" * 8, "interface name is too long", "interface name should be less than 16 characters"),
        (".", "interface name is . or ..", 'CNI_IFNAME is "."'),
        ("..", "interface name is . or ..", 'CNI_IFNAME is ".."'),
        ("a/b", f"interface name {WHITE_SPACE}", 'CNI_IFNAME is "a/b"'),
        ("a:b", f"interface name {WHITE_SPACE}", 'CNI_IFNAME is "a:b"'),
        *(
            (f"a{space}", f"interface name {WHITE_SPACE}", "CNI_IFNAME")
            for space in "\t\n\v\f\r \x85\xa0\u1680\u2003\u3000"
        ),
        ("eth%d", "interface name contains %", 'CNI_IFNAME is "eth%d"'),
        ("a\udcff", "interface name is not valid UTF-8", "CNI_IFNAME"),
    ],
)
def test_interface_names_that_it_refuses(text: str, message: str, details: str) -> None:
    error = refusal(require_ifname, text)

    assert error.code == INVALID_ENVIRONMENT
    assert error.msg == message
    assert details in error.details


def test_white_space_is_unicodes_white_space_property() -> None:
    # By the Unicode Character Database (PropList.txt): 25 characters.
    listed = [
        *range(0x09, 0x0E),
        0x20,
        0x85,
        0xA0,
        0x1680,
        *range(0x2000, 0x200B),
        0x2028,
        0x2029,
        0x202F,
        0x205F,
        0x3000,
    ]
    assert len(listed) == 25

    refused = []
    for code in range(1, 0x3100):
        if failure(require_ifname, f"a{chr(code)}"):
            refused.append(code)

    assert refused == sorted([*listed, ord("/"), ord(":"), ord("%")])


# --- the rest ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "path"), [("", ()), ("/a", ("/a",)), (":/a::/b:", ("/a", "/b")), (":", ())])
def test_the_path_is_a_list_of_folders(text: str, path: tuple[str, ...]) -> None:
    assert Request.parse({"CNI_COMMAND": "VERSION", "CNI_PATH": text}).path == path


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), ("TRUE", True), ("true", True), ("True", True), ("", False), ("0", False), ("yes", False)],
)
def test_the_netns_may_be_allowed_to_be_the_plugins_own(text: str, expected: bool) -> None:
    assert Request.parse({**FULL, "CNI_NETNS_OVERRIDE": text}).netns_override is expected


@given(st.dictionaries(st.sampled_from([*FULL, "CNI_NETNS_OVERRIDE"]), anything.TEXT | st.sampled_from(COMMANDS)))
def test_any_environment_fails_only_in_our_terms(environ: dict[str, str]) -> None:
    error = failure(lambda: Request.parse(environ).require_known())

    assert error is None or error.code == INVALID_ENVIRONMENT


# --- CNI_ARGS ---------------------------------------------------------------------------------------

KNOWN = frozenset(["MAC", "IP"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("MAC=c2:11:22:33:44:55", {"MAC": "c2:11:22:33:44:55"}),
        ("IP=10.0.0.5;MAC=", {"IP": "10.0.0.5", "MAC": ""}),
        ("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;IP=10.0.0.5", {"IP": "10.0.0.5"}),
        ("K8S_POD_NAME=web-0;IgnoreUnknown=true", {}),
        ("IgnoreUnknown=TRUE;ip=10.0.0.5", {}),
        ("IgnoreUnknown=0;IP=a", {"IP": "a"}),
        ("IgnoreUnknown=false", {}),
        ("IgnoreUnknown=0;IgnoreUnknown=1;X=1", {}),
        ("IP=a;IP=b", {"IP": "b"}),
    ],
)
def test_pairs_of_known_keys_are_found(text: str, found: dict[str, str]) -> None:
    assert parse_args(text, KNOWN) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IP", 'ARGS: invalid pair "IP"'),
        ("IP=a=b", 'ARGS: invalid pair "IP=a=b"'),
        ("IP=a;", 'ARGS: invalid pair ""'),
        (";", 'ARGS: invalid pair ""'),
        ("IgnoreUnknown=1;junk", 'ARGS: invalid pair "junk"'),
        ("A=1;IP=a;B=2", 'ARGS: unknown args ["A=1" "B=2"]'),
        ("ip=a", 'ARGS: unknown args ["ip=a"]'),
        ("IgnoreUnknown=0;A=1", 'ARGS: unknown args ["A=1"]'),
        ("ignoreunknown=1;A=1", 'ARGS: unknown args ["ignoreunknown=1" "A=1"]'),
        (
            "IgnoreUnknown=Yes",
            'ARGS: error parsing value of pair "IgnoreUnknown=Yes": boolean unmarshal error: invalid input yes',
        ),
    ],
)
def test_what_is_no_pair_or_unknown_is_refused(text: str, message: str) -> None:
    error = refusal(parse_args, text, KNOWN)

    assert error.code == INVALID_ENVIRONMENT
    assert error.msg == message
    assert "CNI_ARGS" in error.details


@given(st.text(st.sampled_from("IPMACgnoreUk=;01tru \udcff"), max_size=40))
def test_any_arguments_fail_only_in_our_terms(text: str) -> None:
    error = failure(parse_args, text, KNOWN)

    assert error is None or error.code == INVALID_ENVIRONMENT

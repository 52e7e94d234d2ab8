"""Elements as we make them: listed by nft, found by us, gone when dropped; and all of a transaction, or none."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.kernel import nft, nftlist
from cni.kernel.netlink import NetlinkError
from cni.kernel.nft import Element, transact
from tests import namespaces
from tests.kernel import rulesets
from tests.kernel.rulesets import Listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cni.kernel.netlink import Socket

pytestmark = pytest.mark.needs("nft")

TAG, OTHER = "pw0123456789abc", "pwzyxwvutsrqpon"

SERVICE = "inet_proto . inet_service : ipv4_addr . inet_service"
SERVICE_6 = "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service"
ELEMENTS = [
    Element("ports", "ifname", "cni0", TAG),
    Element("ports", "ifname", "a.b-c@d'e$f\\g", TAG),
    Element("ports", "ifname", "123456789012345", TAG),
    Element("ports", "ifname", "eth*", TAG),
    Element("ports", "ifname", "é", TAG),
    Element("services", "inet_service", "53", TAG),
    Element("protocols", "inet_proto", "sctp", TAG),
    Element("pods4", "ifname . ipv4_addr", "cni0 . 10.244.0.5", TAG),
    Element("pods4", "ifname . ipv4_addr", "set . 10.244.0.5", TAG),
    Element("pods6", "ifname . ipv6_addr", "cni0 . fd00::5", TAG),
    Element("hostports_any4", SERVICE, "tcp . 8080 : 10.244.0.5 . 80", TAG),
    Element("hostports_any4", SERVICE, "udp . 53 : 10.244.0.5 . 5353", TAG),
    Element("hostports6", SERVICE_6, "fd00::1 . sctp . 80 : fd00::5 . 65535", TAG),
    Element("names", "ipv4_addr : ifname", "10.0.0.1 : cni0", TAG),
    Element("macs", "ifname . ether_addr", "port0 . 02:00:00:00:00:01", TAG, family="bridge"),
    Element("owners", "ether_addr : ifname", "02:00:00:00:00:01 : port0", TAG, family="bridge"),
]
"""One of each kind and shape."""

POD = Element("pods4", "ifname . ipv4_addr", "cni0 . 10.244.0.5", TAG)
PORT = Element("hostports_any4", SERVICE, "tcp . 8080 : 10.244.0.5 . 80", TAG)


def pods(count: int, tag: str = TAG) -> list[Element]:
    return [POD._replace(text=f"cni0 . 10.{n // 250}.{n % 250}.7", tag=tag) for n in range(count)]


def listed(*elements: Element) -> set[Listed]:
    return {Listed(one.family, one.set, one.text, one.tag) for one in elements}


@pytest.fixture
def empty(netns: Path) -> Iterator[Socket]:
    """A socket to nf_tables in `netns`, where there is no table."""
    with namespaces.inside(netns, nft.connect) as nl:
        yield nl


@pytest.fixture
def nl(netns: Path, empty: Socket) -> Socket:
    """… where our tables are."""
    rulesets.load(netns)
    return empty


# --- one element ------------------------------------------------------------------------------------


def test_elements_of_every_kind_are_what_nft_lists(netns: Path, nl: Socket) -> None:
    assert transact(nl, [one.make() for one in ELEMENTS]) == ()

    assert rulesets.elements(netns) == listed(*ELEMENTS)


def test_the_bytes_that_make_an_element_are_those_of_this_machines_nft(netns: Path, nl: Socket) -> None:
    theirs = rulesets.sent_by_nft(netns, [one.line("create") for one in ELEMENTS])  # which it sorts

    assert sorted(one.make().body.hex() for one in ELEMENTS) == sorted(body.hex() for body in theirs)


def test_the_bytes_that_drop_an_element_are_those_of_this_machines_nft(netns: Path, nl: Socket) -> None:
    transact(nl, [one.make() for one in ELEMENTS])

    theirs = rulesets.sent_by_nft(netns, [one.line("delete") for one in ELEMENTS])

    assert sorted(one.drop().body.hex() for one in ELEMENTS) == sorted(body.hex() for body in theirs)


@pytest.mark.parametrize("element", ELEMENTS, ids=lambda one: f"{one.set} {one.text}")
def test_an_element_is_found_from_when_it_is_made_until_it_is_dropped(nl: Socket, element: Element) -> None:
    assert not element.find(nl)

    transact(nl, [element.make()])
    assert element.find(nl)
    assert not element._replace(tag=OTHER).find(nl)

    assert transact(nl, [element.drop()]) == ()
    assert not element.find(nl)
    assert transact(nl, [element.drop()]) == (element.drop(),)


def test_what_nft_adds_is_found_by_us(netns: Path, nl: Socket) -> None:
    rulesets.load(netns, "\n".join(one.line() for one in ELEMENTS))

    assert all(one.find(nl) for one in ELEMENTS)


@pytest.mark.parametrize(
    "other", ["tcp . 8080 : 10.244.0.6 . 80", "tcp . 8080 : 10.244.0.5 . 81", "udp . 8080 : 10.244.0.5 . 80"]
)
def test_an_element_with_another_value_or_key_is_not_found(nl: Socket, other: str) -> None:
    transact(nl, [PORT.make()])

    assert not PORT._replace(text=other).find(nl)


def test_an_element_without_a_comment_is_nobodys(netns: Path, nl: Socket) -> None:
    rulesets.load(netns, "add element inet podwire pods4 { cni0 . 10.244.0.5 }")

    assert not POD.find(nl)
    assert nftlist.elements(nl, "inet") == [POD._replace(tag="")]


def test_the_longest_comment_is_listed(netns: Path, nl: Socket) -> None:
    element = POD._replace(tag="x" * 127)

    transact(nl, [element.make()])

    assert rulesets.elements(netns) == listed(element)
    assert element.find(nl)


def test_requests_can_be_replayed_by_hand(make_netns: Callable[[], Path], nl: Socket, netns: Path) -> None:
    by_hand = make_netns()
    rulesets.load(by_hand)

    for request in [one.make() for one in ELEMENTS] + [one.drop() for one in ELEMENTS[::2]]:
        transact(nl, [request])
        namespaces.shell(by_hand, request.what)

    assert rulesets.elements(by_hand) == rulesets.elements(netns) == listed(*ELEMENTS[1::2])


# --- who has it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mine", [POD, PORT], ids=["set", "map"])
def test_an_element_that_is_there_is_not_taken_over_unawares(nl: Socket, mine: Element) -> None:
    theirs = mine._replace(tag=OTHER)
    transact(nl, [theirs.make()])

    with pytest.raises(NetlinkError) as caught:
        transact(nl, [mine.make()])

    assert (caught.value.errno, caught.value.what) == (errno.EEXIST, mine.make().what)
    assert theirs.find(nl)


@pytest.mark.parametrize("there", [True, False])
def test_an_element_takes_the_place_of_anothers_in_one_transaction_whether_there_is_one_or_not(
    netns: Path, nl: Socket, there: bool
) -> None:
    theirs = PORT._replace(text="tcp . 8080 : 10.244.0.9 . 80", tag=OTHER)
    if there:
        transact(nl, [theirs.make()])

    left_out = transact(nl, [PORT.drop(), PORT.make(), POD.make()])

    assert left_out == (() if there else (PORT.drop(),))
    assert rulesets.elements(netns) == listed(PORT, POD)


# --- all or none ------------------------------------------------------------------------------------


def test_one_that_is_refused_keeps_all_others_out(netns: Path, nl: Socket) -> None:
    bad = POD._replace(set="nowhere")

    for requests in ([bad, PORT], [PORT, bad], [PORT, bad, POD]):
        with pytest.raises(NetlinkError) as caught:
            transact(nl, [one.make() for one in requests])
        assert (caught.value.errno, caught.value.what) == (errno.ENOENT, bad.make().what)

    assert rulesets.elements(netns) == set()


def test_an_element_that_does_not_fit_its_set_is_refused(nl: Socket) -> None:
    for bad in (POD._replace(set="ports"), PORT._replace(set="pods4"), POD._replace(set="hostports_any4")):
        with pytest.raises(NetlinkError, match=r"EINVAL"):
            transact(nl, [bad.make()])


def test_elements_that_are_gone_keep_no_other_from_going(netns: Path, nl: Socket) -> None:
    there, gone = pods(20)[::2], pods(20)[1::2]
    stays = POD._replace(text="cni0 . 10.99.0.1")
    transact(nl, [one.make() for one in [*there, stays]])

    left_out = transact(nl, [one.drop() for one in pods(20)])

    assert left_out == tuple(one.drop() for one in gone)
    assert rulesets.elements(netns) == listed(stays)


@pytest.mark.parametrize("taken", ["flush set inet podwire pods4", "delete set inet podwire pods4",
                                   "delete table inet podwire", "flush ruleset"])  # fmt: skip
def test_elements_whose_table_somebody_else_took_are_gone_too(netns: Path, nl: Socket, taken: str) -> None:
    requests = [POD.drop(), PORT.drop()]
    transact(nl, [POD.make(), PORT.make()])

    namespaces.shell(netns, f"nft {taken}")

    assert set(transact(nl, requests)) <= set(requests)
    assert rulesets.elements(netns) == set()


@pytest.fixture
def taken_after_the_first_try(netns: Path, nl: Socket, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Somebody takes all tables when a transaction was tried once; returned are the sizes of what is sent."""
    sent: list[int] = []
    send = nl.send_framed

    def meddle(datagram: bytes, what: str) -> None:
        if sent:
            namespaces.shell(netns, "nft flush ruleset")
        sent.append(len(datagram))
        send(datagram, what)

    monkeypatch.setattr(nl, "send_framed", meddle)
    return sent


def test_elements_whose_table_goes_between_two_tries_are_gone_too(
    netns: Path, nl: Socket, taken_after_the_first_try: list[int]
) -> None:
    requests = [one.drop() for one in pods(3)]
    rulesets.load(netns, pods(3)[1].line())

    assert set(transact(nl, requests)) == set(requests)

    assert len(taken_after_the_first_try) == 2


def test_an_element_whose_table_goes_between_two_tries_is_an_error(
    nl: Socket, taken_after_the_first_try: list[int]
) -> None:
    with pytest.raises(NetlinkError) as caught:
        transact(nl, [PORT.drop(), POD.make()])

    assert (caught.value.errno, caught.value.what) == (errno.ENOENT, POD.make().what)
    assert len(taken_after_the_first_try) == 2


def test_an_element_whose_set_is_missing_is_an_error(netns: Path, nl: Socket) -> None:
    namespaces.shell(netns, "nft flush ruleset")

    with pytest.raises(NetlinkError) as caught:
        transact(nl, [POD.make()])

    assert caught.value.errno == errno.ENOENT
    assert not POD.find(nl)


def test_a_thousand_elements_are_one_transaction(netns: Path, nl: Socket) -> None:
    many = pods(1000)

    assert transact(nl, [one.make() for one in many]) == ()

    assert len(rulesets.elements(netns)) == 1000
    assert transact(nl, [one.drop() for one in many]) == ()
    assert rulesets.elements(netns) == set()


@pytest.mark.needs("root")  # who may send more than everybody
def test_elements_that_the_sockets_buffer_is_too_small_for_are_one_transaction_all_the_same(nl: Socket) -> None:
    many = pods(8000)

    assert transact(nl, [one.make() for one in many]) == ()

    assert set(nftlist.elements(nl, "inet")) == set(many)


def test_a_thousand_refusals_are_more_than_the_socket_holds_and_keep_none_that_is_there(
    netns: Path, nl: Socket
) -> None:
    many = pods(1000)
    stays = POD._replace(text="cni0 . 10.99.0.1")
    transact(nl, [many[0].make(), many[500].make(), many[999].make(), stays.make()])

    left_out = transact(nl, [one.drop() for one in many])

    assert len(left_out) == 997
    assert rulesets.elements(netns) == listed(stays)


def test_a_thousand_refusals_that_are_not_fine_are_one_error(netns: Path, nl: Socket) -> None:
    namespaces.shell(netns, "nft delete set inet podwire pods4")

    with pytest.raises(NetlinkError) as caught:
        transact(nl, [one.make() for one in pods(1000)])

    assert (caught.value.errno, caught.value.what) == (errno.ENOENT, pods(1)[0].make().what)
    transact(nl, [PORT.make()])
    assert PORT.find(nl)


def test_transactions_of_many_at_once_all_come_through(netns: Path, nl: Socket) -> None:
    failures: list[BaseException] = []

    def attach(number: int) -> None:
        try:
            with namespaces.inside(netns, nft.connect) as mine:
                pod = POD._replace(text=f"cni0 . 10.244.1.{number}")
                for _ in range(20):
                    transact(mine, [pod.make()])
                    assert pod.find(mine)
                    assert transact(mine, [pod.drop()]) == ()
                transact(mine, [pod.make()])
        except BaseException as error:  # noqa: BLE001  # looked at by the test
            failures.append(error)

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(rulesets.elements(netns)) == 8


STEPS: st.SearchStrategy[tuple[str, list[int]]] = st.one_of(
    st.tuples(st.just("make"), st.lists(st.integers(0, 9), unique=True, max_size=6)),
    st.tuples(st.just("drop"), st.lists(st.integers(0, 9), unique=True, max_size=6)),
    st.tuples(st.sampled_from(("take", "restore", "flush")), st.just([])),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=12))
def test_whatever_comes_in_between_a_transaction_does_all_or_nothing(
    netns: Path, empty: Socket, steps: list[tuple[str, list[int]]]
) -> None:
    rulesets.load(netns, "add table inet podwire\ndelete table inet podwire\n" + rulesets.INET)
    restored, there = True, set[int]()
    all_pods = pods(10)

    for step, numbers in steps:
        if step == "make":
            requests = [all_pods[n].make() for n in numbers]
            if requests and (not restored or there & set(numbers)):
                with pytest.raises(NetlinkError):
                    transact(empty, requests)
            else:
                assert transact(empty, requests) == ()
                there |= set(numbers)
        elif step == "drop":
            requests = [all_pods[n].drop() for n in numbers]
            assert set(transact(empty, requests)) == {all_pods[n].drop() for n in set(numbers) - there}
            there -= set(numbers)
        elif step == "take":
            namespaces.shell(netns, "nft 'add table inet podwire; delete table inet podwire'")
            restored, there = False, set()
        elif step == "restore":
            rulesets.load(netns, rulesets.INET)
            restored = True
        elif restored:
            namespaces.shell(netns, "nft flush set inet podwire pods4")
            there = set()

        assert {one.text for one in nftlist.elements(empty, "inet")} == {all_pods[n].text for n in there}


# --- the table --------------------------------------------------------------------------------------


def test_the_rules_version_is_the_comment_that_they_were_loaded_with(netns: Path, empty: Socket) -> None:
    assert nft.rules_version(empty) is None
    assert nft.rules_version(empty, "bridge") is None

    rulesets.load(netns)

    assert nft.rules_version(empty) == rulesets.VERSION
    assert nft.rules_version(empty, "bridge") == ""

    namespaces.shell(netns, "nft flush table bridge podwire")
    assert nft.rules_version(empty) == rulesets.VERSION
    assert nft.rules_version(empty, "bridge") is None

    namespaces.shell(netns, "nft flush ruleset; nft add table ip podwire")
    assert nft.rules_version(empty) is None


# --- lists ------------------------------------------------------------------------------------------


MORE = """
table inet podwire {
    set networks { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }
    set marks { type mark; elements = { 1 } }
    map marked { type ipv4_addr : mark; elements = { 10.0.0.1 : 1 } }
    map verdicts { type ipv4_addr : verdict; elements = { 10.0.0.1 : jump chain_1 } }
    counter counted { }
    map counters { type ipv4_addr : counter; elements = { 10.0.0.1 : "counted" } }
    chain postrouting_x {
        type nat hook postrouting priority 100
        ip daddr { 10.0.0.1, 10.0.0.2 } accept
        ip daddr vmap { 10.0.0.1 : accept, 10.0.0.2 : drop }
    }
}
"""
MORE += "".join(
    f"""
    table {table} {{
        set pods4 {{ type ipv4_addr; elements = {{ 10.0.0.1 }} }}
        chain theirs {{ }}
    }}
    """
    for table in ("inet other", "ip podwire")
)


def test_elements_are_read_back_as_they_were_made_and_nothing_else(netns: Path, nl: Socket) -> None:
    rulesets.load(netns, MORE)
    transact(nl, [one.make() for one in ELEMENTS])

    assert sorted(nftlist.elements(nl, "inet")) == sorted(one for one in ELEMENTS if one.family == "inet")
    assert sorted(nftlist.elements(nl, "bridge")) == sorted(one for one in ELEMENTS if one.family == "bridge")


def test_what_our_table_has_a_name_for_is_what_nft_lists(netns: Path, nl: Socket) -> None:
    rulesets.load(netns, MORE)

    for family in ("inet", "bridge"):
        theirs = [
            (kind, one[kind]) for one in rulesets.ruleset(netns) for kind in ("chain", "set", "map") if kind in one
        ]
        ours = nftlist.declared(nl, family)
        assert sorted((one.family, one.kind, one.name) for one in ours) == sorted(
            (family, kind, one["name"]) for kind, one in theirs if (one["family"], one["table"]) == (family, "podwire")
        )
        assert sorted(ours, key=lambda one: one.kind != "chain") == ours


def test_the_types_of_sets_are_told_as_they_were_declared(netns: Path, nl: Socket) -> None:
    rulesets.load(netns, MORE)

    types = {one.name: one.type for family in ("inet", "bridge") for one in nftlist.declared(nl, family)}

    assert {one.set: one.type for one in ELEMENTS}.items() <= types.items()
    assert {types[name] for name in ("networks", "marks", "marked", "verdicts", "counters", "postrouting_x")} == {""}


ENTANGLED = """
table inet podwire {
    map known { type ipv4_addr : verdict; elements = { 10.0.0.1 : jump chain_1 } }
    chain last { type filter hook input priority 0; iifname @ports ip saddr vmap @known; jump chain_2; }
}
"""


def test_declared_things_can_be_emptied_and_then_deleted_whichever_names_the_other(netns: Path, nl: Socket) -> None:
    rulesets.load(netns, ENTANGLED)
    old = nftlist.declared(nl, "inet")

    rulesets.load(
        netns, "".join(f"{verb} {one.kind} inet podwire {one.name}\n" for verb in ("flush", "delete") for one in old)
    )

    assert {"known", "last", "chain_1", "ports"} <= {one.name for one in old}
    assert nftlist.declared(nl, "inet") == []


def test_where_there_is_no_table_there_is_nothing_to_list(empty: Socket) -> None:
    assert nftlist.declared(empty, "inet") == []
    assert nftlist.declared(empty, "bridge") == []
    assert nftlist.elements(empty, "inet") == []


def test_a_set_that_is_too_large_for_one_answer_is_read_whole(nl: Socket) -> None:
    many = pods(1000)
    transact(nl, [one.make() for one in many])

    assert set(nftlist.elements(nl, "inet")) == set(many)

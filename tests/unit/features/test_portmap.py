"""What `type: portmap` makes of its configuration, and of a pod: pure, so read as sentences."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cni.features.portmap import RULES, Mapping, PortMapFeature
from cni.kernel.conntrack import Flow
from cni.kernel.nft import Claim, Element
from cni.kernel.sysctl import Sysctl
from cni.key import Key
from cni.spec.errors import CNIError
from cni.spec.netconf import NetConf
from cni.spec.result import IPConfig
from cni.wanted import Pod, Wanted
from ipam.address import Address
from ipam.address import Interface as Prefixed

if TYPE_CHECKING:
    from collections.abc import Iterable

TCP, UDP, SCTP = 6, 17, 132
KEY = Key("lan", "a", "eth0", "portmap")
TAG = KEY.tag
POD4, POD6 = "10.1.0.5", "fd00::5"
A4, A6 = Address.parse(POD4), Address.parse(POD6)
DUAL = (f"{POD4}/24", f"{POD6}/64")

PORT = "inet_proto . inet_service"
ANY4 = f"{PORT} : ipv4_addr . inet_service"
ANY6 = f"{PORT} : ipv6_addr . inet_service"
LOCALHOST = (Sysctl("net/ipv4/conf/cni0/route_localnet", "1"),)


def conf(*mappings: dict[str, Any], **keys: object) -> NetConf:
    asked = {"runtimeConfig": {"portMappings": list(mappings)}} if mappings else {}
    return NetConf.parse(
        json.dumps({"cniVersion": "1.1.0", "name": "lan", "type": "portmap", **asked, **keys}).encode()
    )


def mapping(host_port: int = 8080, container_port: int = 80, **keys: object) -> dict[str, Any]:
    return {"hostPort": host_port, "containerPort": container_port, "protocol": "tcp", **keys}


def feature(*mappings: dict[str, Any], **keys: object) -> PortMapFeature:
    return PortMapFeature.parse(conf(*mappings, **keys))


def refusal(*mappings: dict[str, Any], **keys: object) -> CNIError:
    with pytest.raises(CNIError) as caught:
        feature(*mappings, **keys)
    return caught.value


def pod(addresses: Iterable[str] = DUAL, iif: str = "cni0") -> Pod:
    ips = tuple(IPConfig(Prefixed.parse(address)) for address in addresses)
    return Pod(KEY, "/run/netns/a", "eth0", TAG, "02:00:00:00:00:02", "", ips, (), {}, "veth0", iif, 1500)


def wanted(*mappings: dict[str, Any], of: Pod | None = None, **keys: object) -> Wanted:
    return feature(*mappings, **keys).wanted(of or pod())


def sets(found: Wanted) -> list[tuple[str, str]]:
    return [(element.set, element.text) for element in found.elements]


# --- the configuration ------------------------------------------------------------------------------


def test_without_any_key_nothing_is_mapped_and_the_pod_may_use_its_own_ports() -> None:
    assert feature() == PortMapFeature(mappings=(), snat=True, masquerade_all=False, conditions=())


@pytest.mark.parametrize(
    ("asked", "is_mapped"),
    [
        (mapping(), Mapping("tcp", 8080, 80, None)),
        (mapping(protocol="UDP"), Mapping("udp", 8080, 80, None)),
        (mapping(protocol="Sctp"), Mapping("sctp", 8080, 80, None)),
        (mapping(protocol=None), Mapping("tcp", 8080, 80, None)),
        (mapping(protocol=""), Mapping("tcp", 8080, 80, None)),
        (mapping(hostIP=""), Mapping("tcp", 8080, 80, None)),
        (mapping(hostIP="192.0.2.1"), Mapping("tcp", 8080, 80, Address.parse("192.0.2.1"))),
        (mapping(hostIP="2001:db8::1"), Mapping("tcp", 8080, 80, Address.parse("2001:db8::1"))),
        (mapping(hostIP="::ffff:192.0.2.1"), Mapping("tcp", 8080, 80, Address.parse("192.0.2.1"))),
        (mapping(hostip="0.0.0.0"), Mapping("tcp", 8080, 80, Address.parse("0.0.0.0"))),
        (mapping(1, 65535), Mapping("tcp", 1, 65535, None)),
    ],
)
def test_a_mapping_is_read_as_runtimes_write_it(asked: dict[str, Any], is_mapped: Mapping) -> None:
    assert feature(asked).mappings == (is_mapped,)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (mapping(0), "Invalid host port number: 0"),
        (mapping(-1), "Invalid host port number: -1"),
        (mapping(65536), "Invalid host port number: 65536"),
        (mapping(8080, 0), "Invalid container port number: 0"),
        (mapping(8080, 65536), "Invalid container port number: 65536"),
        ({"containerPort": 80}, "Invalid host port number: 0"),
        (
            mapping(protocol="icmp"),
            'portmap.runtimeConfig.portMappings[0]: protocol must be tcp, udp or sctp, got "icmp"',
        ),
        (
            mapping(hostIP="eth0"),
            'portmap.runtimeConfig.portMappings[0]: hostIP must be an IP address, or absent, got "eth0"',
        ),
        (mapping(hostPort="80"), 'portmap.runtimeConfig.portMappings[0]: hostPort must be a whole number, got "80"'),
    ],
)
def test_what_cannot_be_mapped_is_named(asked: dict[str, Any], told: str) -> None:
    error = refusal(asked)

    assert (error.code, error.msg) == (7, told)


def test_localhost_in_ipv6_is_refused_since_linux_cannot_do_it() -> None:
    error = refusal(mapping(hostIP="::1"))

    assert error.code == 2
    assert "hostIP" in error.msg
    assert "::1" in error.msg


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (mapping(), mapping()),
        (mapping(), mapping(8080, 81)),
        (mapping(), mapping(8080, 81, hostIP="0.0.0.0")),
        (mapping(), mapping(8080, 81, hostIP="::")),
        (mapping(hostIP="192.0.2.1"), mapping(8080, 81, hostIP="192.0.2.1")),
        (mapping(), mapping(8080, 81, protocol="TCP")),
    ],
)
def test_a_port_leads_to_one_port(one: dict[str, Any], other: dict[str, Any]) -> None:
    error = refusal(one, other)

    assert (error.code, error.msg) == (7, "portmap.runtimeConfig.portMappings[1]: hostPort 8080/tcp is mapped twice")


@pytest.mark.parametrize(
    "other",
    [mapping(8081), mapping(protocol="udp"), mapping(hostIP="192.0.2.1"), mapping(8081, 80)],
    ids=["port", "protocol", "address", "to the same"],
)
def test_ports_that_differ_in_anything_go_together(other: dict[str, Any]) -> None:
    assert len(feature(mapping(), other).mappings) == 2


@pytest.mark.parametrize("backend", ["iptables", "nftables", ""])
def test_either_backend_is_done_by_nftables(backend: str) -> None:
    assert feature(backend=backend) == feature()


def test_another_backend_is_no_backend() -> None:
    error = refusal(backend="ebpf")

    assert error.code == 7
    assert 'backend must be "nftables", or "iptables", which is done the same way here, got "ebpf"' in error.msg


def test_marks_are_not_needed() -> None:
    assert feature(markMasqBit=13) == feature()
    assert (refusal(markMasqBit=32).code, refusal(markMasqBit=-1).code) == (7, 7)
    error = refusal(externalSetMarkChain="KUBE-MARK-MASQ")
    assert error.code == 2
    assert "externalSetMarkChain" in error.msg
    assert "KUBE-MARK-MASQ" in error.msg
    error = refusal(externalSetMarkChain="KUBE-MARK-MASQ", markMasqBit=13)
    assert (error.code, error.msg) == (7, "Cannot specify externalSetMarkChain and markMasqBit")


# --- what should exist ------------------------------------------------------------------------------


def test_without_mappings_nothing_is_wanted() -> None:
    assert wanted() == Wanted()
    assert wanted(conditionsV4=["iifname", "eth0"]) == Wanted()


def test_a_port_is_an_element_of_each_family_that_the_pod_has() -> None:
    any4, any6 = Claim("tcp:8080", "0.0.0.0"), Claim("tcp:8080", "::")

    assert wanted(mapping(), snat=False) == Wanted(
        elements=(
            Element("hostports_any4", ANY4, f"tcp . 8080 : {POD4} . 80", TAG, any4),
            Element("hostports_any6", ANY6, f"tcp . 8080 : {POD6} . 80", TAG, any6),
        ),
        flows=(Flow(TCP, 8080, A4), Flow(TCP, 8080, A6)),
    )


def test_a_port_of_one_address_is_one_of_its_family_alone() -> None:
    assert wanted(mapping(hostIP="192.0.2.1", protocol="udp"), snat=False) == Wanted(
        elements=(
            Element(
                "hostports4",
                f"ipv4_addr . {ANY4}",
                f"192.0.2.1 . udp . 8080 : {POD4} . 80",
                TAG,
                Claim("udp:8080", "192.0.2.1"),
            ),
        ),
        flows=(Flow(UDP, 8080, A4, Address.parse("192.0.2.1")),),
    )


@pytest.mark.parametrize(("everywhere", "version"), [("0.0.0.0", 4), ("::", 6)])
def test_all_addresses_of_a_family_are_that_family_s(everywhere: str, version: int) -> None:
    found = wanted(mapping(hostIP=everywhere), snat=False)

    assert [element.set for element in found.elements] == [f"hostports_any{version}"]
    assert found.elements[0].claim == Claim("tcp:8080", everywhere)
    assert found.flows == (Flow(TCP, 8080, A4 if version == 4 else A6, None),)


def test_the_first_address_of_a_family_is_the_one() -> None:
    several = pod(["10.1.0.5/24", "10.1.0.6/24", "fd00::5/64", "fd00::6/64"])

    assert sets(wanted(mapping(), of=several, snat=False)) == sets(wanted(mapping(), snat=False))


def test_snat_is_known_by_link_address_and_the_port_asked_for() -> None:
    found = wanted(mapping(protocol="sctp"))

    assert sets(found)[1::2] == [
        ("hostports_snat4", f"cni0 . {POD4} . sctp . 8080"),
        ("hostports_snat6", f"cni0 . {POD6} . sctp . 8080"),
    ]
    assert {element.type for element in found.elements[1::2]} == {
        f"ifname . ipv4_addr . {PORT}",
        f"ifname . ipv6_addr . {PORT}",
    }
    assert {element.tag for element in found.elements} == {TAG}
    # Whoever gets the address gets this with it, whatever ports and addresses of the node the other had.
    claims = [Claim(f"hostports:cni0:{each}", "sctp:8080") for each in (POD4, POD6)]
    assert [element.claim for element in found.elements[1::2]] == claims
    assert found.settings == LOCALHOST


def test_masquerading_all_is_a_set_of_its_own_and_needs_no_snat() -> None:
    assert sets(wanted(mapping(), of=pod(DUAL[:1]), masqAll=True)) == [
        ("hostports_any4", f"tcp . 8080 : {POD4} . 80"),
        ("hostports_snat4", f"cni0 . {POD4} . tcp . 8080"),
        ("hostports_masq4", f"cni0 . {POD4} . tcp . 8080"),
    ]
    assert [name for name, _ in sets(wanted(mapping(), of=pod(DUAL[:1]), masqAll=True, snat=False))] == [
        "hostports_any4",
        "hostports_masq4",
    ]


@pytest.mark.parametrize(
    ("asked", "addresses", "snat", "is_opened"),
    [
        (mapping(), DUAL, True, True),
        (mapping(), DUAL, False, False),
        (mapping(), DUAL[1:], True, False),
        (mapping(hostIP="0.0.0.0"), DUAL, True, True),
        (mapping(hostIP="127.0.0.1"), DUAL, True, True),
        (mapping(hostIP="192.0.2.1"), DUAL, True, False),
        (mapping(hostIP="::"), DUAL, True, False),
    ],
)
def test_localhost_is_opened_for_who_can_be_reached_there(
    asked: dict[str, Any], addresses: tuple[str, ...], snat: bool, is_opened: bool
) -> None:
    assert wanted(asked, of=pod(addresses), snat=snat).settings == (LOCALHOST if is_opened else ())


def test_a_pod_without_a_link_on_the_node_gets_the_translation_alone() -> None:
    assert sets(wanted(mapping(), of=pod(DUAL[:1], iif=""))) == [("hostports_any4", f"tcp . 8080 : {POD4} . 80")]


@pytest.mark.parametrize("keys", [{}, {"masqAll": True, "snat": False}], ids=str)
def test_a_link_that_rules_can_not_name_is_refused_where_they_have_to(keys: dict[str, bool]) -> None:
    with pytest.raises(CNIError) as caught:
        wanted(mapping(), of=pod(iif='cni"0'), **keys)

    assert caught.value.code == 7
    assert 'cni"0' in caught.value.msg
    assert wanted(mapping(), of=pod(iif='cni"0'), snat=False).elements


def test_to_masquerade_all_takes_a_link_on_the_node() -> None:
    with pytest.raises(CNIError) as caught:
        wanted(mapping(), of=pod(iif=""), masqAll=True)

    assert caught.value.code == 2
    assert "masqAll" in caught.value.msg


@pytest.mark.parametrize(
    ("asked", "addresses", "told"),
    [
        (mapping(), (), "hostPort 8080/tcp: the pod has no address that it could lead to"),
        (mapping(hostIP="::"), DUAL[:1], "hostPort 8080/tcp of ::: the pod has no IPv6 address that it could lead to"),
        (
            mapping(hostIP="192.0.2.1"),
            DUAL[1:],
            "hostPort 8080/tcp of 192.0.2.1: the pod has no IPv4 address that it could lead to",
        ),
    ],
)
def test_a_port_needs_an_address_of_its_family(asked: dict[str, Any], addresses: tuple[str, ...], told: str) -> None:
    with pytest.raises(CNIError) as caught:
        wanted(asked, of=pod(addresses))

    assert (caught.value.code, caught.value.msg) == (7, told)


def test_mappings_of_one_port_at_several_addresses_share_what_they_can() -> None:
    found = wanted(mapping(hostIP="192.0.2.1"), mapping(8080, 81, hostIP="192.0.2.2"))

    assert len({(element.set, element.text.partition(" : ")[0]) for element in found.elements}) == len(found.elements)


def test_elements_are_of_the_types_that_the_rules_declare() -> None:
    asked = [mapping(port, protocol=protocol) for port, protocol in ((1, "tcp"), (2, "udp"), (3, "sctp"))]
    asked += [mapping(hostIP="192.0.2.1"), mapping(hostIP="2001:db8::1")]
    declared = {
        line.split()[1]: line.split("type ")[1].split(";")[0]
        for line in RULES.splitlines()
        if line.strip().startswith(("map ", "set "))
    }

    found = wanted(*asked, masqAll=True).elements

    assert {(element.set, element.type) for element in found} == set(declared.items())


# --- conditions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "words", "condition"),
    [
        (4, ["ip", "saddr", "10.0.0.0/8"], "ip saddr 10.0.0.0/8"),
        (4, ["ip", "saddr", "!=", "{", "10.0.0.1,", "10.0.0.2", "}"], "ip saddr != { 10.0.0.1, 10.0.0.2 }"),
        (6, ["ip6 daddr != fc00::/7"], "ip6 daddr != fc00::/7"),
        (4, ["-s", "10.0.0.0/8"], "ip saddr 10.0.0.0/8"),
        (4, ["--source", "10.0.0.1"], "ip saddr 10.0.0.1/32"),
        (4, ["!", "-d", "192.0.2.0/24"], "ip daddr != 192.0.2.0/24"),
        (4, ["-d", "192.0.2.1/24,198.51.100.0/24"], "ip daddr { 192.0.2.0/24, 198.51.100.0/24 }"),
        (6, ["!", "-d", "fc00::/7"], "ip6 daddr != fc00::/7"),
        (4, ["-i", "eth0"], 'iifname "eth0"'),
        (4, ["!", "-i", "eth+", "-s", "10.0.0.0/8"], 'iifname != "eth*" ip saddr 10.0.0.0/8'),
    ],
)
def test_a_condition_is_nft_s_or_the_little_of_iptables_that_is_used(
    version: int, words: list[str], condition: str
) -> None:
    assert feature(**{f"conditionsV{version}": words}).conditions == ((version, condition),)


@pytest.mark.parametrize("words", [["-m", "mark"], ["-s"], ["!"], ["-p", "tcp", "-s", "10.0.0.0/8"], ["ip", "-s", "1"]])
def test_of_iptables_the_rest_is_refused_with_the_form_to_write(words: list[str]) -> None:
    error = refusal(conditionsV4=words)

    assert error.code == 2
    assert "conditionsV4" in error.msg
    assert '["ip", "saddr", "10.0.0.0/8"]' in error.msg


@pytest.mark.parametrize(
    "words",
    [
        ["accept;"], ["}", "{"], ["{"], ["x\ny"], ["#"], ['"'], ["-s", "fd00::/8"], ["-s", "here"], ["-i", 'a"b'],
        ['iifname "{" } chain another { iifname "}"'],
        ["-i", "+ accept"], ["-d", "10.0.0.0/33"], "ip saddr 10.0.0.0/8", ["ip", 4],
    ],
)  # fmt: skip
def test_a_condition_stays_within_its_rule(words: object) -> None:
    error = refusal(conditionsV4=words)

    assert error.code == 7
    assert "conditionsV4" in error.msg


def test_ports_under_a_condition_have_maps_and_rules_of_their_own() -> None:
    found = wanted(mapping(), mapping(hostIP="192.0.2.1"), conditionsV4=["iifname", "eth0"])

    (fragment,) = found.fragments
    assert (
        f"iifname eth0 dnat ip to ip daddr . meta l4proto . th dport map @hostports4_{fragment.name}" in fragment.text
    )
    names = [element.set for element in found.elements if "any" in element.set or element.set.startswith("hostports4")]
    # The other family has no condition, and masquerade doesn't depend on any.
    assert names == [f"hostports_any4_{fragment.name}", "hostports_any6", f"hostports4_{fragment.name}"]
    assert {element.set for element in found.elements} - set(names) == {"hostports_snat4", "hostports_snat6"}


def test_all_pods_with_one_condition_share_its_rules_and_no_others_do() -> None:
    def fragments(**keys: Any) -> set[str]:
        return {fragment.name for fragment in wanted(mapping(), **keys).fragments}

    assert fragments(conditionsV4=["iifname", "eth0"]) == fragments(conditionsV4=["iifname eth0"], snat=False)
    assert not fragments(conditionsV4=["iifname eth0"]) & fragments(conditionsV4=["iifname eth1"])
    assert len(fragments(conditionsV4=["iifname eth0"], conditionsV6=["iifname eth0"])) == 2

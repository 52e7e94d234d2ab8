"""The result cache: libcni's format, whole files, and what to do with those that aren't."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from cni.runtime.cache import Cache, Cached, Corrupt
from cni.spec.errors import STATE_UNUSABLE, CNIError

CONFIG = '{"cniVersion": "1.0.0", "name": "podnet", "plugins": [{"type": "bridge"}]}'
RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.22.0.2/16", "interface": 0}], "interfaces": [{"name": "eth0"}]}
CACHED = Cached("podnet", "c1", "eth0", "/run/netns/x", CONFIG, "A=1;B=", {"mac": "m"}, RESULT)

# In the words of libcni before 1.1.3: its keys in its order, and none for the namespace.
BY_LIBCNI = (
    '{"kind":"cniCacheV1","containerId":"cnitool-77383ca0a0715733ca6f","config":"'
    + base64.b64encode(CONFIG.encode()).decode()
    + '","ifName":"eth0","networkName":"podnet","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAME","p"]],'
    '"capabilityArgs":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]},'
    '"result":{"cniVersion":"1.0.0","dns":{},"interfaces":[{"mac":"ea:a8:70:cd:18:62","name":"eth0","sandbox":'
    '"/var/run/netns/testing"}],"ips":[{"address":"10.22.0.2/16","gateway":"10.22.0.1","interface":0}]}}'
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_is_written_is_what_libcni_reads(cache: Cache) -> None:
    cache.write(CACHED)

    file = cache.root / "results" / "podnet-c1-eth0"
    assert json.loads(file.read_text()) == {
        "kind": "cniCacheV1",
        "containerId": "c1",
        "config": base64.b64encode(CONFIG.encode()).decode(),
        "ifName": "eth0",
        "networkName": "podnet",
        "netns": "/run/netns/x",
        "cniArgs": [["A", "1"], ["B", ""]],
        "capabilityArgs": {"mac": "m"},
        "result": RESULT,
    }


def test_what_libcni_wrote_is_read(cache: Cache) -> None:
    file = cache.file("podnet", "cnitool-77383ca0a0715733ca6f", "eth0")
    file.parent.mkdir(parents=True)
    file.write_text(BY_LIBCNI)

    cached = cache.read("podnet", "cnitool-77383ca0a0715733ca6f", "eth0")

    assert cached is not None
    assert cached.config == CONFIG
    assert cached.args == "IgnoreUnknown=1;K8S_POD_NAME=p"
    assert cached.capability_args == {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    assert cached.netns == ""  # libcni before 1.1.3 kept none
    assert cached.result["cniVersion"] == "1.0.0"


def test_writing_and_reading_are_inverse(cache: Cache) -> None:
    bare = Cached("podnet", "c2", "net1", "", CONFIG, "", {}, {"cniVersion": "1.0.0"})

    for cached in (CACHED, bare):
        cache.write(cached)
        assert cache.read(cached.network, cached.container_id, cached.ifname) == cached
    assert cache.attachments("podnet") == (CACHED, bare)
    assert cache.attachments("other") == ()


def test_the_cache_is_for_root_alone(cache: Cache) -> None:
    before = os.umask(0)
    try:
        cache.write(CACHED)
    finally:
        os.umask(before)

    assert stat.S_IMODE((cache.root / "results").stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.file("podnet", "c1", "eth0").stat().st_mode) == 0o600


def test_a_file_appears_whole_or_not_at_all(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write(CACHED)

    def crash(source: str, target: Path) -> None:
        assert json.loads(Path(source).read_text())["netns"] == "/other"  # complete before it gets its name
        assert "results" not in source  # where every reader would take it for a file of the cache
        raise OSError(5, "crashed")

    monkeypatch.setattr(os, "rename", crash)
    with pytest.raises(CNIError, match="crashed"):
        cache.write(Cached("podnet", "c1", "eth0", "/other", CONFIG, "", {}, RESULT))

    assert cache.read("podnet", "c1", "eth0") == CACHED
    assert os.listdir(cache.root) == ["results"]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "cniCacheV2"},
        {"kind": None},
        {"ifName": ""},
        {"networkName": 1},
        {"config": "no base64!"},
        {"config": base64.b64encode(b"\xff").decode()},
        {"cniArgs": [["A"]]},
        {"cniArgs": {"A": "1"}},
        {"result": []},
        {"capabilityArgs": 1},
    ],
)
def test_what_cannot_be_used_is_corrupt_and_says_what_to_do(cache: Cache, change: dict[str, Any]) -> None:
    cache.write(CACHED)
    file = cache.file("podnet", "c1", "eth0")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    with pytest.raises(Corrupt) as caught:
        cache.read("podnet", "c1", "eth0")

    assert caught.value.code == STATE_UNUSABLE
    assert str(file) in caught.value.msg
    assert "net del" in caught.value.details
    assert cache.attachments() == ()


def test_removing_what_is_not_there_is_fine(cache: Cache) -> None:
    cache.remove("podnet", "c1", "eth0")
    cache.write(CACHED)
    cache.remove("podnet", "c1", "eth0")
    cache.remove("podnet", "c1", "eth0")

    assert cache.read("podnet", "c1", "eth0") is None
    assert cache.attachments() == ()


def test_containers_exclude_themselves_and_a_network_all_of_them(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "F_OFD_SETLKW", fcntl.F_OFD_SETLK)  # who would wait gets an error

    def free(network: str, container_id: str | None) -> bool:
        try:
            with cache.locked(network, container_id):
                return True
        except CNIError as error:
            return "unavailable" not in error.msg

    with cache.locked("podnet", "c1"):
        assert not free("podnet", "c1")
        assert not free("othernet", "c1")  # a container is one, in whatever network
        assert not free("podnet", None)
        assert free("podnet", "c2")
        assert free("othernet", None)
    with cache.locked("podnet", None):
        assert not free("podnet", "c1")
        assert free("othernet", "c1")
    assert free("podnet", None)

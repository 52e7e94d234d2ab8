"""The Container Runtime Interface as the kubelet speaks it, in the subset that a pod's network needs.

The messages are those of runtime.v1 with the fields that the tests set or read, numbered as there: left out
fields have their defaults on the way out and are skipped on the way in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.node import grpc, protobuf
from tests.node.grpc import CallFailed
from tests.node.protobuf import field

__all__ = ["CallFailed", "Pod", "Runtime", "RuntimeCondition"]

Answer = TypeVar("Answer")

# NamespaceMode: a container shares the network of its pod, and has its processes for itself, as kubelet asks.
POD, CONTAINER = 0, 1


# --- pods -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PodSandboxMetadata:
    name: str = field(1, "")
    uid: str = field(2, "")
    namespace: str = field(3, "")
    attempt: int = field(4, 0)


@dataclass(frozen=True)
class NamespaceOption:
    network: int = field(1, POD)
    pid: int = field(2, POD)
    ipc: int = field(3, POD)


@dataclass(frozen=True)
class LinuxSandboxSecurityContext:
    namespace_options: NamespaceOption | None = field(1, None)


@dataclass(frozen=True)
class LinuxPodSandboxConfig:
    cgroup_parent: str = field(1, "")
    security_context: LinuxSandboxSecurityContext | None = field(2, None)


@dataclass(frozen=True)
class PodSandboxConfig:
    metadata: PodSandboxMetadata | None = field(1, None)
    hostname: str = field(2, "")
    annotations: Mapping[str, str] = field(7, {})
    linux: LinuxPodSandboxConfig | None = field(8, None)


@dataclass(frozen=True)
class RunPodSandboxRequest:
    config: PodSandboxConfig | None = field(1, None)


@dataclass(frozen=True)
class PodSandboxID:
    """RunPodSandboxResponse, and the request to stop, remove, or tell the status of a pod."""

    pod_sandbox_id: str = field(1, "")


@dataclass(frozen=True)
class PodIP:
    ip: str = field(1, "")


@dataclass(frozen=True)
class PodSandboxNetworkStatus:
    ip: str = field(1, "")
    additional_ips: tuple[PodIP, ...] = field(2, ())


@dataclass(frozen=True)
class PodSandboxStatus:
    id: str = field(1, "")
    state: int = field(3, 0)
    network: PodSandboxNetworkStatus | None = field(5, None)


@dataclass(frozen=True)
class PodSandboxStatusResponse:
    status: PodSandboxStatus | None = field(1, None)


@dataclass(frozen=True)
class PodSandbox:
    id: str = field(1, "")
    state: int = field(3, 0)


@dataclass(frozen=True)
class ListPodSandboxResponse:
    items: tuple[PodSandbox, ...] = field(1, ())


# --- containers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageSpec:
    image: str = field(1, "")


@dataclass(frozen=True)
class ContainerMetadata:
    name: str = field(1, "")


@dataclass(frozen=True)
class LinuxContainerSecurityContext:
    namespace_options: NamespaceOption | None = field(3, None)


@dataclass(frozen=True)
class LinuxContainerConfig:
    security_context: LinuxContainerSecurityContext | None = field(2, None)


@dataclass(frozen=True)
class ContainerConfig:
    metadata: ContainerMetadata | None = field(1, None)
    image: ImageSpec | None = field(2, None)
    command: tuple[str, ...] = field(3, ())
    linux: LinuxContainerConfig | None = field(15, None)


@dataclass(frozen=True)
class CreateContainerRequest:
    pod_sandbox_id: str = field(1, "")
    config: ContainerConfig | None = field(2, None)
    sandbox_config: PodSandboxConfig | None = field(3, None)


@dataclass(frozen=True)
class ContainerID:
    """CreateContainerResponse, and the request to start a container."""

    container_id: str = field(1, "")


@dataclass(frozen=True)
class ExecSyncRequest:
    container_id: str = field(1, "")
    cmd: tuple[str, ...] = field(2, ())
    timeout: int = field(3, 0)


@dataclass(frozen=True)
class ExecSyncResponse:
    stdout: bytes = field(1, b"")
    stderr: bytes = field(2, b"")
    exit_code: int = field(3, 0)


# --- the runtime itself -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Empty:
    """A request that asks for nothing in particular, an answer that says no more than that it was done."""


@dataclass(frozen=True)
class VersionResponse:
    version: str = field(1, "")
    runtime_name: str = field(2, "")
    runtime_version: str = field(3, "")


@dataclass(frozen=True)
class RuntimeCondition:
    type: str = field(1, "")
    status: bool = field(2, False)
    reason: str = field(3, "")
    message: str = field(4, "")


@dataclass(frozen=True)
class RuntimeStatus:
    conditions: tuple[RuntimeCondition, ...] = field(1, ())


@dataclass(frozen=True)
class StatusRequest:
    verbose: bool = field(1, False)


@dataclass(frozen=True)
class StatusResponse:
    status: RuntimeStatus | None = field(1, None)
    info: Mapping[str, str] = field(2, {})


@dataclass(frozen=True)
class ImageStatusRequest:
    image: ImageSpec | None = field(1, None)


@dataclass(frozen=True)
class Image:
    id: str = field(1, "")
    repo_tags: tuple[str, ...] = field(2, ())


@dataclass(frozen=True)
class ImageStatusResponse:
    image: Image | None = field(1, None)


# --- calls ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pod:
    """What kubelet knows of a pod before it runs."""

    name: str
    cgroup_parent: str
    annotations: Mapping[str, str]

    def config(self) -> PodSandboxConfig:
        return PodSandboxConfig(
            metadata=PodSandboxMetadata(name=self.name, uid=f"uid-of-{self.name}", namespace="default"),
            hostname=self.name,
            annotations=self.annotations,
            linux=LinuxPodSandboxConfig(
                cgroup_parent=self.cgroup_parent,
                security_context=LinuxSandboxSecurityContext(NamespaceOption(pid=CONTAINER)),
            ),
        )


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime behind its CRI socket. Every call raises CallFailed when the runtime refuses."""

    socket: Path
    timeout_s: float = 60

    def version(self) -> VersionResponse:
        return self._call("Version", Empty(), VersionResponse)

    def conditions(self) -> dict[str, RuntimeCondition]:
        """What the runtime says of itself, by name: RuntimeReady, NetworkReady."""
        status = self._call("Status", StatusRequest(), StatusResponse).status or RuntimeStatus()
        return {each.type: each for each in status.conditions}

    def networks(self) -> dict[str, str]:
        """The configurations that it would attach a pod to: name → source text. (containerd's own addition.)"""
        info = self._call("Status", StatusRequest(verbose=True), StatusResponse).info
        configs = [each["Config"] for each in json.loads(info["cniconfig"])["Networks"]]
        return {each["Name"]: each["Source"] for each in configs}

    def image(self, name: str) -> Image | None:
        """None: not there, or not noticed yet."""
        request = ImageStatusRequest(ImageSpec(name))
        return self._call("ImageStatus", request, ImageStatusResponse, service="ImageService").image

    def run_pod(self, pod: Pod) -> str:
        """The ID of the sandbox, with its network attached."""
        return self._call("RunPodSandbox", RunPodSandboxRequest(pod.config()), PodSandboxID).pod_sandbox_id

    def addresses(self, pod_id: str) -> tuple[str, ...]:
        """The pod's addresses, the primary first; as kubelet reads them into the pod's status."""
        answer = self._call("PodSandboxStatus", PodSandboxID(pod_id), PodSandboxStatusResponse)
        network = answer.status and answer.status.network
        return (network.ip, *(each.ip for each in network.additional_ips)) if network and network.ip else ()

    def pods(self) -> tuple[PodSandbox, ...]:
        return self._call("ListPodSandbox", Empty(), ListPodSandboxResponse).items

    def stop_pod(self, pod_id: str) -> None:
        self._call("StopPodSandbox", PodSandboxID(pod_id), Empty)

    def remove_pod(self, pod_id: str) -> None:
        self._call("RemovePodSandbox", PodSandboxID(pod_id), Empty)

    def start_container(self, pod_id: str, pod: Pod, image: str, *command: str) -> str:
        """The ID of a container that runs `command` in the pod."""
        config = ContainerConfig(
            metadata=ContainerMetadata(name="main"),
            image=ImageSpec(image),
            command=command,
            linux=LinuxContainerConfig(LinuxContainerSecurityContext(NamespaceOption(pid=CONTAINER))),
        )
        request = CreateContainerRequest(pod_id, config, pod.config())
        container = self._call("CreateContainer", request, ContainerID)
        self._call("StartContainer", container, Empty)
        return container.container_id

    def execute(self, container_id: str, *command: str) -> ExecSyncResponse:
        return self._call("ExecSync", ExecSyncRequest(container_id, command, timeout=20), ExecSyncResponse)

    def _call(self, name: str, request: object, kind: type[Answer], service: str = "RuntimeService") -> Answer:
        answer = grpc.call(self.socket, f"/runtime.v1.{service}/{name}", protobuf.encode(request), self.timeout_s)
        return protobuf.decode(kind, answer)

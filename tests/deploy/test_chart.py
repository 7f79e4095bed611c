"""The chart, rendered: one file with its defaults, rights that are no more than needed, commands
and configurations that the programs take."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml

from samepath.cli.main import cli
from samepath.kube.rights import RIGHTS, Right
from samepath.model.config import AgentConfig

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/samepath"


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("render")
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(folder / "cache"),
    }
    subprocess.run(
        ["go", "build", "-o", folder / "render", "render.go"],
        cwd=ROOT / "deploy/render", env=environment, check=True, timeout=300,
    )  # fmt: skip
    return folder / "render"


def rendered(render: Path, *values: str) -> str:
    done = subprocess.run(
        [render, CHART, "samepath", "samepath-system", *values],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


def objects(text: str) -> dict[str, Any]:
    found = [d for d in yaml.safe_load_all(text) if d is not None]
    keys = [f"{d['kind']} {d['metadata']['name']}" for d in found]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, found, strict=True))


@pytest.fixture(scope="session")
def manifest() -> dict[str, Any]:
    return objects((ROOT / "deploy/samepath.yaml").read_text())


def test_the_manifest_is_the_chart_with_its_defaults(
    render: Path, manifest: dict[str, Any]
) -> None:
    """If not: scripts/render-manifest."""
    assert objects(rendered(render, "namespace.create=true")) == manifest


def test_every_kind_of_ours_is_defined(manifest: dict[str, Any]) -> None:
    defined = {
        d["spec"]["names"]["plural"]
        for key, d in manifest.items()
        if key.startswith("CustomResourceDefinition")
    }
    read = {
        right.resource.partition("/")[0]
        for rights in RIGHTS.values()
        for right in rights
        if right.group == "samepath.dev"
    }
    assert read == defined


def rights_of(role: dict[str, Any]) -> Iterator[Right]:
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames", [""]):
                        yield Right(group, resource, verb, role["kind"] == "Role", name)


@pytest.mark.parametrize("program", sorted(RIGHTS))
def test_roles_give_what_the_program_needs_and_no_more(
    manifest: dict[str, Any], program: str
) -> None:
    given = {
        right
        for key in (f"ClusterRole {program}", f"Role {program}")
        if key in manifest
        for right in rights_of(manifest[key])
    }
    assert given == RIGHTS[program]
    for key in (f"ClusterRoleBinding {program}", f"RoleBinding {program}"):
        if key in manifest:
            assert manifest[key]["roleRef"]["name"] == program
            assert [s["name"] for s in manifest[key]["subjects"]] == [program]


def pods(found: dict[str, Any]) -> dict[str, Any]:
    return {
        key: d["spec"]["template"]["spec"]
        for key, d in found.items()
        if d["kind"] in ("DaemonSet", "Deployment")
    }


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def commands(container: dict[str, Any]) -> Iterator[list[str]]:
    yield container["command"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if name in container:
            yield container[name]["exec"]["command"]
    if "lifecycle" in container:
        yield container["lifecycle"]["preStop"]["exec"]["command"]


def test_every_command_is_one_that_samepath_has(manifest: dict[str, Any]) -> None:
    for pod in pods(manifest).values():
        for container in containers(pod):
            for command in commands(container):
                assert command[0] == "samepath"
                parses(cli, command[1:])


def parses(command: click.Command, words: list[str]) -> None:
    """Arguments and options are known; nothing is run."""
    with click.Context(command) as context:
        if isinstance(command, click.Group):
            inner = command.get_command(context, words[0])
            assert inner is not None, words
            parses(inner, words[1:])
        else:
            command.make_context(command.name, list(words), parent=context)


def test_mounts_name_volumes_and_every_container_has_limits(manifest: dict[str, Any]) -> None:
    for key, pod in pods(manifest).items():
        volumes = {v["name"] for v in pod["volumes"]}
        mounted = {m["name"] for c in containers(pod) for m in c["volumeMounts"]}
        assert mounted == volumes, key
        assert pod["priorityClassName"].startswith("system-")
        for container in containers(pod):
            assert container["resources"]["requests"]
            assert container["securityContext"]["readOnlyRootFilesystem"]


def test_only_the_agent_is_privileged(manifest: dict[str, Any]) -> None:
    privileged = [
        c["name"]
        for pod in pods(manifest).values()
        for c in containers(pod)
        if c["securityContext"].get("privileged")
    ]
    assert privileged == ["agent"]
    controller = pods(manifest)["Deployment samepath-controller"]
    assert controller["securityContext"]["runAsNonRoot"]


def configuration(found: dict[str, Any], name: str) -> Any:
    return yaml.safe_load(found["ConfigMap samepath"]["data"][name])


def test_configurations_are_taken_by_the_programs(manifest: dict[str, Any], render: Path) -> None:
    from samepath.model.config import ControllerConfig

    agent = msgspec.convert(configuration(manifest, "agent.yaml"), AgentConfig)
    assert agent.kubernetes is not None
    assert agent.kubernetes.namespace == "samepath-system"
    assert agent.cni is not None
    assert agent.service_proxy == "none"
    msgspec.convert(configuration(manifest, "controller.yaml"), ControllerConfig)

    changed = rendered(
        render,
        "agent.cni.enabled=false",
        "agent.config.serviceProxy=nftables",
        "apiServer.host=10.0.0.5",
        "agent.config.mesh={hold_time_s: 9}",
        "controller.enabled=false",
        "gateway.serviceAccount=false",
        "image.tag=1.2.3",
    )
    found = objects(changed)
    agent = msgspec.convert(configuration(found, "agent.yaml"), AgentConfig)
    assert agent.cni is None
    assert agent.service_proxy == "nftables"
    assert not any("controller" in key or "gateway" in key for key in found if "CustomR" not in key)
    (pod,) = pods(found).values()
    (container,) = containers(pod)
    assert container["image"].endswith(":1.2.3")
    assert "lifecycle" not in container
    assert {"name": "KUBERNETES_SERVICE_HOST", "value": "10.0.0.5"} in container["env"]


def test_without_kube_proxy_the_api_servers_own_address_is_asked_for(render: Path) -> None:
    with pytest.raises(ValueError, match=r"set apiServer\.host"):
        rendered(render, "agent.config.serviceProxy=nftables")

"""`samepath install` and the hook that takes the plugin away, with the rights of the chart."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from samepath.apply.host import Check, Outcome
from samepath.cli.install import kubeconfig as kubeconfig_command
from samepath.kube.rights import AGENT, CONTROLLER, GATEWAY, RIGHTS
from samepath.lab.api_server import ApiServer
from samepath.model.config import Kubernetes
from samepath.programs.install_check import checks
from samepath.programs.uninstalled import why_stay

NAMESPACE = "samepath-system"
MANIFEST = Path(__file__).parents[2] / "deploy/samepath.yaml"
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1"},
    "spec": {"podCIDRs": ["10.1.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]},
}


@pytest.fixture
def installed(api_server: ApiServer) -> ApiServer:
    """The whole manifest, and RBAC in force."""
    api_server.apply(*(d for d in yaml.safe_load_all(MANIFEST.read_text()) if d))
    api_server.apply(NODE)
    api_server.use_rbac()
    return api_server


def as_account(server: ApiServer, account: str, folder: Path) -> Kubernetes:
    token = server.service_account_token(NAMESPACE, account)
    path = server.kubeconfig(folder / f"{account}.kubeconfig", token=token)
    return Kubernetes(kubeconfig=str(path), namespace=NAMESPACE)


def look(config: Kubernetes, role: str = AGENT, node: str | None = "n1") -> dict[str, Check]:
    found = asyncio.run(checks(config, role, node, {"192.0.2.11", "127.0.0.1"}))
    return {check.what: check for check in found}


@pytest.mark.parametrize("role", [AGENT, CONTROLLER, GATEWAY])
def test_with_the_manifest_nothing_is_missing(
    installed: ApiServer, tmp_path: Path, role: str
) -> None:
    found = look(as_account(installed, role, tmp_path), role)
    assert [c for c in found.values() if c.outcome is not Outcome.OK] == []
    assert set(found) >= {"API server", "rights (RBAC)", "our kinds"}
    assert ("Node" in found) is (role == AGENT)


@pytest.mark.parametrize("right", sorted(RIGHTS[AGENT], key=str)[::6], ids=str)
def test_each_right_that_is_missing_is_named(
    installed: ApiServer, tmp_path: Path, right: Any
) -> None:
    kind = "Role" if right.ours else "ClusterRole"
    for role in yaml.safe_load_all(MANIFEST.read_text()):
        if role and (role["kind"], role["metadata"]["name"]) == (kind, AGENT):
            for rule in role["rules"]:
                if right.group in rule["apiGroups"] and right.resource in rule["resources"]:
                    rule["verbs"] = [v for v in rule["verbs"] if v != right.verb]
            installed.apply(role)
    found = look(as_account(installed, AGENT, tmp_path))
    assert found["rights (RBAC)"].outcome is Outcome.MISSING
    assert str(right) in found["rights (RBAC)"].found


def test_kinds_that_are_not_there(api_server: ApiServer, tmp_path: Path) -> None:
    api_server.apply(NODE)
    config = Kubernetes(kubeconfig=str(api_server.kubeconfig(tmp_path / "config")))
    found = look(config)
    assert found["our kinds"].outcome is Outcome.MISSING
    assert "bgppeers.samepath.dev" in found["our kinds"].found


def test_a_node_that_is_not_this_host(installed: ApiServer, tmp_path: Path) -> None:
    config = as_account(installed, AGENT, tmp_path)
    assert look(config, node="n2")["Node"].outcome is Outcome.MISSING
    assert look(config, node=None)["Node"].outcome is Outcome.OK
    elsewhere = {**NODE, "metadata": {"name": "n3"}}
    elsewhere["status"] = {"addresses": [{"type": "InternalIP", "address": "192.0.2.13"}]}
    installed.apply(elsewhere)
    check = look(config, node="n3")["Node"]
    assert (check.outcome, "192.0.2.13" in check.advice) == (Outcome.MISSING, True)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    (check,) = look(Kubernetes(kubeconfig=str(path))).values()
    assert (check.what, check.outcome) == ("API server", Outcome.MISSING)


def test_the_plugin_stays_over_an_upgrade_and_goes_with_the_daemonset(
    installed: ApiServer, tmp_path: Path
) -> None:
    config = as_account(installed, AGENT, tmp_path)

    def why() -> str:
        return asyncio.run(why_stay(f"{NAMESPACE}/{AGENT}", config))

    assert why() == f"DaemonSet {NAMESPACE}/{AGENT} stands"
    installed.delete("daemonsets", AGENT, NAMESPACE)
    assert why() == ""


def test_the_plugin_goes_when_the_rights_went_first(installed: ApiServer, tmp_path: Path) -> None:
    config = as_account(installed, AGENT, tmp_path)
    installed.delete("roles", AGENT, NAMESPACE)
    assert asyncio.run(why_stay(f"{NAMESPACE}/{AGENT}", config)) == ""


def test_the_plugin_stays_while_nobody_answers(installed: ApiServer, tmp_path: Path) -> None:
    config = as_account(installed, AGENT, tmp_path)
    installed.refuse()
    assert "127.0.0.1" in asyncio.run(why_stay(f"{NAMESPACE}/{AGENT}", config))


def test_a_kubeconfig_for_gateways(installed: ApiServer, tmp_path: Path) -> None:
    admin = installed.kubeconfig(tmp_path / "admin")
    token = installed.service_account_token(NAMESPACE, GATEWAY)
    asked = ["--kubeconfig", str(admin)]
    refused = CliRunner().invoke(kubeconfig_command, asked)
    assert refused.exit_code == 1
    assert "has no token as yet" in refused.output
    authority = yaml.safe_load(admin.read_text())["clusters"][0]["cluster"].get(
        "certificate-authority-data", ""
    )
    # The API server's token controller does this in a real cluster.
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"{GATEWAY}-token",
            "namespace": NAMESPACE,
            "annotations": {"kubernetes.io/service-account.name": GATEWAY},
        },
        "type": "kubernetes.io/service-account-token",
        "data": {"token": base64.b64encode(token.encode()).decode(), "ca.crt": authority},
    }
    installed.apply(secret)
    made = CliRunner().invoke(kubeconfig_command, asked)
    assert made.exit_code == 0, made.output
    path = tmp_path / "gateway"
    path.write_text(made.output)
    found = look(Kubernetes(kubeconfig=str(path), namespace=NAMESPACE), GATEWAY)
    assert [c for c in found.values() if c.outcome is not Outcome.OK] == []

"""What people do with kubectl, with the real one, on built-in kinds."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, labels: {tier: front}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80}]
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.invalid/web}]}
"""
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.1.2.3], conditions: {ready: true}}
- {addresses: [10.1.2.4], conditions: {ready: false}}
"""


def test_a_service_is_made_seen_changed_and_deleted(cluster: Any) -> None:
    assert cluster.apply(SERVICE) == "service/web created\n"
    assert cluster.apply(SERVICE) == "service/web unchanged\n"
    changed = SERVICE.replace("port: 80", "port: 81")
    assert cluster.apply(changed) == "service/web configured\n"
    assert cluster.get("service", "web")["spec"]["ports"][0]["port"] == 81
    found = yaml.safe_load(cluster.kubectl("get", "svc", "web", "-o", "yaml").stdout)
    assert found["metadata"]["labels"] == {"tier": "front"}
    assert cluster.kubectl("delete", "svc", "web").stdout.startswith('service "web" deleted')
    gone = cluster.kubectl("get", "svc", "web", check=False)
    assert gone.stderr == 'Error from server (NotFound): services "web" not found\n'


def test_what_the_server_fills_in_of_a_service(cluster: Any) -> None:
    cluster.apply(SERVICE)
    spec = cluster.get("service", "web")["spec"]
    assert spec["type"] == "ClusterIP"
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert spec["sessionAffinity"] == "None"
    assert spec["internalTrafficPolicy"] == "Cluster"
    port = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}
    assert spec["ports"] == [port]
    local = {"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}}
    cluster.kubectl("patch", "svc", "web", "-p", json.dumps(local))
    external = cluster.get("service", "web")["spec"]
    assert external["clusterIP"] == spec["clusterIP"]
    assert 30000 <= external["ports"][0]["nodePort"] <= 32767
    assert 30000 <= external["healthCheckNodePort"] <= 32767
    assert external["allocateLoadBalancerNodePorts"] is True
    back = '{"spec":{"type":"ClusterIP","externalTrafficPolicy":null}}'
    cluster.kubectl("patch", "svc", "web", "-p", back)
    spec = cluster.get("service", "web")["spec"]
    assert "nodePort" not in spec["ports"][0]
    assert "healthCheckNodePort" not in spec


def test_what_the_server_refuses_of_a_service(cluster: Any) -> None:
    cluster.apply(SERVICE)
    change = '{"spec":{"clusterIP":"10.0.0.99","clusterIPs":["10.0.0.99"]}}'
    refused = cluster.kubectl("patch", "svc", "web", "-p", change, check=False).stderr
    assert (
        'The Service "web" is invalid: spec.clusterIPs[0]: Invalid value: ["10.0.0.99"]' in refused
    )
    assert "may not change once set" in refused
    no_ports = SERVICE.replace("ports: [{name: http, port: 80}]", "ports: []")
    refused = cluster.kubectl("create", "-f", "-", given=no_ports, check=False).stderr
    assert refused == 'The Service "web" is invalid: spec.ports: Required value\n'
    unknown = SERVICE.replace("selector:", "selektor:")
    refused = cluster.kubectl("create", "-f", "-", given=unknown, check=False).stderr
    assert 'strict decoding error: unknown field "spec.selektor"' in refused
    twice = cluster.kubectl("create", "-f", "-", given=SERVICE, check=False).stderr
    assert 'services "web" already exists' in twice
    assert twice.startswith("Error from server (AlreadyExists)")


@pytest.mark.parametrize(
    ("how", "patch", "labels"),
    [
        ("strategic", '{"metadata":{"labels":{"tier":null,"a":"b"}}}', {"a": "b"}),
        ("merge", '{"metadata":{"labels":{"a":"b"}}}', {"tier": "front", "a": "b"}),
        ("json", '[{"op":"replace","path":"/metadata/labels","value":{"a":"b"}}]', {"a": "b"}),
    ],
)
def test_patches_of_three_types(cluster: Any, how: str, patch: str, labels: Any) -> None:
    cluster.apply(SERVICE)
    cluster.kubectl("patch", "svc", "web", f"--type={how}", "-p", patch)
    assert cluster.get("service", "web")["metadata"]["labels"] == labels


def test_lists_are_merged_by_key_or_replaced(cluster: Any) -> None:
    cluster.apply(SERVICE)
    another = '{"spec":{"ports":[{"name":"admin","port":81}]}}'
    cluster.kubectl("patch", "svc", "web", "--type=strategic", "-p", another)
    names = [port["name"] for port in cluster.get("service", "web")["spec"]["ports"]]
    assert sorted(names) == ["admin", "http"]
    cluster.kubectl("patch", "svc", "web", "--type=merge", "-p", another)
    names = [port["name"] for port in cluster.get("service", "web")["spec"]["ports"]]
    assert names == ["admin"]


def test_a_json_patch_that_does_not_fit(cluster: Any) -> None:
    cluster.apply(SERVICE)
    test = '[{"op":"test","path":"/spec/type","value":"NodePort"}]'
    refused = cluster.kubectl("patch", "svc", "web", "--type=json", "-p", test, check=False)
    assert refused.returncode == 1
    assert "the server rejected our request due to an error in our request" in refused.stderr


def test_server_side_apply_knows_who_said_what(cluster: Any) -> None:
    mine = ("--server-side", "--field-manager=one")
    assert cluster.apply(SERVICE, *mine) == "service/web serverside-applied\n"
    other = SERVICE.replace("app: web", "app: other")
    refused = cluster.kubectl(
        "apply", "--server-side", "--field-manager=two", "-f", "-", given=other, check=False
    )
    assert 'Apply failed with 1 conflict: conflict with "one" using v1: .spec.selector' in (
        refused.stderr
    )
    cluster.apply(other, "--server-side", "--field-manager=two", "--force-conflicts")
    assert cluster.get("svc", "web")["spec"]["selector"] == {"app": "other"}
    # What its only owner no longer says, goes; what another says as well, stays.
    without = SERVICE.replace(", labels: {tier: front}", "").replace("app: web", "app: other")
    cluster.apply(without, *mine)
    assert cluster.get("svc", "web")["metadata"].get("labels") == {"tier": "front"}
    cluster.apply(without, "--server-side", "--field-manager=two")
    assert "labels" not in cluster.get("svc", "web")["metadata"]


def test_tables(cluster: Any) -> None:
    cluster.apply(SERVICE)
    cluster.apply(SLICE)
    lines = cluster.kubectl("get", "svc").stdout.splitlines()
    assert lines[0].split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    address = cluster.get("svc", "web")["spec"]["clusterIP"]
    assert lines[1].split()[:5] == ["web", "ClusterIP", address, "<none>", "80/TCP"]
    wide = cluster.kubectl("get", "svc", "-o", "wide").stdout.splitlines()
    assert wide[1].split()[-1] == "app=web"
    slices = cluster.kubectl("get", "endpointslices").stdout.splitlines()
    assert slices[0].split() == ["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]
    assert slices[1].split()[:4] == ["web-1", "IPv4", "8080", "10.1.2.3,10.1.2.4"] or any(
        line.split()[:4] == ["web-1", "IPv4", "8080", "10.1.2.3,10.1.2.4"] for line in slices
    )
    nothing = cluster.kubectl("get", "pods")
    assert nothing.stderr == f"No resources found in {cluster.namespace} namespace.\n"


def test_labels_annotations_and_selectors(cluster: Any) -> None:
    cluster.apply(SERVICE)
    assert cluster.kubectl("label", "svc", "web", "a=b").stdout == "service/web labeled\n"
    cluster.kubectl("annotate", "svc", "web", "note=yes")
    refused = cluster.kubectl("label", "svc", "web", "a=c", check=False)
    assert "already has a value (b), and --overwrite is false" in refused.stderr
    for selector, found in (("a=b", 1), ("a!=b", 0), ("a in (b,c)", 1), ("a,!x", 1), ("!a", 0)):
        items = cluster.get("svc", "-l", selector)["items"]
        assert len([one for one in items if one["metadata"]["name"] == "web"]) == found, selector
    by_field = cluster.get("svc", "--field-selector", "metadata.name=web")["items"]
    assert [one["metadata"]["name"] for one in by_field] == ["web"]
    refused = cluster.kubectl("get", "svc", "--field-selector", "spec.ports=80", check=False)
    assert "Error from server (BadRequest)" in refused.stderr
    cluster.kubectl("label", "svc", "web", "a-")
    assert "a" not in cluster.get("svc", "web")["metadata"]["labels"]


def test_describe_explain_diff_and_dry_run(cluster: Any) -> None:
    assert "created (server dry run)" in cluster.apply(SERVICE, "--dry-run=server")
    assert cluster.kubectl("get", "svc", "web", check=False).returncode == 1
    cluster.apply(SERVICE)
    described = cluster.kubectl("describe", "svc", "web").stdout
    assert "Selector:" in described
    assert "app=web" in described
    explained = cluster.kubectl("explain", "service.spec.ports").stdout
    assert "targetPort" in explained
    changed = SERVICE.replace("port: 80", "port: 81")
    diff = cluster.kubectl("diff", "-f", "-", given=changed, check=False)
    assert diff.returncode == 1, diff.stderr
    assert "+  - name: http" in diff.stdout or "+    port: 81" in diff.stdout
    assert cluster.get("svc", "web")["spec"]["ports"][0]["port"] == 80


def test_a_watch_shows_changes_as_they_come(cluster: Any) -> None:
    cluster.apply(SERVICE)
    watching = cluster.start(
        "get", "svc", "web", "--watch", "--output-watch-events", "--label-columns=tier"
    )
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().split()[:2] == ["EVENT", "NAME"]
        for expected, words in (
            (["ADDED", "web", "front"], ("label", "--overwrite", "svc", "web", "tier=back")),
            (["MODIFIED", "web", "back"], ("delete", "svc", "web")),
            (["DELETED", "web", "back"], ("version",)),
        ):
            line = watching.stdout.readline().split()
            assert [line[0], line[1], line[-1]] == expected
            cluster.kubectl(*words)
    finally:
        watching.kill()
        watching.communicate()


def test_wait_for_a_condition(cluster: Any) -> None:
    cluster.apply(SERVICE)
    ingress = '{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}'
    kind = '{"spec":{"type":"LoadBalancer"}}'
    cluster.kubectl("patch", "svc", "web", "-p", kind)
    waiting = cluster.start(
        "wait", "svc/web", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}=192.0.2.1"
    )
    cluster.kubectl("patch", "svc", "web", "--subresource=status", "--type=merge", "-p", ingress)
    out, err = waiting.communicate(timeout=20)
    assert out == "service/web condition met\n", err
    assert cluster.kubectl("get", "svc", "web").stdout.splitlines()[1].split()[3] == "192.0.2.1"


def test_scale_and_rollout(cluster: Any) -> None:
    cluster.apply(DEPLOYMENT)
    cluster.kubectl("scale", "deployment", "web", "--replicas=0")
    before = cluster.get("deployment", "web")["metadata"]["generation"]
    cluster.kubectl("patch", "deployment", "web", "-p", '{"spec":{"paused":true}}')
    assert cluster.get("deployment", "web")["metadata"]["generation"] == before + 1
    cluster.kubectl("scale", "deployment", "web", "--current-replicas=0", "--replicas=1")
    assert cluster.get("deployment", "web")["spec"]["replicas"] == 1
    cluster.kubectl("rollout", "resume", "deployment", "web")
    cluster.kubectl("set", "image", "deployment/web", "web=registry.invalid/web:2")
    containers = cluster.get("deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert [(one["name"], one["image"]) for one in containers] == [
        ("web", "registry.invalid/web:2")
    ]


def test_rollout_status_follows_the_status(api_server: Any, cluster: Any) -> None:
    """On ours nobody but the test writes it."""
    cluster.apply(DEPLOYMENT.replace("replicas: 0", "replicas: 1"))
    waiting = cluster.start("rollout", "status", "deployment/web", "--timeout=20s")
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    patch = json.dumps({"status": {**status, "readyReplicas": 1}})
    cluster.kubectl(
        "patch", "deployment", "web", "--subresource=status", "--type=merge", "-p", patch
    )
    out, err = waiting.communicate(timeout=30)
    assert 'deployment "web" successfully rolled out' in out, err
    ready = cluster.kubectl("get", "deployment", "web").stdout.splitlines()[1].split()[1]
    assert ready == "1/1"


def test_typed_commands(cluster: Any) -> None:
    """kubectl sends these as protobuf."""
    cluster.kubectl("create", "secret", "generic", "s", "--from-literal=key=value")
    assert cluster.get("secret", "s")["data"] == {"key": base64.b64encode(b"value").decode()}
    assert cluster.get("secret", "s")["type"] == "Opaque"
    cluster.kubectl("create", "configmap", "c", "--from-literal=a=b")
    assert cluster.get("configmap", "c")["data"] == {"a": "b"}
    cluster.kubectl("create", "serviceaccount", "robot")
    assert cluster.kubectl("create", "token", "robot").stdout.strip()
    cluster.kubectl("create", "deployment", "d", "--image=registry.invalid/x", "--replicas=0")
    spec = cluster.get("deployment", "d")["spec"]
    assert spec["replicas"] == 0
    assert spec["template"]["spec"]["containers"][0]["image"] == "registry.invalid/x"
    cluster.kubectl("create", "service", "clusterip", "s", "--tcp=80:http")
    assert cluster.get("service", "s")["spec"]["ports"][0]["targetPort"] == "http"
    cluster.kubectl("create", "role", "r", "--verb=get", "--resource=pods")
    assert cluster.get("role", "r")["rules"][0]["resources"] == ["pods"]


def test_what_there_is_and_what_one_may(cluster: Any) -> None:
    names = cluster.kubectl("api-resources", "-o", "name").stdout.split()
    assert {"services", "leases.coordination.k8s.io", "deployments.apps"} <= set(names)
    assert cluster.kubectl("auth", "can-i", "create", "services").stdout == "yes\n"
    unknown = cluster.kubectl("get", "gizmos", check=False).stderr
    assert unknown == 'error: the server doesn\'t have a resource type "gizmos"\n'


def test_a_namespace_takes_everything_along(cluster: Any) -> None:
    name = cluster.forget("namespace", cluster.unique("other"))
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("create", "-f", "-", f"--namespace={name}", given=SERVICE)
    cluster.kubectl("delete", "namespace", name, limit_s=60)
    gone = cluster.kubectl("get", "svc", "web", f"--namespace={name}", check=False)
    assert gone.returncode == 1
    refused = cluster.kubectl(
        "create", "-f", "-", f"--namespace={name}", given=SERVICE, check=False
    )
    assert f'namespaces "{name}" not found' in refused.stderr


def test_finalizers_hold_an_object_until_they_are_gone(cluster: Any) -> None:
    held = yaml.safe_load(SERVICE)
    held["metadata"]["finalizers"] = ["test.samepath.dev/hold"]
    cluster.apply(held)
    deleting = cluster.start("delete", "svc", "web")
    assert deleting.stdout is not None
    assert deleting.stdout.readline().startswith('service "web" deleted')
    assert cluster.get("svc", "web")["metadata"]["deletionTimestamp"]
    cluster.kubectl("patch", "svc", "web", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    _, err = deleting.communicate(timeout=20)
    assert deleting.returncode == 0, err
    assert cluster.kubectl("get", "svc", "web", check=False).returncode == 1


def test_nodes(cluster: Any) -> None:
    name = cluster.forget("node", cluster.unique("node"))
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    found = {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}], **ready}
    cluster.kubectl(
        "patch", "node", name, "--subresource=status", "-p", json.dumps({"status": found})
    )
    row = cluster.kubectl("get", "node", name, "-o", "wide").stdout.splitlines()[1].split()
    assert row[:3] == [name, "Ready", "<none>"]
    assert row[4 if len(row) > 9 else -5] == "192.0.2.7" or "192.0.2.7" in row
    cluster.kubectl("cordon", name)
    row = cluster.kubectl("get", "node", name).stdout.splitlines()[1].split()
    assert row[1] == "Ready,SchedulingDisabled"
    other = json.dumps({"status": {"conditions": [{"type": "Network", "status": "True"}]}})
    cluster.kubectl("patch", "node", name, "--subresource=status", "-p", other)
    conditions = cluster.get("node", name)["status"]["conditions"]
    assert {one["type"] for one in conditions} >= {"Network"}
    assert [one for one in conditions if one["type"] == "Ready"]

"""The official Python client: lists in pages, watches, conflicts, patches, leases, definitions."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException


@pytest.fixture
def api(kubeconfig: Any) -> Any:
    return config.new_client_from_config(str(kubeconfig))


def config_map(name: str, **data: str) -> Any:
    return {"metadata": {"name": name, "labels": {"app": "test"}}, "data": data}


def refused(call: Any, *words: Any, **more: Any) -> ApiException:
    with pytest.raises(ApiException) as error:
        call(*words, **more)
    return error.value


def test_a_list_in_pages_is_of_one_version(cluster: Any, api: Any) -> None:
    core, place = client.CoreV1Api(api), cluster.namespace
    for number in range(5):
        core.create_namespaced_config_map(place, config_map(f"m{number}"))
    first = core.list_namespaced_config_map(place, label_selector="app=test", limit=2)
    assert [one.metadata.name for one in first.items] == ["m0", "m1"]
    core.delete_namespaced_config_map("m3", place)
    names, token, versions = [], first.metadata._continue, {first.metadata.resource_version}
    while token:
        page = core.list_namespaced_config_map(
            place, label_selector="app=test", limit=2, _continue=token
        )
        names += [one.metadata.name for one in page.items]
        versions.add(page.metadata.resource_version)
        token = page.metadata._continue
    assert names == ["m2", "m3", "m4"]
    assert len(versions) == 1


def test_a_watch_goes_on_from_a_version(cluster: Any, api: Any) -> None:
    core, place = client.CoreV1Api(api), cluster.namespace
    before = core.create_namespaced_config_map(place, config_map("a", x="1"))
    core.patch_namespaced_config_map("a", place, {"data": {"x": "2"}})
    core.create_namespaced_config_map(place, config_map("b"))
    core.delete_namespaced_config_map("a", place)
    seen = []
    for event in watch.Watch().stream(
        core.list_namespaced_config_map,
        place,
        label_selector="app=test",
        resource_version=before.metadata.resource_version,
        timeout_seconds=5,
    ):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 3:
            break
    assert seen == [("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")]


def test_what_leaves_a_selector_is_deleted_for_its_watch(cluster: Any, api: Any) -> None:
    core, place = client.CoreV1Api(api), cluster.namespace
    made = core.create_namespaced_config_map(place, config_map("a"))
    core.patch_namespaced_config_map("a", place, {"metadata": {"labels": {"app": "other"}}})
    core.patch_namespaced_config_map("a", place, {"data": {"x": "1"}})
    core.patch_namespaced_config_map("a", place, {"metadata": {"labels": {"app": "test"}}})
    seen = []
    for event in watch.Watch().stream(
        core.list_namespaced_config_map,
        place,
        label_selector="app=test",
        resource_version=made.metadata.resource_version,
        timeout_seconds=5,
    ):
        seen.append((event["type"], event["object"].metadata.labels["app"]))
        if len(seen) == 2:
            break
    # As it was when it was last selected.
    assert seen == [("DELETED", "test"), ("ADDED", "test")]


def test_an_old_version_is_gone(api_server: Any, cluster: Any, api: Any) -> None:
    core, place = client.CoreV1Api(api), cluster.namespace
    old = core.create_namespaced_config_map(place, config_map("a")).metadata.resource_version
    first = core.list_namespaced_config_map(place, limit=1)
    core.patch_namespaced_config_map("a", place, {"data": {"x": "2"}})
    api_server.compact()
    stream = watch.Watch().stream(core.list_namespaced_config_map, place, resource_version=old)
    error = refused(lambda: list(stream))
    assert (error.status, error.reason.split(":")[0]) == (410, "Expired")
    if first.metadata._continue:
        token = first.metadata._continue
        error = refused(core.list_namespaced_config_map, place, limit=1, _continue=token)
        assert error.status == 410


def test_an_update_of_an_old_version_conflicts(cluster: Any, api: Any) -> None:
    core, place = client.CoreV1Api(api), cluster.namespace
    old = core.create_namespaced_config_map(place, config_map("a", x="1"))
    core.patch_namespaced_config_map("a", place, {"data": {"x": "2"}})
    old.data = {"x": "3"}
    error = refused(core.replace_namespaced_config_map, "a", place, old)
    assert error.status == 409
    said = 'Operation cannot be fulfilled on configmaps \\"a\\": the object has been modified'
    assert said in error.body
    old.metadata.resource_version = None
    assert core.replace_namespaced_config_map("a", place, old).data == {"x": "3"}


def test_nothing_changes_nothing(cluster: Any, api: Any) -> None:
    core, place = client.CoreV1Api(api), cluster.namespace
    made = core.create_namespaced_config_map(place, config_map("a", x="1"))
    same = core.patch_namespaced_config_map("a", place, {"data": {"x": "1"}})
    assert same.metadata.resource_version == made.metadata.resource_version


def test_deletion_with_preconditions(cluster: Any, api: Any) -> None:
    core, place = client.CoreV1Api(api), cluster.namespace
    made = core.create_namespaced_config_map(place, config_map("a"))
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    error = refused(core.delete_namespaced_config_map, "a", place, body=options)
    assert error.status == 409
    assert "Precondition failed: UID in precondition: another" in error.body
    uid = made.metadata.uid
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=uid))
    core.delete_namespaced_config_map("a", place, body=options)
    assert refused(core.read_namespaced_config_map, "a", place).status == 404


def test_generated_names_and_what_exists_already(cluster: Any, api: Any) -> None:
    core, place = client.CoreV1Api(api), cluster.namespace
    body: Any = {"metadata": {"generateName": "some-"}}
    names = {core.create_namespaced_config_map(place, body).metadata.name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("some-") and len(name) == 10 for name in names)
    error = refused(core.create_namespaced_config_map, place, config_map(names.pop()))
    assert (error.status, error.reason) == (409, "Conflict")
    assert '"reason":"AlreadyExists"' in error.body.replace(" ", "")


def test_a_lease_is_taken_by_compare_and_swap(cluster: Any, api: Any) -> None:
    leases, place = client.CoordinationV1Api(api), cluster.namespace
    now = datetime.datetime.now(datetime.UTC)
    spec = client.V1LeaseSpec(holder_identity="a", lease_duration_seconds=15, renew_time=now)
    body = client.V1Lease(metadata=client.V1ObjectMeta(name="leader"), spec=spec)
    made = leases.create_namespaced_lease(place, body)
    assert made.spec.renew_time == now
    rival = leases.read_namespaced_lease("leader", place)
    made.spec.holder_identity = "b"
    leases.replace_namespaced_lease("leader", place, made)
    rival.spec.holder_identity = "c"
    assert refused(leases.replace_namespaced_lease, "leader", place, rival).status == 409
    assert leases.read_namespaced_lease("leader", place).spec.holder_identity == "b"


def test_owners_take_along_what_they_own(cluster: Any, api: Any, eventually: Any) -> None:
    core, place = client.CoreV1Api(api), cluster.namespace
    owner = core.create_namespaced_config_map(place, config_map("owner"))
    owned = config_map("owned")
    owned["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    ]
    core.create_namespaced_config_map(place, owned)
    core.delete_namespaced_config_map("owner", place)

    def gone() -> bool:
        names = core.list_namespaced_config_map(place, label_selector="app=test").items
        return not names

    eventually(gone, limit_s=60)


def test_custom_objects(cluster: Any, api: Any, eventually: Any) -> None:
    group = f"{cluster.namespace}.test.samepath.dev"
    name = cluster.forget("crd", f"gadgets.{group}")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True}
    body = {
        "metadata": {"name": name},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": "gadgets", "kind": "Gadget"},
            "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    definitions = client.ApiextensionsV1Api(api)
    definitions.create_custom_resource_definition(body)

    def established() -> bool:
        found = definitions.read_custom_resource_definition(name).status
        return any(c.type == "Established" and c.status == "True" for c in found.conditions or ())

    eventually(established)
    custom = client.CustomObjectsApi(api)
    thing = {"apiVersion": f"{group}/v1", "kind": "Gadget", "metadata": {"name": "g"}, "size": 1}
    custom.create_cluster_custom_object(group, "v1", "gadgets", thing)
    custom.patch_cluster_custom_object(group, "v1", "gadgets", "g", {"size": 2})
    found = custom.list_cluster_custom_object(group, "v1", "gadgets")
    assert found["kind"] == "GadgetList"
    assert [(one["kind"], one["size"]) for one in found["items"]] == [("Gadget", 2)]
    old = {**thing, "metadata": {"name": "g"}}
    error = refused(custom.replace_cluster_custom_object, group, "v1", "gadgets", "g", old)
    assert error.status == 422
    assert "metadata.resourceVersion: Invalid value: 0" in error.body.replace("0x0", "0")


def test_a_service_account_may_do_what_its_role_says(
    api_server: Any, cluster: Any, tmp_path: Any
) -> None:
    place = cluster.namespace
    group = "rbac.authorization.k8s.io"
    api_server.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "robot", "namespace": place},
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "reader"},
            "rules": [
                {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list"]},
                {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
            ],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "robot", "namespace": place},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": place}],
        },
    )
    api_server.use_rbac()
    token = api_server.service_account_token(place, "robot")
    robot = api_server.kubeconfig(tmp_path / "robot", token=token, namespace=place)
    core = client.CoreV1Api(config.new_client_from_config(str(robot)))
    assert core.list_namespaced_service(place).items == []
    who = f"system:serviceaccount:{place}:robot"
    error = refused(core.list_service_for_all_namespaces)
    assert error.status == 403
    said = (
        f'services is forbidden: User \\"{who}\\" cannot list resource \\"services\\" in API group '
        '\\"\\" at the cluster scope'
    )
    assert said in error.body
    error = refused(core.delete_namespaced_service, "web", place)
    said = f'services \\"web\\" is forbidden: User \\"{who}\\" cannot delete resource'
    assert said in error.body
    assert f'in the namespace \\"{place}\\"' in error.body
    review = client.AuthorizationV1Api(config.new_client_from_config(str(robot)))
    asked = {"resourceAttributes": {"verb": "list", "resource": "services", "namespace": place}}
    answer = review.create_self_subject_access_review({"spec": asked})
    assert answer.status.allowed is True
    api_server.revoke(token)
    assert refused(core.list_namespaced_service, place).status == 401

"""Custom kinds as kubectl meets them: a definition is served at once, objects are pruned, filled
in, validated, shown in columns."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.GROUP}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [SHORT]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Colour, type: string, jsonPath: .spec.colour, priority: 1}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [size]
            x-kubernetes-validations:
            - {rule: "self.size <= self.limit", message: size is above the limit}
            properties:
              size: {type: integer, minimum: 1, maximum: 100, description: How large it is.}
              limit: {type: integer, default: 50}
              colour: {type: string, enum: [red, blue], default: red}
              name:
                type: string
                pattern: "^[a-z]+$"
                maxLength: 5
                x-kubernetes-validations:
                - {rule: "self == oldSelf", message: name does not change}
              extra: {type: object, x-kubernetes-preserve-unknown-fields: true}
              parts:
                type: array
                maxItems: 3
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [id]
                items:
                  type: object
                  required: [id]
                  properties: {id: {type: string}, weight: {type: integer, default: 1}}
          status:
            type: object
            properties:
              conditions:
                type: array
                items:
                  type: object
                  properties: {type: {type: string}, status: {type: string}}
"""


@pytest.fixture
def group(cluster: Any) -> str:
    group = f"{cluster.namespace}.test.samepath.dev"
    cluster.forget("crd", f"widgets.{group}")
    short = "wi" + cluster.namespace[-8:]
    cluster.apply(DEFINITION.replace("GROUP", group).replace("SHORT", short))
    cluster.kubectl("wait", f"crd/widgets.{group}", "--for=condition=Established", "--timeout=20s")
    return group


def widget(group: str, spec: Any, name: str = "w") -> Any:
    version = f"{group}/v1"
    return {"apiVersion": version, "kind": "Widget", "metadata": {"name": name}, "spec": spec}


def refused(cluster: Any, body: Any, *words: str) -> str:
    given = yaml.safe_dump(body)
    done = cluster.kubectl("create", *words, "-f", "-", given=given, check=False)
    assert done.returncode == 1, done.stdout
    return str(done.stderr)


def test_defaults_columns_and_short_names(cluster: Any, group: str) -> None:
    cluster.apply(widget(group, {"size": 3, "parts": [{"id": "a"}]}))
    full = f"widgets.{group}"
    found = cluster.get(full, "w")
    assert found["spec"] == {
        "size": 3,
        "limit": 50,
        "colour": "red",
        "parts": [{"id": "a", "weight": 1}],
    }
    assert found["metadata"]["generation"] == 1
    status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    cluster.kubectl(
        "patch", full, "w", "--subresource=status", "--type=merge", "-p", json.dumps(status)
    )
    header, row = cluster.kubectl("get", full).stdout.splitlines()
    assert header.split() == ["NAME", "SIZE", "READY", "AGE"]
    assert row.split()[:3] == ["w", "3", "True"]
    header, row = cluster.kubectl("get", full, "-o", "wide").stdout.splitlines()
    assert header.split() == ["NAME", "SIZE", "COLOUR", "READY", "AGE"]
    short = "wi" + cluster.namespace[-8:]
    assert cluster.get(short, "w")["metadata"]["name"] == "w"


def test_unknown_fields(cluster: Any, group: str) -> None:
    body = widget(group, {"size": 3, "colr": "red", "extra": {"any": 1}})
    assert 'strict decoding error: unknown field "spec.colr"' in refused(cluster, body)
    done = cluster.kubectl("create", "--validate=warn", "-f", "-", given=yaml.safe_dump(body))
    assert 'unknown field "spec.colr"' in done.stderr
    spec = cluster.get(f"widgets.{group}", "w")["spec"]
    assert "colr" not in spec
    assert spec["extra"] == {"any": 1}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "spec.size: Required value"),
        ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than or"),
        ({"size": 101, "limit": 200}, "spec.size in body should be less than or equal to 100"),
        ({"size": "x"}, 'spec.size in body must be of type integer: "string"'),
        (
            {"size": 1, "colour": "green"},
            'spec.colour: Unsupported value: "green": supported values: "red", "blue"',
        ),
        ({"size": 1, "name": "A"}, "spec.name in body should match '^[a-z]+$'"),
        ({"size": 1, "name": "abcdef"}, "spec.name: Too long: may not be more than 5 bytes"),
        (
            {"size": 1, "parts": [{"id": str(i)} for i in range(4)]},
            "spec.parts: Too many: 4: must have at most 3 items",
        ),
        (
            {"size": 1, "parts": [{"id": "a"}, {"id": "a"}]},
            'spec.parts[1]: Duplicate value: {"id":"a"}',
        ),
        ({"size": 60}, "size is above the limit"),
    ],
)
def test_what_a_schema_refuses(cluster: Any, group: str, spec: Any, said: str) -> None:
    text = refused(cluster, widget(group, spec))
    assert 'The Widget "w" is invalid' in text
    assert said in text.replace("\n", " ")


def test_a_rule_that_compares_with_what_was(cluster: Any, group: str) -> None:
    full = f"widgets.{group}"
    cluster.apply(widget(group, {"size": 3, "name": "abc"}))
    change = '{"spec":{"name":"xyz"}}'
    done = cluster.kubectl("patch", full, "w", "--type=merge", "-p", change, check=False)
    assert "name does not change" in done.stderr
    cluster.kubectl("patch", full, "w", "--type=merge", "-p", '{"spec":{"size":4}}')
    assert cluster.get(full, "w")["metadata"]["generation"] == 2


def test_status_and_spec_are_written_apart(cluster: Any, group: str) -> None:
    full = f"widgets.{group}"
    cluster.apply(widget(group, {"size": 3}))
    both = json.dumps({"spec": {"size": 9}, "status": {"conditions": [{"type": "A"}]}})
    cluster.kubectl("patch", full, "w", "--type=merge", "-p", both)
    found = cluster.get(full, "w")
    assert found["spec"]["size"] == 9
    assert "status" not in found
    both = json.dumps({"spec": {"size": 5}, "status": {"conditions": [{"type": "A"}]}})
    cluster.kubectl("patch", full, "w", "--subresource=status", "--type=merge", "-p", both)
    found = cluster.get(full, "w")
    assert found["spec"]["size"] == 9
    assert found["status"] == {"conditions": [{"type": "A"}]}
    assert found["metadata"]["generation"] == 2


def test_explain_and_the_end_of_a_definition(cluster: Any, group: str) -> None:
    cluster.apply(widget(group, {"size": 3}))
    explained = cluster.kubectl("explain", f"widgets.{group}.spec.size".replace(f".{group}", ""),
                                f"--api-version={group}/v1").stdout  # fmt: skip
    assert "How large it is." in explained
    strategic = cluster.kubectl(
        "patch", f"widgets.{group}", "w", "--type=strategic", "-p", "{}", check=False
    )
    assert "strategic" in strategic.stderr or "unsupported" in strategic.stderr.lower()
    cluster.kubectl("delete", "crd", f"widgets.{group}", limit_s=60)
    gone = cluster.kubectl("get", f"widgets.{group}", check=False)
    assert "the server doesn't have a resource type" in gone.stderr


def test_server_side_apply_merges_lists_that_are_maps(cluster: Any, group: str) -> None:
    for manager, part in (("one", "a"), ("two", "b")):
        body = widget(group, {"size": 3, "parts": [{"id": part}]})
        cluster.apply(body, "--server-side", f"--field-manager={manager}")
    parts = cluster.get(f"widgets.{group}", "w")["spec"]["parts"]
    assert [one["id"] for one in parts] == ["a", "b"]
    body = widget(group, {"size": 3, "parts": []})
    cluster.apply(body, "--server-side", "--field-manager=one")
    parts = cluster.get(f"widgets.{group}", "w")["spec"]["parts"]
    assert [one["id"] for one in parts] == ["b"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("size: {type: integer,", "size: {"), "must not be empty for specified object fields"),
        (("maxItems: 3", "uniqueItems: true"), "uniqueItems cannot be set to true"),
        (("self.size <= self.limit", "self.size <= "), "compilation failed"),
        (("limit: {type: integer, default: 50}", "limit: {type: integer, default: a}"),
         "must be of type integer"),
        (("list-map-keys: [id]", "list-map-keys: [no]"), "must all be names of item properties"),
        (('pattern: "^[a-z]+$"', 'pattern: "^(?!x)"'), "must be a valid regular expression"),
        (("name: widgets.", "name: gadgets."), "must be spec.names.plural"),
        (("storage: true", "storage: false"), "must have exactly one version marked as storage"),
    ],
)  # fmt: skip
def test_definitions_that_no_server_takes(cluster: Any, change: Any, said: str) -> None:
    group = f"{cluster.namespace}.test.samepath.dev"
    cluster.forget("crd", f"widgets.{group}")
    text = DEFINITION.replace("GROUP", group).replace("SHORT", "wi" + cluster.namespace[-8:])
    assert change[0] in text
    done = cluster.kubectl("create", "-f", "-", given=text.replace(*change), check=False)
    assert done.returncode == 1, done.stdout
    assert said in done.stderr

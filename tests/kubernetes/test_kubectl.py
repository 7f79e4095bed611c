"""What people do with kubectl, with the real one."""

from __future__ import annotations

from typing import Any

import yaml

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, labels: {tier: front}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80}]
"""


def test_a_service_is_made_seen_changed_and_deleted(cluster: Any) -> None:
    assert cluster.apply(SERVICE) == "service/web created\n"
    assert cluster.apply(SERVICE) == "service/web unchanged\n"
    changed = SERVICE.replace("port: 80", "port: 81")
    assert cluster.apply(changed) == "service/web configured\n"
    assert cluster.get("service", "web")["spec"]["ports"][0]["port"] == 81
    assert yaml.safe_load(cluster.kubectl("get", "svc", "web", "-o", "yaml").stdout)["metadata"][
        "labels"
    ] == {"tier": "front"}
    assert cluster.kubectl("delete", "svc", "web").stdout.startswith('service "web" deleted')
    gone = cluster.kubectl("get", "svc", "web", check=False)
    assert gone.stderr == 'Error from server (NotFound): services "web" not found\n'

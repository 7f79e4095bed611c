"""Where the API server keeps each kind of object that we read or write: a table, and its paths.

Used by `samepath.kube.api` and whoever calls it. Pure.

Standards: Kubernetes API conventions, "Resource URIs"; RFC 3986 §2.1 for names within a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

OUR_GROUP = "samepath.dev"


@dataclass(frozen=True, slots=True)
class Resource:
    group: str
    """Empty: the core group."""
    version: str
    plural: str
    """As in a path and in RBAC: `endpointslices`."""
    kind: str
    namespaced: bool

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str = ""
    ) -> str:
        """`/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-1`. A namespace is
        ignored for what has none."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [self.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return "/" + "/".join(quote(part, safe="") for part in parts)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """As `kubectl get` takes it, and as a CustomResourceDefinition is named."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def is_ours(self) -> bool:
        return self.group == OUR_GROUP


def _ours(plural: str, kind: str, *, namespaced: bool = False) -> Resource:
    return Resource(OUR_GROUP, "v1", plural, kind, namespaced)


NODES = Resource("", "v1", "nodes", "Node", False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", False)
SERVICES = Resource("", "v1", "services", "Service", True)
SECRETS = Resource("", "v1", "secrets", "Secret", True)
PODS = Resource("", "v1", "pods", "Pod", True)
EVENTS = Resource("", "v1", "events", "Event", True)
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", True)
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet", True)
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False
)
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False
)

BGP_PEERS = _ours("bgppeers", "BGPPeer")
BGP_ADVERTISEMENTS = _ours("bgpadvertisements", "BGPAdvertisement")
IP_ADDRESS_POOLS = _ours("ipaddresspools", "IPAddressPool")
IP_POOLS = _ours("ippools", "IPPool")
BFD_PROFILES = _ours("bfdprofiles", "BFDProfile")
COMMUNITIES = _ours("communities", "Community")
GATEWAY_TIERS = _ours("gatewaytiers", "GatewayTier")
BLOCK_CLAIMS = _ours("blockclaims", "BlockClaim")
SERVICE_BGP_STATUSES = _ours("servicebgpstatuses", "ServiceBGPStatus", namespaced=True)
BGP_SESSION_STATES = _ours("bgpsessionstates", "BGPSessionState")

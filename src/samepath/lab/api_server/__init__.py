"""An API server of our own, for tests and for the lab: Kubernetes' REST conventions over a store in
memory, with what a client meets in the field and can hardly order from a real one (versions that
expire, watches that break, a server that is away, slow or set back).

It speaks to `kubectl`, to the official clients and to our own; tests/kubernetes holds it to what a
real server does, and says where it differs (docs/kubernetes-testing.md). No controllers run in
it: Deployments are data. `ApiServer` runs in a test's event loop or in a thread beside it;
`python -m samepath.lab.api_server` is a process.

From the bottom: `status` (what is refused, in the real words), `kinds` (what is served), `store`
(versions and the log of changes), `selectors`, `patches`, `schemas`; `objects` (the verbs) over
these; `watches` (changes as they come); `serving` (HTTP); `server` (the object and its knobs).

Standards: Kubernetes API conventions and API concepts (apimachinery, apiserver).
"""

from samepath.lab.api_server.server import ApiServer

__all__ = ["ApiServer"]

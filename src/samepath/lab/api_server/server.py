"""`ApiServer`: the server as an object, in this event loop or in a thread of its own, and the knobs
with which a test orders what happens in the field.

Knobs are plain methods and may be called from any thread; each has happened when it returns.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from aiohttp import web

from samepath.lab.api_server import kinds as known
from samepath.lab.api_server.access import ADMIN, Access
from samepath.lab.api_server.crds import Definitions
from samepath.lab.api_server.gate import Fault, Gate
from samepath.lab.api_server.objects import Objects
from samepath.lab.api_server.rbac import User, bootstrap
from samepath.lab.api_server.registry import Registry
from samepath.lab.api_server.services import KUBERNETES, Services
from samepath.lab.api_server.serving import Serving
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Snapshot, Store, Stored
from samepath.lab.api_server.strategies import Strategies
from samepath.lab.api_server.validity import Validity

T = TypeVar("T")

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
STOP_S = 0.1


class ApiServer:
    """```
    with ApiServer().in_thread() as server:          # or: await server.start(); await server.stop()
        server.apply(MANIFESTS)
        subprocess.run(["kubectl", "--kubeconfig", server.kubeconfig(tmp_path / "config"), ...])
        server.compact()
    ```
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: Path | None = None,
        guarded: Sequence[tuple[socket.socket, Path]] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`tls`: a folder with `ca.crt`, `tls.crt` and `tls.key`. `guarded`: more sockets that
        listen, each with such a folder, for who brings a token alone; they go on to listen while
        the server is away."""
        self.address = address
        self._tls = tls
        self._guarded = guarded
        self.port = port
        self.store = Store()
        self.registry = Registry()
        self.objects = Objects(self.store, self.registry, clock)
        self.gate = Gate()
        self.access = Access(self.objects)
        self.serving = Serving(self.objects, self.gate, self.access)
        self._definitions = Definitions(self.objects)
        Validity(self.objects)
        self._strategies = Strategies(self.objects)
        self._services = Services(self.objects)
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        for name in NAMESPACES:
            self.objects.create(known.NAMESPACES, "", {"metadata": {"name": name}})
        self.objects.create(known.SERVICES, "default", KUBERNETES)
        self.apply(*bootstrap())

    # -- Life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._runner = web.AppRunner(
            self.serving.app(), access_log=None, shutdown_timeout=STOP_S, handler_cancellation=True
        )
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        assert self._runner is not None
        context = None if self._tls is None else _context(self._tls)
        site = web.TCPSite(
            self._runner, self.address, self.port, reuse_address=True, ssl_context=context
        )
        await site.start()
        self._site = site
        for one, folder in self._guarded:
            self.access.guarded.add(one.getsockname())
            await web.SockSite(self._runner, one.dup(), ssl_context=_context(folder)).start()
        sockets = site._server.sockets  # type: ignore[union-attr]
        self.port = sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._runner is not None:
            self.store.end_watches()
            self.gate.open.set()
            await self._runner.cleanup()
            self._runner = self._site = None

    @contextmanager
    def in_thread(self) -> Iterator[ApiServer]:
        """For tests that are not coroutines."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="api-server", daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), loop).result(10)
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.stop(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    def _here(self, act: Callable[[], T]) -> T:
        """In the server's own thread, if it is another."""
        loop = self._loop
        if loop is None or not loop.is_running() or _running() is loop:
            return act()

        async def run() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(run(), loop).result(60)

    # -- Where, and as whom -------------------------------------------------------------------

    @property
    def url(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    def kubeconfig(
        self,
        path: Path,
        user: User | str = ADMIN,
        *,
        token: str | None = None,
        namespace: str = "default",
    ) -> Path:
        """Writes one, with this token, or a new one for the user. Without TLS the administrator
        has none: clients do not send one in the clear."""
        if token is None and (self._tls is not None or user != ADMIN):
            token = self.token(user)
        cluster: Json = {"server": self.url}
        if self._tls is not None:
            authority = base64.b64encode((self._tls / "ca.crt").read_bytes()).decode()
            cluster["certificate-authority-data"] = authority
        context = {"cluster": "lab", "user": "lab", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "lab", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "lab", "context": context}],
            "current-context": "lab",
        }
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        path.chmod(0o600)
        return path

    def token(self, user: User | str) -> str:
        """A new bearer token; a name is a user of no group but system:authenticated."""
        if isinstance(user, str):
            user = User(user, ("system:authenticated",))
        return self._here(lambda: self.access.new_token(user))

    def service_account_token(self, namespace: str, name: str) -> str:
        """As the kubelet gets one for a pod."""
        access = self.access
        return self._here(lambda: access.new_token(access.service_account(namespace, name)))

    def revoke(self, token: str) -> None:
        """As if it had expired: 401 from now on."""
        self._here(lambda: self.access.revoke(token))

    def use_rbac(self, use: bool = True) -> None:
        """Roles and bindings decide from now on; at first everybody may do everything."""
        self.access.is_rbac = use

    # -- Objects ------------------------------------------------------------------------------

    def apply(self, *manifests: str | Json | Iterable[Json]) -> list[Stored]:
        """Creates what is not there and replaces what is, status included, as one who may all:
        objects, lists of them, or YAML."""
        bodies: list[Json] = []
        for part in manifests:
            if isinstance(part, str):
                part = [one for one in yaml.safe_load_all(part) if one]
            bodies += [part] if isinstance(part, dict) else part
        return self._here(lambda: [self._put(body) for body in bodies])

    def _put(self, body: Json) -> Stored:
        kind = self.registry.of_object(body)
        metadata = body["metadata"]
        namespace = metadata.get("namespace", "default") if kind.namespaced else ""
        if self.store.get(kind.key, (namespace, metadata["name"])) is None:
            stored = self.objects.create(kind, namespace, body)
        else:
            plain = {k: v for k, v in metadata.items() if k != "resourceVersion"}
            body = {**body, "metadata": plain}
            stored = self._update(kind, namespace, body, "")
        if kind.has_status and "status" in body and stored.body.get("status") != body["status"]:
            stored = self._update(kind, namespace, body, "status")
        return stored

    def _update(self, kind: known.Kind, namespace: str, body: Json, subresource: str) -> Stored:
        name = body["metadata"]["name"]
        old = self.objects.get(kind, namespace, name)
        metadata = {**body["metadata"], "resourceVersion": str(old.version)}
        for part in ("uid", "managedFields"):
            metadata.pop(part, None)
        new = {**body, "metadata": metadata}
        return self.objects.update(kind, namespace, name, new, subresource)[0]

    def load(self, bodies: Iterable[Json]) -> None:
        """Many at once, as they are: stamped, but neither checked nor completed. The objects are
        the server's from now on."""
        self._here(lambda: self._load(bodies))

    def _load(self, bodies: Iterable[Json]) -> None:
        kinds: dict[tuple[str, str], known.Kind] = {}
        for body in bodies:
            head = body["apiVersion"], body["kind"]
            kind = kinds.get(head) or kinds.setdefault(head, self.registry.of_object(body))
            self.objects.load(kind, body)

    def get(self, plural: str, name: str, namespace: str = "") -> Json:
        kind = self._kind(plural)
        return self._here(lambda: self.objects.get(kind, namespace, name).of(kind))

    def list(self, plural: str, namespace: str = "") -> list[Json]:
        kind = self._kind(plural)
        collection = self.store.collection(kind.key)
        return self._here(lambda: [thing.of(kind) for _, thing in collection.in_order(namespace)])

    def delete(self, plural: str, name: str, namespace: str = "") -> None:
        kind = self._kind(plural)
        self._here(lambda: self.objects.delete(kind, namespace, name))

    def _kind(self, plural: str) -> known.Kind:
        """`services`, or `leases.coordination.k8s.io`."""
        name, _, group = plural.partition(".")
        for kind in self.registry.all():
            if kind.plural == name and (not group or kind.group == group):
                return kind
        raise LookupError(plural)

    # -- Knobs --------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return self.store.version

    @property
    def watches(self) -> int:
        """How many are open."""
        return self.gate.watches

    @property
    def requests(self) -> int:
        """How many there were."""
        return self.gate.requests

    def bookmarks_every(self, seconds: float) -> None:
        """For watches that begin from now on."""
        self.serving.reading.bookmark_s = seconds

    def initial_events(self, how: Literal["served", "forbidden", "old-etcd"]) -> None:
        """What becomes of watches with `sendInitialEvents`."""
        self.serving.reading.initial_events = how

    @contextmanager
    def listening(self) -> Iterator[Sequence[str]]:
        """Method and path of each request from now on."""
        self.gate.log.clear()
        self.gate.is_logging = True
        try:
            yield self.gate.log
        finally:
            self.gate.is_logging = False

    def compact(self) -> None:
        """Old versions expire: watches and pages from before now get 410."""
        self._here(self.store.compact)

    def end_watches(self) -> None:
        """Each watch ends as it does every few minutes."""
        self._here(self.store.end_watches)

    def break_watches(self) -> None:
        """The connections of all watches are reset."""
        self._here(self.gate.cut)

    def pause(self) -> None:
        """Connections are taken, nothing is answered; watches say nothing."""
        self._here(self.gate.open.clear)

    def resume(self) -> None:
        self._here(self.gate.open.set)

    def refuse(self) -> None:
        """As if the process were gone: connections break, new ones are refused."""
        self._run(self.stop)

    def accept(self) -> None:
        """After `refuse`, on the same port."""
        self._run(self.start)

    def snapshot(self) -> Snapshot:
        return self._here(self.store.snapshot)

    def restart(self, snapshot: Snapshot | None = None) -> None:
        """With the same objects, or with those (and the version) of an earlier `snapshot`, as after
        a backup was restored."""
        self._run(lambda: self.come_back(snapshot))

    async def come_back(self, snapshot: Snapshot | None = None) -> None:
        """`restart`, for who is in the server's own event loop."""
        await self.stop()
        self.restore(snapshot or self.store.snapshot())
        await self.start()

    def restore(self, snapshot: Snapshot) -> None:
        """While it does not run."""
        self.store.restore(snapshot)
        self._definitions.serve_all()
        self._services.count_again()
        self._strategies.note_all()

    def fault(
        self,
        code: int,
        *,
        each: int = 1,
        times: int | None = None,
        method: str = "",
        path: str = "",
    ) -> None:
        """Every `each`-th request with this method and this text in its path fails."""
        self._here(lambda: self.gate.faults.append(Fault(code, each, times, method, path)))

    def no_faults(self) -> None:
        self._here(self.gate.faults.clear)

    def latency(self, seconds: float) -> None:
        self.gate.latency_s = seconds

    def _run(self, act: Callable[[], Any]) -> None:
        loop = self._loop
        assert loop is not None
        if _running() is loop:
            raise RuntimeError("await `stop` and `start` in the server's own event loop")
        asyncio.run_coroutine_threadsafe(act(), loop).result(10)


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

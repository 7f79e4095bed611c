"""Who we are to the API server, and whom we take for it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from samepath.kube.api import Api, ApiError, Unreachable
from samepath.kube.credentials import Access, Credentials, CredentialsError, ServiceAccount
from samepath.kube.kubeconfig import Kubeconfig
from samepath.kube.resources import NODES
from samepath.model.config import Kubernetes
from tests.kube.scripted_api import serve, write_kubeconfig

AUTHORITY = trustme.CA()


def pem(blob: trustme.Blob) -> str:
    return base64.b64encode(blob.bytes()).decode()


def server_tls(*names: str, ask: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    if ask:
        AUTHORITY.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def who(request: web.Request) -> web.Response:
    """Whom the server takes us for."""
    transport = request.transport
    assert transport is not None
    certificate = (transport.get_extra_info("peercert") or {}).get("subject", ())
    subject = {name: value for ((name, value),) in certificate}
    said = request.headers.get("Authorization", "")
    return web.json_response({"said": said, "certified": subject.get("commonName", "")})


def ask(credentials: Credentials, count: int = 1) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        api = Api(credentials)
        try:
            async with asyncio.timeout(20):
                return [await api.get(NODES, "n1") for _ in range(count)][-1]
        finally:
            await api.close()

    return asyncio.run(main())


def access(credentials: Credentials) -> Access:
    return asyncio.run(credentials.access())


def refusal(credentials: Credentials) -> str:
    with pytest.raises(CredentialsError) as caught:
        access(credentials)
    return str(caught.value)


def at_server(
    folder: Path, user: dict[str, Any], tls: ssl.SSLContext, **cluster: Any
) -> dict[str, Any]:
    """What a server with this certificate sees of us."""
    terms = {"certificate-authority-data": pem(AUTHORITY.cert_pem), **cluster}

    async def main() -> dict[str, Any]:
        async with asyncio.timeout(20), serve(who, tls) as scripted:
            api = Api(Kubeconfig(write_kubeconfig(folder, scripted.url, user, **terms)))
            try:
                return await api.get(NODES, "n1")
            finally:
                await api.close()

    return asyncio.run(main())


# -- TLS --------------------------------------------------------------------------------------


def test_token_and_authority_as_data(tmp_path: Path) -> None:
    seen = at_server(tmp_path, {"token": "secret"}, server_tls("127.0.0.1"))
    assert seen["said"] == "Bearer secret"


def test_a_client_certificate_as_data_and_as_files(tmp_path: Path) -> None:
    mine = AUTHORITY.issue_cert("agent-1", common_name="agent-1")
    chain, key = mine.cert_chain_pems[0], mine.private_key_pem
    data = {"client-certificate-data": pem(chain), "client-key-data": pem(key)}
    assert at_server(tmp_path, data, server_tls("127.0.0.1", ask=True))["certified"] == "agent-1"
    chain.write_to_path(tmp_path / "me.crt")
    key.write_to_path(tmp_path / "me.key")
    files = {"client-certificate": "me.crt", "client-key": "me.key"}
    assert at_server(tmp_path, files, server_tls("127.0.0.1", ask=True))["certified"] == "agent-1"


def test_a_server_that_is_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"nodes n1: get: its certificate is not to be trusted"):
        at_server(tmp_path, {"token": "secret"}, server_tls("192.0.2.1"))
    stranger = {"certificate-authority-data": pem(trustme.CA().cert_pem)}
    with pytest.raises(Unreachable, match="not to be trusted"):
        at_server(tmp_path, {"token": "secret"}, server_tls("127.0.0.1"), **stranger)


def test_the_server_may_have_another_name(tmp_path: Path) -> None:
    name = {"tls-server-name": "kubernetes.internal"}
    assert at_server(tmp_path, {"token": "t"}, server_tls("kubernetes.internal"), **name)["said"]
    with pytest.raises(Unreachable):
        at_server(tmp_path, {"token": "t"}, server_tls("127.0.0.1"), **name)


def test_unverified_only_if_the_kubeconfig_says_so_and_the_log_says_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    terms = {"insecure-skip-tls-verify": True, "certificate-authority-data": None}
    assert at_server(tmp_path, {"token": "t"}, server_tls("192.0.2.1"), **terms)["said"]
    assert sum("NOT verified" in r.message for r in caplog.records) == 1


def test_by_way_of_a_proxy(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while octets := await reader.read(65536):
            writer.write(octets)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        host, port = asked[-1].split()[1].decode().split(":")
        there = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async def main() -> dict[str, Any]:
        async with asyncio.timeout(20), serve(who, server_tls("127.0.0.1")) as scripted:
            proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            terms = {"certificate-authority-data": pem(AUTHORITY.cert_pem), "proxy-url": url}
            path = write_kubeconfig(tmp_path, scripted.url, {"token": "t"}, **terms)
            api = Api(Kubeconfig(path))
            try:
                return await api.get(NODES, "n1")
            finally:
                await api.close()
                proxy.close()

    assert asyncio.run(main())["said"] == "Bearer t"
    assert asked[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"Bearer" not in asked[0]
    socks = write_kubeconfig(tmp_path, "https://a", **{"proxy-url": "socks5://b:1"})
    assert "only http:// is possible" in refusal(Kubeconfig(socks))


def test_a_token_does_not_leave_in_the_clear(tmp_path: Path) -> None:
    path = write_kubeconfig(tmp_path, "http://127.0.0.1:1", {"token": "secret"})
    assert refusal(Kubeconfig(path)).endswith("a token is not sent without TLS")


def test_nothing_secret_is_in_a_repr(tmp_path: Path) -> None:
    path = write_kubeconfig(tmp_path, "https://127.0.0.1:1", {"token": "secret"})
    assert "secret" not in repr(access(Kubeconfig(path)))


# -- Kubeconfig -------------------------------------------------------------------------------


def test_several_files_the_first_that_names_something_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "token").write_text(f"of-{folder.name}\n")
    one = {
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}],
    }
    two = {
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": "https://b:6443/prefix/"}}],
        "users": [{"name": "u", "user": {"token": "other"}}],
        "contexts": [{"name": "y", "context": {"cluster": "c"}}],
    }
    (first / "config").write_text(json.dumps(one))
    (second / "config").write_text(json.dumps(two))
    paths = os.pathsep.join([str(first / "config"), str(tmp_path / "no"), str(second / "config")])
    found = access(Kubeconfig(paths))
    assert (found.server, found.authorization) == ("https://b:6443/prefix", "Bearer of-a")
    assert access(Kubeconfig(paths, "y")).authorization is None
    assert "no context 'z', only x, y" in refusal(Kubeconfig(paths, "z"))


@pytest.mark.parametrize(
    ("user", "server", "words"),
    [
        ({"username": "a", "password": "b"}, "https://a", "none since Kubernetes 1.19"),
        ({"auth-provider": {"name": "gcp"}}, "https://a", "use exec"),
        ({"as": "root"}, "https://a", "impersonation"),
        ({"token": "a\nb"}, "https://a", "characters that no token has"),
        ({"client-certificate-data": "!"}, "https://a", "not base64"),
        ({"tokenFile": "missing"}, "https://a", "missing: No such file"),
        ({}, "10.0.0.1:6443", "no URL such as"),
        ({}, "https://[::1", "no URL such as"),
        ({"token": 7}, "https://a", "expected str"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    tmp_path: Path, user: dict[str, Any], server: str, words: str
) -> None:
    assert words in refusal(Kubeconfig(write_kubeconfig(tmp_path, server, user)))


def test_a_kubeconfig_that_is_missing_or_changed(tmp_path: Path) -> None:
    missing = Kubeconfig(str(tmp_path / "kubeconfig"))
    assert "No such file" in refusal(missing)
    write_kubeconfig(tmp_path, "https://a")
    assert access(missing).server == "https://a"
    write_kubeconfig(tmp_path, "https://other")
    assert access(missing).server == missing.where == "https://other"


def test_what_is_wrong_with_a_kubeconfig_comes_with_the_first_request(tmp_path: Path) -> None:
    api = Api.connect(Kubernetes(kubeconfig=str(tmp_path / "none")))
    with pytest.raises(Unreachable, match="No such file"):
        asyncio.run(api.get(NODES, "n1"))


# -- Programs that hand out credentials -------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`exec` of a user; the program counts how often it runs, and notes what it was told."""

    def make(answer: dict[str, Any] | str, version: str = "v1", **terms: Any) -> dict[str, Any]:
        program = tmp_path / "plugin"
        text = answer if isinstance(answer, str) else json.dumps(answer)
        program.write_text(
            f"#!/bin/sh\necho run >> {tmp_path}/runs\n"
            f'echo "$KUBERNETES_EXEC_INFO" > {tmp_path}/info\ncat <<"EOF"\n{text}\nEOF\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        name = f"client.authentication.k8s.io/{version}"
        return {"exec": {"command": "./plugin", "apiVersion": name, **terms}}

    return make


def credential(version: str = "v1", **status: Any) -> dict[str, Any]:
    name = f"client.authentication.k8s.io/{version}"
    return {"apiVersion": name, "kind": "ExecCredential", "status": status}


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().split())


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_program_hands_out_a_token(tmp_path: Path, plugin: Any, version: str) -> None:
    user = plugin(credential(version, token="abc"), version, provideClusterInfo=True)
    config = Kubeconfig(write_kubeconfig(tmp_path, "https://a", user))
    assert access(config).authorization == "Bearer abc"
    assert access(config).authorization == "Bearer abc"
    assert runs(tmp_path) == 1
    info = json.loads((tmp_path / "info").read_text())
    assert info["spec"] == {"interactive": False, "cluster": {"server": "https://a"}}
    config.refused()
    access(config)
    assert runs(tmp_path) == 2


def test_a_credential_that_ends_is_asked_for_anew(tmp_path: Path, plugin: Any) -> None:
    ends = datetime.fromtimestamp(time.time() + 11, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    user = plugin(credential(token="abc", expirationTimestamp=ends))
    config = Kubeconfig(write_kubeconfig(tmp_path, "https://a", user))
    access(config)
    assert config._expires_at is not None
    config._expires_at -= 5
    access(config)
    assert runs(tmp_path) == 2


def test_a_program_hands_out_a_certificate(tmp_path: Path, plugin: Any) -> None:
    mine = AUTHORITY.issue_cert("by-exec", common_name="by-exec")
    chain, key = mine.cert_chain_pems[0].bytes().decode(), mine.private_key_pem.bytes().decode()
    user = plugin(credential(clientCertificateData=chain, clientKeyData=key))
    assert at_server(tmp_path, user, server_tls("127.0.0.1", ask=True))["certified"] == "by-exec"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("nonsense", "no ExecCredential"),
        (credential("v1beta1", token="a"), "answers client.authentication.k8s.io/v1beta1"),
        (credential(), "neither a token nor a certificate"),
        (credential(clientCertificateData="a"), "without its key"),
        (credential(token="a", expirationTimestamp="soon"), "is no time"),
    ],
)
def test_what_a_program_must_not_answer(
    tmp_path: Path, plugin: Any, answer: Any, words: str
) -> None:
    config = Kubeconfig(write_kubeconfig(tmp_path, "https://a", plugin(answer)))
    assert words in refusal(config)


def test_a_program_that_fails_or_is_missing(tmp_path: Path, plugin: Any) -> None:
    user = plugin(credential(token="a"), installHint="install it")
    config = Kubeconfig(write_kubeconfig(tmp_path, "https://a", user))
    (tmp_path / "plugin").write_text("#!/bin/sh\necho because >&2\nexit 3\n")
    assert refusal(config) == "user u: exec ./plugin: exit status 3: because"
    (tmp_path / "plugin").unlink()
    assert "No such file or directory (install it)" in refusal(config)


# -- In a pod ---------------------------------------------------------------------------------


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("first\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("10.96.0.1", "https://10.96.0.1:443"),
        ("fd00::1", "https://[fd00::1]:443"),
        ("kubernetes.default.svc", "https://kubernetes.default.svc:443"),
    ],
)
def test_the_address_of_the_server_in_a_pod(
    account: Path, monkeypatch: pytest.MonkeyPatch, host: str, url: str
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    assert access(ServiceAccount(str(account))).server == url


def test_a_rotated_token_is_read_again(account: Path) -> None:
    """As kubelet does it: a symbolic link is swung over."""
    for turn, text in enumerate(("one", "two")):
        (account / f"..{turn}").mkdir()
        (account / f"..{turn}" / "token").write_text(text)
    (account / "token").unlink()
    (account / "..data").symlink_to("..0")
    (account / "token").symlink_to("..data/token")
    credentials = ServiceAccount(str(account))
    first = access(credentials)
    assert first.authorization == "Bearer one"
    assert access(credentials) is first
    (account / "..new").symlink_to("..1")
    (account / "..new").rename(account / "..data")
    second = access(credentials)
    assert second.authorization == "Bearer two"
    assert second.tls is first.tls  # connections that are open stay in use


def test_after_401_the_token_is_read_again_and_the_request_sent_again(
    account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer other":
            # The same size and time of change: nothing but the refusal tells.
            before = (account / "token").stat()
            (account / "token").write_text("other\n")
            os.utime(account / "token", ns=(before.st_atime_ns, before.st_mtime_ns))
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        return web.json_response({"said": "welcome"})

    async def main() -> Any:
        async with asyncio.timeout(20), serve(answer, server_tls("127.0.0.1")) as scripted:
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(scripted.port))
            api = Api(ServiceAccount(str(account)))
            try:
                return await api.get(NODES, "n1")
            finally:
                await api.close()

    assert asyncio.run(main())["said"] == "welcome"


def test_credentials_that_are_never_taken(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal times
        times += 1
        return web.json_response({"kind": "Status", "code": 401}, status=401)

    async def main() -> None:
        async with asyncio.timeout(20), serve(answer, server_tls("127.0.0.1")) as scripted:
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(scripted.port))
            api = Api(ServiceAccount(str(account)))
            try:
                await api.get(NODES, "n1")
            finally:
                await api.close()

    with pytest.raises(ApiError, match="does not accept our credentials"):
        asyncio.run(main())
    assert times == 2


def test_outside_of_a_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(Unreachable, match="name a `kubeconfig`"):
        asyncio.run(Api.connect(Kubernetes()).get(NODES, "n1"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "there"))
    assert Api.connect(Kubernetes()).where == str(tmp_path / "there")

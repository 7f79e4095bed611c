"""A kubeconfig, one file or several: where the server is, and who we are to it.

The reading is kubectl's: of several files the first one that names a cluster, user or context
counts; a relative path is relative to the file that it stands in. Certificates and tokens as data
or as files, and credentials that a program of the user's hands out (`exec`), until they expire.

Refused, with words: basic authentication (the API server has none since 1.19), `auth-provider`
(gone since 1.26: an exec plugin takes its place), impersonation, proxies other than HTTP.

Standards: Kubernetes kubeconfig v1.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from samepath.kube.credentials import Access, CredentialsError, Files, check_token, make_tls
from samepath.kube.exec_plugin import Credential, Exec, ask, expiry
from samepath.model.documents import DocumentError, decode, parse

EARLY_S = 10.0
"""Credentials are asked for anew so long before they expire."""

log = logging.getLogger(__name__)


class _Part(msgspec.Struct, rename="kebab", frozen=True, kw_only=True):
    """Other fields are ignored, as kubectl does."""


class _Cluster(_Part, frozen=True, kw_only=True):
    server: str
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _User(_Part, frozen=True, kw_only=True):
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    token: str | None = None
    token_file: str | None = msgspec.field(name="tokenFile", default=None)
    username: str | None = None
    auth_provider: Any = None
    as_: str | None = msgspec.field(name="as", default=None)
    exec: Exec | None = None


class _Context(_Part, frozen=True, kw_only=True):
    cluster: str = ""
    user: str = ""


class _NamedCluster(_Part, frozen=True, kw_only=True):
    name: str
    cluster: _Cluster


class _NamedUser(_Part, frozen=True, kw_only=True):
    name: str
    user: _User | None = None


class _NamedContext(_Part, frozen=True, kw_only=True):
    name: str
    context: _Context


class _File(_Part, frozen=True, kw_only=True):
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None
    current_context: str = ""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A context's cluster and user, and the folders of the files that they stand in."""

    cluster: _Cluster
    cluster_folder: Path
    user: _User
    user_folder: Path
    user_name: str


class Kubeconfig:
    """`paths`: one file, or several with colons in between, as in `$KUBECONFIG`."""

    def __init__(self, paths: str, context: str | None = None) -> None:
        self._paths = [str(Path(p).expanduser()) for p in paths.split(os.pathsep) if p]
        self._context = context
        self._files = Files()
        self._access: Access | None = None
        self._expires_at: float | None = None
        """Wall clock, seconds."""
        self._asking = asyncio.Lock()
        self._said = ""

    @property
    def where(self) -> str:
        return self._access.server if self._access else os.pathsep.join(self._paths)

    def refused(self) -> None:
        self._expires_at = 0.0

    async def access(self) -> Access:
        async with self._asking:  # one program run for all that wait
            if self._access is None or self._expired or self._files.changed:
                await self._load()
            assert self._access is not None
            return self._access

    @property
    def _expired(self) -> bool:
        return self._expires_at is not None and time.time() >= self._expires_at - EARLY_S

    async def _load(self) -> None:
        self._files = Files()
        chosen = choose(self._paths, self._context, self._files)
        credential = Credential()
        if chosen.user.exec is not None:
            credential = await _ask(chosen)
        self._access = self._make(chosen, credential)
        self._expires_at = expiry(credential)

    def _make(self, chosen: _Chosen, credential: Credential) -> Access:
        cluster, user, files = chosen.cluster, chosen.user, self._files
        server = _check_server(cluster.server)
        proxy = cluster.proxy_url
        if proxy and not proxy.startswith("http://"):
            raise CredentialsError(f"proxy-url {proxy}: only http:// is possible here")
        token = credential.token
        if token is None and user.token_file:
            token = files.read_token(_within(chosen.user_folder, user.token_file))
        if token is None and user.token:
            token = check_token(user.token)
        tls = None
        if server.startswith("https://"):
            self._warn(cluster)
            tls = make_tls(
                authority=_pem(
                    files,
                    chosen.cluster_folder,
                    cluster.certificate_authority_data,
                    cluster.certificate_authority,
                    "certificate-authority",
                ),
                certificate=_certificate(files, chosen, credential),
                key=_key(files, chosen, credential),
                insecure=cluster.insecure_skip_tls_verify,
            )
        elif token is not None:
            raise CredentialsError(f"server {server}: a token is not sent without TLS")
        authorization = None if token is None else f"Bearer {token}"
        return Access(server, tls, authorization, cluster.tls_server_name, proxy)

    def _warn(self, cluster: _Cluster) -> None:
        if cluster.insecure_skip_tls_verify and self._said != cluster.server:
            self._said = cluster.server
            log.warning(
                "%s: its certificate is NOT verified (insecure-skip-tls-verify in %s): whoever is "
                "in between can read and change everything",
                cluster.server,
                os.pathsep.join(self._paths),
            )


# -- Which cluster, which user ----------------------------------------------------------------


def choose(paths: list[str], context: str | None, files: Files) -> _Chosen:
    """Raises CredentialsError."""
    found = [
        (Path(p).parent, _read(p, files)) for p in paths if len(paths) == 1 or Path(p).exists()
    ]
    where = os.pathsep.join(paths)
    if not found:
        raise CredentialsError(f"{where or 'kubeconfig'}: no such file")
    clusters: dict[str, tuple[_Cluster, Path]] = {}
    users: dict[str, tuple[_User, Path]] = {}
    contexts: dict[str, _Context] = {}
    current = ""
    for folder, file in found:
        for cluster in file.clusters or []:
            clusters.setdefault(cluster.name, (cluster.cluster, folder))
        for user in file.users or []:
            users.setdefault(user.name, (user.user or _User(), folder))
        for entry in file.contexts or []:
            contexts.setdefault(entry.name, entry.context)
        current = current or file.current_context
    name = context or current
    if not name:
        raise CredentialsError(f"{where}: no current-context, and no `context` is configured")
    if name not in contexts:
        raise CredentialsError(f"{where}: no context {name!r}, only {_names(contexts)}")
    chosen = contexts[name]
    if chosen.cluster not in clusters:
        raise CredentialsError(f"{where}: context {name}: no cluster {chosen.cluster!r}")
    if chosen.user and chosen.user not in users:
        raise CredentialsError(f"{where}: context {name}: no user {chosen.user!r}")
    user_of, folder_of = users.get(chosen.user, (_User(), Path()))
    _refuse(chosen.user, user_of)
    return _Chosen(*clusters[chosen.cluster], user_of, folder_of, chosen.user)


def _read(path: str, files: Files) -> _File:
    octets = files.read(path)
    try:
        documents = parse(octets.decode("utf-8-sig"), path)
        return decode(_File, documents[0]) if documents else _File()
    except UnicodeDecodeError as error:
        raise CredentialsError(f"{path}: not UTF-8") from error
    except DocumentError as error:
        raise CredentialsError(str(error)) from error


def _names(named: dict[str, Any]) -> str:
    return ", ".join(sorted(named)) or "none at all"


def _refuse(name: str, user: _User) -> None:
    """What would be silently ignored otherwise. Raises CredentialsError."""
    if user.username is not None:
        raise CredentialsError(
            f"user {name}: basic authentication (username, password): API servers have none since "
            "Kubernetes 1.19; use a client certificate, a token or exec"
        )
    if user.auth_provider is not None:
        raise CredentialsError(f"user {name}: auth-provider: gone since Kubernetes 1.26; use exec")
    if user.as_ is not None:
        raise CredentialsError(f"user {name}: `as` (impersonation) is not done here")


def _check_server(text: str) -> str:
    try:
        parts = urlsplit(text)
        if parts.scheme in ("https", "http") and parts.hostname and parts.port != 0:
            return text.rstrip("/")
    except ValueError:
        pass
    raise CredentialsError(f"server {text}: no URL such as https://10.0.0.1:6443")


# -- Certificates and keys --------------------------------------------------------------------


def _within(folder: Path, path: str) -> str:
    return str(folder / Path(path).expanduser())


def _pem(files: Files, folder: Path, data: str | None, path: str | None, name: str) -> bytes | None:
    """Data counts before a file, as for kubectl."""
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise CredentialsError(f"{name}-data: not base64: {error}") from error
    return files.read(_within(folder, path)) if path else None


def _certificate(files: Files, chosen: _Chosen, credential: Credential) -> bytes | None:
    if credential.client_certificate_data:
        return credential.client_certificate_data.encode()
    user, name = chosen.user, "client-certificate"
    return _pem(
        files, chosen.user_folder, user.client_certificate_data, user.client_certificate, name
    )


def _key(files: Files, chosen: _Chosen, credential: Credential) -> bytes | None:
    if credential.client_key_data:
        return credential.client_key_data.encode()
    user = chosen.user
    return _pem(files, chosen.user_folder, user.client_key_data, user.client_key, "client-key")


async def _ask(chosen: _Chosen) -> Credential:
    """What the user's program hands out. Raises CredentialsError."""
    plugin, cluster = chosen.user.exec, chosen.cluster
    assert plugin is not None
    told = {
        "server": cluster.server,
        "certificate-authority-data": cluster.certificate_authority_data,
        "tls-server-name": cluster.tls_server_name,
        "proxy-url": cluster.proxy_url,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify or None,
    }
    about = f"user {chosen.user_name}: exec {plugin.command}"
    told = {name: value for name, value in told.items() if value is not None}
    return await ask(plugin, chosen.user_folder, told, about)

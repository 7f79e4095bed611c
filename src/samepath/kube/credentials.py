"""How to reach the API server, and who we are to it.

`samepath.kube.api` asks for an `Access` before each request. It is made of files: those of the
pod's service account, or of a kubeconfig (`samepath.kube.kubeconfig`). A file that has changed is
read again: kubelet writes a new token long before the old one ends, and certificates are renewed in
place. After a 401 everything is read again, changed or not.

TLS is verified, always, unless a kubeconfig says otherwise in so many words; then the log says so.
A key that is given as data never touches a disk.

Standards: Kubernetes, "Accessing the API from a Pod"; RFC 6750 §2.1 (bearer tokens).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

FILE_LIMIT = 1 << 20
"""Octets of a token, certificate or kubeconfig."""
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class CredentialsError(ValueError):
    """Why we cannot say where the server is or who we are; for people."""


@dataclass(frozen=True, slots=True)
class Access:
    server: str
    """`https://10.0.0.1:6443`, perhaps with a path; no slash at the end."""
    tls: ssl.SSLContext | None
    """None: plain HTTP."""
    authorization: str | None = field(default=None, repr=False)
    """The header's value."""
    server_name: str | None = None
    """What the server's certificate must name, if not its host."""
    proxy: str | None = None


class Credentials(Protocol):
    @property
    def where(self) -> str:
        """The server's address, or what names it as long as that is not known."""
        ...

    async def access(self) -> Access:
        """Raises CredentialsError."""
        ...

    def refused(self) -> None:
        """The server did not take them (401): everything is to be read again."""
        ...


class Files:
    """Files that something was made of, and whether they are still as they were."""

    def __init__(self) -> None:
        self._stamps: dict[str, tuple[int, ...] | None] = {}

    def read(self, path: str) -> bytes:
        """Raises CredentialsError."""
        self._stamps[path] = _stamp(path)
        try:
            with open(path, "rb") as file:
                octets = file.read(FILE_LIMIT + 1)
        except OSError as error:
            raise CredentialsError(f"{path}: {error.strerror}") from error
        if len(octets) > FILE_LIMIT:
            raise CredentialsError(f"{path}: more than {FILE_LIMIT} octets")
        return octets

    def read_token(self, path: str) -> str:
        """Raises CredentialsError."""
        octets = self.read(path)
        try:
            return check_token(octets.decode("latin-1").strip())
        except CredentialsError as error:
            raise CredentialsError(f"{path}: no token: {error}") from error

    @property
    def changed(self) -> bool:
        return any(_stamp(path) != stamp for path, stamp in self._stamps.items())


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def check_token(token: str) -> str:
    """Nothing that would end a header. Raises CredentialsError."""
    if not token:
        raise CredentialsError("empty")
    if not all("!" <= character <= "~" for character in token):
        raise CredentialsError("characters that no token has")
    return token


def make_tls(
    *,
    authority: bytes | None,
    certificate: bytes | None = None,
    key: bytes | None = None,
    insecure: bool = False,
) -> ssl.SSLContext:
    """A context from PEM texts; without an authority, the system's. Raises CredentialsError."""
    try:
        cadata = None if authority is None else authority.decode("ascii")
        context = ssl.create_default_context(cadata=cadata)
    except (ssl.SSLError, ValueError) as error:
        raise CredentialsError(f"the certificate authority is not PEM: {error}") from error
    # Python 3.13 demands extensions that the authorities of many clusters do not have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None and key is not None:
        try:
            with _in_memory(certificate) as chain, _in_memory(key) as secret:
                context.load_cert_chain(chain, secret, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise CredentialsError(f"client certificate and key: {error}") from error
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted: there is nobody to ask for its password")


@contextlib.contextmanager
def _in_memory(octets: bytes) -> Iterator[str]:
    """A path under which OpenSSL can read them, without a file on disk."""
    descriptor = os.memfd_create("samepath-tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, octets)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class Remembered:
    """An `Access` that stays until a file changes, it expires or the server refuses it."""

    def __init__(self, load: Callable[[Files], Access]) -> None:
        self._load = load
        self._files = Files()
        self._access: Access | None = None

    def get(self) -> Access:
        """Raises CredentialsError."""
        if self._access is None or self._files.changed:
            self._files = Files()
            self._access = self._load(self._files)
        return self._access

    def forget(self) -> None:
        self._access = None


class ServiceAccount:
    """The service account of the pod that we run in."""

    def __init__(self, folder: str = SERVICE_ACCOUNT) -> None:
        self._folder = Path(folder)
        # The certificates of TLS change far less often than the token: they are kept apart.
        self._tls = Remembered(self._load_tls)
        self._all = Remembered(self._load)

    @property
    def where(self) -> str:
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            return "the API server"
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host).version == 6:
                host = f"[{host}]"
        return f"https://{host}:{port}"

    async def access(self) -> Access:
        return self._all.get()

    def refused(self) -> None:
        self._all.forget()
        self._tls.forget()

    def _load(self, files: Files) -> Access:
        if not os.environ.get("KUBERNETES_SERVICE_HOST"):
            raise CredentialsError(
                "we are not in a pod (KUBERNETES_SERVICE_HOST is not set): name a `kubeconfig`"
            )
        files.read(str(self._folder / "ca.crt"))  # only to notice when it changes
        token = files.read_token(str(self._folder / "token"))
        return Access(self.where, self._tls.get().tls, f"Bearer {token}")

    def _load_tls(self, files: Files) -> Access:
        return Access("", make_tls(authority=files.read(str(self._folder / "ca.crt"))))

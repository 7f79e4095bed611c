"""Credentials that a program of the user's hands out, as a kubeconfig's `exec` says.

Called by `samepath.kube.kubeconfig`. The program has no terminal: one that insists on asking a
person is refused.

Standards: client.authentication.k8s.io/v1 and v1beta1, ExecCredential.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from samepath.kube.credentials import CredentialsError, check_token

EXEC_S = 60.0
"""How long a program may take."""
_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    value: str


class Exec(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    command: str
    api_version: str
    args: list[str] | None = None
    env: list[Variable] | None = None
    install_hint: str | None = None
    interactive_mode: str = "IfAvailable"
    provide_cluster_info: bool = False


class Credential(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """`status` of an ExecCredential."""

    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: str | None = None


class _Answer(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    api_version: str
    kind: str
    status: Credential | None = None


async def ask(plugin: Exec, folder: Path, cluster: Mapping[str, Any], about: str) -> Credential:
    """Run the user's program; a path is relative to `folder`. Raises CredentialsError."""
    if plugin.api_version not in _EXEC_VERSIONS:
        raise CredentialsError(f"{about}: apiVersion {plugin.api_version} is not known")
    if plugin.interactive_mode == "Always":
        raise CredentialsError(f"{about}: interactiveMode Always: there is nobody to ask")
    command = plugin.command
    if "/" in command:
        command = str(folder / command)
    environment = dict(os.environ)
    environment.update({v.name: v.value for v in plugin.env or []})
    environment["KUBERNETES_EXEC_INFO"] = _exec_info(plugin, cluster)
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *plugin.args or [],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        hint = f" ({plugin.install_hint.strip()})" if plugin.install_hint else ""
        raise CredentialsError(f"{about}: {error.strerror}{hint}") from error
    try:
        async with asyncio.timeout(EXEC_S):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise CredentialsError(f"{about}: no answer in {EXEC_S:.0f} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        raise CredentialsError(f"{about}: exit status {process.returncode}: {' '.join(last)[:300]}")
    return _decode(output, plugin.api_version, about)


def _exec_info(plugin: Exec, cluster: Mapping[str, Any]) -> str:
    spec: dict[str, Any] = {"interactive": False}
    if plugin.provide_cluster_info:
        spec["cluster"] = cluster
    info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    return msgspec.json.encode(info).decode()


def _decode(output: bytes, version: str, about: str) -> Credential:
    try:
        answer = msgspec.json.decode(output, type=_Answer)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{about}: no ExecCredential: {error}") from error
    if answer.kind != "ExecCredential" or answer.api_version != version:
        raise CredentialsError(f"{about}: answers {answer.api_version} {answer.kind}")
    status = answer.status
    if status is None or not (status.token or status.client_certificate_data):
        raise CredentialsError(f"{about}: neither a token nor a certificate")
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise CredentialsError(f"{about}: a certificate without its key, or a key alone")
    if status.token is not None:
        check_token(status.token)
    expiry(status)
    return status


def expiry(credential: Credential) -> float | None:
    text = credential.expiration_timestamp
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise CredentialsError(f"expirationTimestamp: {text!r} is no time") from error

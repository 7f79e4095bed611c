"""`samepath install`: what a host lacks before ours runs, and a gateway's kubeconfig."""

from __future__ import annotations

import sys
from typing import Any

import click

from samepath.apply.host import Check, Outcome

_MARKS = {
    Outcome.OK: "[green]ok     [/]",
    Outcome.NOTE: "[yellow]note   [/]",
    Outcome.MISSING: "[red]missing[/]",
}
_ROLES = {"node": "samepath-agent", "gateway": "samepath-gateway"}


@click.group(help="What a node or a gateway lacks; a kubeconfig for gateways.")
def install() -> None:
    pass


@install.command(
    help="Look at this host, and at the API server if one is configured; change nothing."
)
@click.option(
    "--role", type=click.Choice([*_ROLES]), default="node", show_default=True,
    help="What is to run here.",
)  # fmt: skip
@click.option("--config", type=click.Path(dir_okay=False), help="agent.yaml or gateway.yaml.")
@click.option("--node", envvar="SAMEPATH_NODE", help="The name of this host's Node object.")
@click.option("--kubeconfig", help="Ask this API server, whatever the configuration says.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check(
    role: str, config: str | None, node: str | None, kubeconfig: str | None, as_json: bool
) -> None:
    import msgspec

    from samepath.model.documents import DocumentError

    try:
        found = _look(role, config, node, kubeconfig)
    except (DocumentError, OSError) as error:
        click.echo(f"samepath: {error}", err=True)
        sys.exit(2)
    if as_json:
        rows = [{"what": c.what, "outcome": c.outcome.value, "found": c.found, "advice": c.advice}
                for c in found]  # fmt: skip
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=1))
    else:
        _show(found)
    sys.exit(1 if any(c.outcome is Outcome.MISSING for c in found) else 0)


@install.command(help="Print a kubeconfig for gateways: their service account's token.")
@click.option("--kubeconfig", help="Of somebody who may read the Secret; left out: $KUBECONFIG.")
@click.option("--namespace", default="samepath-system", show_default=True)
@click.option("--server", help="The API server's address as gateways reach it.")
def kubeconfig(kubeconfig: str | None, namespace: str, server: str | None) -> None:
    import asyncio
    import os
    from pathlib import Path

    import yaml

    from samepath.kube.api import ApiError
    from samepath.model.config import Kubernetes
    from samepath.programs.install_check import gateway_kubeconfig

    where = kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    config = Kubernetes(kubeconfig=where, namespace=namespace)
    try:
        made = asyncio.run(gateway_kubeconfig(config, server))
    except (ApiError, ValueError, OSError) as error:
        click.echo(f"samepath: {error}", err=True)
        sys.exit(1)
    click.echo(yaml.safe_dump(made, sort_keys=False), nl=False)


def _look(role: str, config: str | None, node: str | None, kubeconfig: str | None) -> list[Check]:
    from samepath.apply import host, settings

    wanted, kubernetes, seed = _wanted(role, config)
    if kubeconfig is not None:
        from samepath.model.config import Kubernetes

        kubernetes = Kubernetes(kubeconfig=kubeconfig)
    found = [
        Check(f.what, Outcome.MISSING if f.severity is settings.Severity.ERROR else Outcome.NOTE,
              f.found, f.why)
        for f in settings.surroundings(gateway=role == "gateway")
    ] or [Check("Linux", Outcome.OK, _release())]  # fmt: skip
    found += host.checks(host.Host(), wanted)
    ours = settings.gateway_settings(seed) if role == "gateway" else settings.agent_settings()
    wrong = settings.check(ours)
    if wrong:
        names = ", ".join(f.what for f in wrong[:4]) + (", …" if len(wrong) > 4 else "")
        found.append(
            Check("settings", Outcome.NOTE, f"{len(wrong)} differ: {names}", "set at start")
        )
    else:
        found.append(Check("settings", Outcome.OK, "as they should be"))
    if kubernetes is not None:
        import asyncio

        from samepath.programs import install_check

        found += asyncio.run(install_check.checks(kubernetes, _ROLES[role], node, _own_addresses()))
    return found


def _release() -> str:
    import os

    return os.uname().release


def _own_addresses() -> set[str]:
    from samepath.model.net import address_text
    from samepath.netlink.kernel import RealKernel

    kernel = RealKernel()
    try:
        return {address_text(a.address) for a in kernel.addresses()}
    finally:
        kernel.close()


def _wanted(role: str, config: str | None) -> tuple[Any, Any, int]:
    """What the configuration asks of the host, its API server, and a gateway's seed."""
    from samepath.apply.host import Wanted
    from samepath.model.config import AgentConfig, GatewayConfig
    from samepath.programs.config import load

    if config is None:
        return Wanted(role=role), None, 1
    if role == "gateway":
        gateway = load(config, GatewayConfig)
        listens = bool(gateway.listen)
        wanted = Wanted(role=role, listens=listens, dataplane=gateway.dataplane)
        return wanted, gateway.kubernetes, gateway.hash_seed or 1
    agent = load(config, AgentConfig)
    wanted = Wanted(
        role=role,
        service_proxy=agent.service_proxy,
        cni=agent.cni is not None,
        listens=bool(agent.mesh or agent.listen),
    )
    return wanted, agent.kubernetes, 1


def _show(found: list[Check]) -> None:
    from samepath.cli.terminal import console, escape

    out = console()
    wide = max(len(one.what) for one in found)
    for one in found:
        mark = _MARKS[one.outcome]
        out.print(f"{mark} {escape(one.what):<{wide}}  {escape(one.found)}", soft_wrap=True)
        if one.advice:
            out.print(f"{'':9}{'':{wide}} → {escape(one.advice)}", soft_wrap=True)
    missing = sum(c.outcome is Outcome.MISSING for c in found)
    notes = sum(c.outcome is Outcome.NOTE for c in found)
    told = f"[red]{missing} missing[/]" if missing else "[green]nothing is missing[/]"
    out.print(f"\n{told}{f', {notes} to know of' if notes else ''}")

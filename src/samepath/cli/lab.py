"""`samepath lab`: the whole chain on one machine, and the report on what survives."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

DEFAULT_NAME = "samepath"


def _one_line(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the operator can put right is told in one line, not in a traceback."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        from samepath.lab.state import LabError
        from samepath.lab.traffic import TrafficError

        try:
            return command(*arguments, **options)
        except (LabError, TrafficError, ValueError) as error:
            raise click.ClickException(str(error)) from error

    return run


NAME = click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which lab.")
TOPOLOGY = click.option(
    "--topology",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML file: how many clients, gateways, nodes, ... (docs/lab.md).",
)
DATAPLANE = click.option(
    "--dataplane",
    type=click.Choice(["kernel", "bpf", "plain"]),
    default="kernel",
    show_default=True,
    help="The gateways' next hop groups: resilient, or the kernel's own mpath as the control; or "
    "the BPF program over the resilient ones.",
)

SPEAKER = click.option(
    "--speaker",
    type=click.Choice(["agent", "frr", "bird", "gobgp"]),
    help="Who speaks BGP on the nodes: our agent, or FRR, BIRD or GoBGP as MetalLB, Calico, and "
    "Cilium or kube-router configure them. Left out: what the topology says.",
)

SOURCE = click.option(
    "--source",
    type=click.Choice(["manifests", "api-server"]),
    help="Where agents have the cluster's objects from: a folder of manifests, or an API server of "
    "the lab's own. Left out: what the topology says.",
)


@click.group(help="Gateways, nodes and clients in network namespaces.")
def lab() -> None:
    """Needs root; touches only namespaces, processes and files of its own."""


@lab.command(help="Build a lab and start everything in it.")
@NAME
@TOPOLOGY
@DATAPLANE
@SPEAKER
@SOURCE
@_one_line
def up(name: str, topology: Path | None, dataplane: Any, speaker: Any, source: Any) -> None:
    from samepath.lab.running import Lab
    from samepath.lab.topology import read_spec

    spec = read_spec(topology, speaker, source)
    built = Lab.up(name, spec, dataplane, tell=lambda text: click.echo(f"  {text}"))
    click.echo(f"The lab {name!r} is up: {', '.join(built.topology.hosts)}.")
    click.echo(f"Logs, configurations and manifests: {built.run_dir}")
    if built.cluster is not None:
        click.echo(f"kubectl: export KUBECONFIG={built.cluster.kubeconfig}")


@lab.command(
    "exec",
    help="Run a command on a host of the lab: `samepath lab exec gw1 -- ip nexthop`.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@NAME
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_one_line
def execute(name: str, host: str, command: tuple[str, ...]) -> None:
    from samepath.lab.running import Lab

    sys.exit(Lab.open(name).execute(host, command[1:] if command[0] == "--" else command))


@lab.command(help="Hosts and processes of a lab.")
@NAME
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@_one_line
def status(name: str, as_json: bool) -> None:
    import msgspec

    from samepath.lab.running import Lab

    found = Lab.open(name).status()
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    click.echo(f"lab {name!r}, data plane {found['dataplane']}, {found['run_dir']}")
    for host in found["hosts"]:
        roles = ", ".join(
            f"{p['role']} (pid {p['pid']})" if p["alive"] else f"{p['role']} (ended)"
            for p in host["processes"]
        )
        click.echo(f"  {host['name']:<12} {' '.join([roles, *host['addresses']])}")


@lab.command(help="Remove everything of a lab, also after a crash.")
@NAME
@_one_line
def down(name: str) -> None:
    from samepath.lab.removal import down

    removed = down(name)
    if removed.nothing:
        click.echo(f"There was no lab {name!r}.")
        return
    click.echo(f"Removed {removed.processes} processes and {removed.namespaces} namespaces.")


@lab.command(help="Run a scenario in a lab of its own: `samepath lab run survival`.")
@click.argument("scenario", type=click.Choice(["survival"]))
@click.option("--name", default=f"{DEFAULT_NAME}-run", show_default=True, help="Which lab.")
@TOPOLOGY
@DATAPLANE
@SPEAKER
@SOURCE
@click.option("--connections", type=click.IntRange(40, 20_000), default=2000, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--report", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--control",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The JSON of another run, to stand beside this one in the report.",
)
@click.option("--steps", help="Only these steps, by name, separated by commas.")
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards.")
@_one_line
def run(
    scenario: str,
    name: str,
    topology: Path | None,
    dataplane: Any,
    speaker: Any,
    source: Any,
    connections: int,
    json_file: Path | None,
    report: Path | None,
    control: Path | None,
    steps: str | None,
    keep: bool,
) -> None:
    from samepath.lab.run import run_survival
    from samepath.lab.topology import read_spec

    result = run_survival(
        name=name,
        spec=read_spec(topology, speaker, source),
        dataplane=dataplane,
        connections=connections,
        steps=tuple(steps.split(",")) if steps else None,
        json_file=json_file,
        report=report,
        control=control,
        keep=keep,
    )
    sys.exit(0 if result.passed else 1)

"""`samepath gateway` and `samepath agent`: the programs, in the foreground."""

from __future__ import annotations

import sys

import click

CONFIG = click.option(
    "--config", required=True, type=click.Path(dir_okay=False), help="The YAML file to run from."
)


@click.command(help="Run a gateway: BGP paths in, resilient tables out.")
@CONFIG
def gateway(config: str) -> None:
    from samepath.programs.gateway import run

    sys.exit(run(config))


@click.command(help="Run a node's agent: advertise what this node can serve.")
@CONFIG
def agent(config: str) -> None:
    from samepath.programs.agent import run

    sys.exit(run(config))

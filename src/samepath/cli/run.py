"""`samepath gateway`, `agent` and `controller`: the programs, in the foreground."""

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
@click.option(
    "--node", default="", envvar="SAMEPATH_NODE", show_envvar=True,
    help="The name of our Node, where the file does not say it.",
)  # fmt: skip
@click.option(
    "--node-ip", default="", envvar="SAMEPATH_NODE_IP", show_envvar=True,
    help="The node's address: the router id, where the file does not say it.",
)  # fmt: skip
def agent(config: str, node: str, node_ip: str) -> None:
    from samepath.programs.agent import run

    sys.exit(run(config, node, node_ip))


@click.command(help="Give Services their addresses out of pools. Needs an API server.")
@CONFIG
def controller(config: str) -> None:
    from samepath.programs.controller import run

    sys.exit(run(config))

"""`samepath`: the commands. Each is imported only when it is called, so that `--help` and the
programs start without what the others need."""

from __future__ import annotations

import importlib
import sys

import click

COMMANDS = {
    "gateway": ("samepath.cli.run:gateway", "Run a gateway: BGP paths in, resilient tables out."),
    "agent": ("samepath.cli.run:agent", "Run a node's agent: advertise what this node can serve."),
    "controller": (
        "samepath.cli.run:controller",
        "Give Services their addresses out of pools.",
    ),
    "status": ("samepath.cli.status:status", "Peers, services, tables, moves, refusals."),
    "trace": ("samepath.cli.trace:trace", "Where a flow goes, and why."),
    "ipam": ("samepath.cli.ipam:ipam", "Pods' addresses: pools, blocks, and who has which."),
    "cni": ("samepath.cli.cni:cni", "The plugin in the folders of the container runtime."),
    "install": ("samepath.cli.install:install", "What a node or a gateway lacks."),
    "import": (
        "samepath.cli.import_:import_",
        "MetalLB's and Calico's objects, rewritten as ours.",
    ),
    "lab": ("samepath.cli.lab:lab", "Gateways, nodes and clients in network namespaces."),
}


class Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        where = COMMANDS[name][0]
        module, _, attribute = where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Lazy)
@click.version_option(package_name="samepath")
def cli() -> None:
    """TCP connections keep their path when nodes, pods or routers come and go."""


def main() -> None:
    sys.exit(cli())


if __name__ == "__main__":
    main()

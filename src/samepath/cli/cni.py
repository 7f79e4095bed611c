"""`samepath cni`: the plugin into the folders of the container runtime, and out again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import click

from samepath.cni.install import CHAINED, install, uninstall
from samepath.cni.wire import SOCKET

BIN_DIR = click.option(
    "--bin-dir", default="/opt/cni/bin", show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the runtime finds plugins (Debian's podman: /usr/lib/cni).",
)  # fmt: skip
CONF_DIR = click.option(
    "--conf-dir", default="/etc/cni/net.d", show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the runtime finds networks.",
)  # fmt: skip


@click.group(help="The plugin in the folders of the container runtime.")
def cni() -> None:
    pass


@cni.command(name="install", help="Place samepath-cni and the network that uses it.")
@BIN_DIR
@CONF_DIR
@click.option(
    "--socket", default=SOCKET, show_default=True, help="`run_dir`/cni.sock of the agent."
)
@click.option(
    "--chain", multiple=True, default=("portmap",), show_default=True,
    type=click.Choice([*CHAINED]), help="Reference plugins that follow ours; may be repeated.",
)  # fmt: skip
@click.option("--no-chain", is_flag=True, help="No plugin follows ours.")
@click.option(
    "--static", is_flag=True,
    help="The static program or none: the folders are another host's, as seen from a container.",
)  # fmt: skip
def install_command(
    bin_dir: Path, conf_dir: Path, socket: str, chain: tuple[str, ...], no_chain: bool, static: bool
) -> None:
    try:
        done = install(bin_dir, conf_dir, socket, () if no_chain else chain, static=static)
    except (OSError, ValueError) as error:
        _fail(error)
    for path in done.files:
        click.echo(f"placed {path}")
    for note in done.notes:
        click.echo(f"samepath: {note}", err=True)


@cni.command(name="uninstall", help="Remove these two files. Pods that run keep their network.")
@BIN_DIR
@CONF_DIR
@click.option(
    "--when-gone", metavar="NAMESPACE/NAME",
    help="Only if this DaemonSet is deleted, or being deleted: what its pods call when they end, "
    "since an upgrade ends them, too.",
)  # fmt: skip
def uninstall_command(bin_dir: Path, conf_dir: Path, when_gone: str | None) -> None:
    if when_gone is not None:
        import asyncio

        from samepath.programs.uninstalled import why_stay

        why = asyncio.run(why_stay(when_gone))
        if why:
            click.echo(f"nothing is removed: {why}")
            return
    try:
        removed = uninstall(bin_dir, conf_dir)
    except OSError as error:
        _fail(error)
    for path in removed:
        click.echo(f"removed {path}")
    if not removed:
        click.echo("nothing to remove")


def _fail(error: Exception) -> NoReturn:
    hint = " (this needs root)" if isinstance(error, PermissionError) else ""
    click.echo(f"samepath: {error}{hint}", err=True)
    sys.exit(1)

"""`samepath ipam`: pods' addresses. What there is, and whether everything agrees.

Asks the agent of this node. Where none runs, the agent's files are looked at directly, under the
store's lock and so never beside an agent: all that `--config` (the agent's configuration) names, or
with `--store` and `--claims` just these.

Exit status of `check`: 0 nothing is wrong, or all was mended; 1 something is; 2 it could not be
found out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from samepath.cli.status import RUN_DIR
from samepath.programs.control import NotRunningError, ask

if TYPE_CHECKING:
    from samepath.cni.blocks import Blocks
    from samepath.cni.store import Store
    from samepath.model.cluster import Cluster
    from samepath.plan.addresses import Block

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    RUN_DIR,
    click.option("--config", metavar="PATH", help="Without an agent: its configuration."),
    click.option("--store", metavar="PATH", help="Without an agent: its store."),
    click.option("--claims", metavar="PATH", help="Without an agent: the claimed blocks."),
    click.option("--node", metavar="NAME", help="With --claims: whose blocks are ours."),
    click.option("--json", "as_json", is_flag=True, help="The whole answer, for programs."),
)


@dataclass(frozen=True, slots=True)
class Where:
    """Whom to ask, or which files to look at."""

    run_dir: str
    config: str | None
    store: str | None
    claims: str | None
    node: str | None

    @property
    def asks_agent(self) -> bool:
        return self.config is None and self.store is None


@dataclass(frozen=True, slots=True)
class Files:
    """What an agent would work on."""

    store: str
    claims: str | None
    node: str
    configured: tuple[Block, ...]
    cluster: Cluster


class Trouble(click.ClickException):
    exit_code = 2


def _options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.group(help="Pods' addresses: pools, blocks, and who has which.")
def ipam() -> None:
    pass


@ipam.command(help="Pools; with --blocks each block and how full it is, with --pods each address.")
@_options
@click.option("--blocks", is_flag=True, help="A row for each block.")
@click.option("--pods", is_flag=True, help="A row for each attachment.")
def show(as_json: bool, blocks: bool, pods: bool, **where: Any) -> None:
    with _troubles():
        asked = Where(**where)
        if asked.asks_agent:
            answer = ask(asked.run_dir, "agent", "ipam")
        else:
            from samepath.cni.ipam import report

            with _opened(_files(asked)) as (store, own):
                answer = report(store, own)
    if as_json:
        click.echo(json.dumps(answer, indent=1))
        return
    from samepath.cli import ipam_tables

    ipam_tables.show(answer, blocks=blocks, pods=pods)


@ipam.command(
    help="Compare store, links, routes and blocks; --fix mends what can be mended safely."
)
@_options
@click.option("--fix", is_flag=True, help="Mend what can be mended without harm to a pod.")
def check(as_json: bool, fix: bool, **where: Any) -> None:
    with _troubles():
        asked = Where(**where)
        if asked.asks_agent:
            answer = ask(asked.run_dir, "agent", "ipam_check", fix=fix)
        else:
            answer = _check_files(_files(asked), fix)
    if as_json:
        click.echo(json.dumps(answer, indent=1))
    else:
        from samepath.cli import ipam_tables

        ipam_tables.check(answer, fix)
    if any(not finding["fixed"] for finding in answer["findings"]):
        sys.exit(1)


@contextmanager
def _troubles() -> Iterator[None]:
    """What is the world's fault, in one line."""
    from samepath.cni.store import StoreError, Taken
    from samepath.netlink.socket import NetlinkError

    try:
        yield
    except NotRunningError as error:
        text = f"{error}; without an agent --config or --store names what to look at"
        raise Trouble(text) from None
    except PermissionError as error:
        raise Trouble(f"only root may ask: {error}") from None
    except (StoreError, NetlinkError, Taken, ValueError) as error:
        raise Trouble(str(error)) from None


def _files(asked: Where) -> Files:
    """Raises Trouble, DocumentError."""
    from samepath.model.cluster import Cluster, make_cluster

    store, claims, node = asked.store, asked.claims, asked.node or ""
    configured: tuple[Block, ...] = ()
    cluster = Cluster()
    if asked.config is not None:
        from samepath.kube.manifests import Manifests
        from samepath.model.config import AgentConfig
        from samepath.model.net import parse_prefix
        from samepath.plan.addresses import Block
        from samepath.programs.config import load

        config = load(asked.config, AgentConfig)
        if config.cni is not None:
            store, claims = store or config.cni.store, claims or config.cni.block_claims
        node = node or config.node
        configured = tuple(Block(*parse_prefix(text)) for text in config.pod_cidrs)
        if config.manifests is None:
            raise Trouble(f"{asked.config}: no `manifests`: ask the agent itself, while it runs")
        source = Manifests.once(config.manifests)
        if source.trouble:
            raise Trouble(source.trouble)
        cluster = make_cluster(source.objects.values())
    if store is None:
        raise Trouble(f"{asked.config}: it has no `cni`, so there is no store")
    if not Path(store).exists():
        raise Trouble(f"{store}: there is no such store")
    return Files(store, claims, node, configured, cluster)


@contextmanager
def _opened(files: Files) -> Iterator[tuple[Store, Blocks]]:
    from samepath.cni.blocks import Blocks
    from samepath.cni.claims import Claims
    from samepath.cni.store import Store, current_boot_id

    store = Store(files.store, current_boot_id())
    try:
        claims = Claims(files.claims) if files.claims else None
        own = Blocks(store, files.node, files.configured, claims)
        own.renew(files.cluster)
        yield store, own
    finally:
        store.close()


def _check_files(files: Files, fix: bool) -> dict[str, Any]:
    from samepath.cni.ipam import examine, rebuild_from_kernel
    from samepath.cni.store import StoreCorrupt, current_boot_id
    from samepath.netlink.kernel import RealKernel

    kernel = RealKernel()
    try:
        rebuilt = None
        try:
            with _opened(files):
                pass
        except StoreCorrupt as error:
            if not fix:
                raise
            aside, found = rebuild_from_kernel(files.store, current_boot_id(), kernel)
            rebuilt = {"damage": str(error), "aside": str(aside), "attachments": list(found)}
        with _opened(files) as (store, own):
            answer = examine(store, own, kernel, fix=fix)
        return answer if rebuilt is None else {**answer, "rebuilt": rebuilt}
    finally:
        kernel.close()

"""`python -m samepath.lab.api_server`: the server as a process, with its knobs on a control socket.

`samepath.lab` starts it in a namespace that all nodes reach. Whoever may write to the run directory
asks it as `programs.control.ask(run_dir, "api-server", KNOB, ...)`; knobs are those of `ApiServer`.
It writes its kubeconfig when it answers, so that who waits for the file need not ask.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from samepath.lab.api_server import ApiServer, persistence
from samepath.lab.api_server.access import ADMIN
from samepath.programs.control import Answer, only_one, serve

NAME = "api-server"
SAVE_S = 1.0


@click.command()
@click.option("--listen", default="127.0.0.1:6443", show_default=True, help="ADDRESS:PORT")
@click.option("--tls", type=click.Path(path_type=Path), help="Folder: ca.crt, tls.crt, tls.key.")
@click.option("--state", type=click.Path(path_type=Path), help="Read at start, kept up to date.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Written when it answers.")
@click.option("--guarded", type=int, help="Descriptor of a socket: a token is needed there.")
@click.option("--guarded-tls", type=click.Path(path_type=Path), help="Its folder, as of --tls.")
@click.option("--token", type=click.Path(path_type=Path), help="File: the administrator's token.")
@click.option("--run-dir", default="/run/samepath-api-server", show_default=True)
@click.option("--load", multiple=True, type=click.Path(path_type=Path), help="Manifests.")
@click.option("--rbac/--no-rbac", default=False, help="Roles and bindings decide.")
@click.option("--bookmark-s", default=60.0, show_default=True)
def main(
    listen: str,
    tls: Path | None,
    state: Path | None,
    kubeconfig: Path | None,
    guarded: int | None,
    guarded_tls: Path | None,
    token: Path | None,
    run_dir: str,
    load: tuple[Path, ...],
    rbac: bool,
    bookmark_s: float,
) -> None:
    """An API server in memory: no controllers, no kubelets, no admission webhooks."""
    address, _, port = listen.rpartition(":")
    sockets = []
    if guarded is not None and guarded_tls is not None:
        sockets.append((socket.socket(fileno=guarded), guarded_tls))
    server = ApiServer(address.strip("[]"), int(port), tls=tls, guarded=sockets)
    if token is not None:
        server.access.tokens[token.read_text().strip()] = ADMIN
    server.use_rbac(rbac)
    server.bookmarks_every(bookmark_s)
    if state is not None and state.exists():
        server.restore(persistence.read(state))
    for path in load:
        server.apply(path.read_text())
    with only_one(run_dir, NAME):
        asyncio.run(_run(server, state, kubeconfig, run_dir))


async def _run(
    server: ApiServer, state: Path | None, kubeconfig: Path | None, run_dir: str
) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    await server.start()
    control = await serve(run_dir, NAME, _knobs(server))
    if kubeconfig is not None:
        server.kubeconfig(kubeconfig, ADMIN)
    print(f"serving {server.url}", file=sys.stderr, flush=True)
    saved = -1
    while not over.is_set():
        if state is not None and server.version != saved:
            saved = server.version
            persistence.write(state, server.snapshot())
        try:
            async with asyncio.timeout(SAVE_S):
                await over.wait()
        except TimeoutError:
            continue
    if state is not None:
        persistence.write(state, server.snapshot())
    control.close()
    await server.stop()


def _knobs(server: ApiServer) -> dict[str, Answer]:
    """Each as a question of the control socket; `{"get": "latency", "seconds": 0.1}`."""
    kept: dict[str, Any] = {}

    def plain(act: Callable[..., Any]) -> Answer:
        def answer(question: dict[str, Any]) -> Any:
            words = {name: value for name, value in question.items() if name != "get"}
            try:
                return {"done": True, "answer": act(**words)}
            except TypeError as error:
                raise ValueError(str(error)) from error

        return answer

    async def restart(question: dict[str, Any]) -> Any:
        await server.come_back(kept.get("snapshot") if question.get("kept") else None)
        return {"done": True}

    async def refuse(question: dict[str, Any]) -> Any:
        await server.stop()
        return {"done": True}

    async def accept(question: dict[str, Any]) -> Any:
        await server.start()
        return {"done": True}

    def keep() -> None:
        kept["snapshot"] = server.snapshot()

    def apply(manifests: str) -> int:
        return len(server.apply(manifests))

    def status() -> Any:
        return {
            "url": server.url,
            "version": server.version,
            "watches": server.watches,
            "requests": server.requests,
        }

    names = ("compact", "end_watches", "break_watches", "pause", "resume", "fault", "no_faults")
    found = {name: plain(getattr(server, name)) for name in (*names, "latency", "use_rbac")}
    found |= {"keep": plain(keep), "apply": plain(apply), "status": plain(status)}
    return {**found, "restart": restart, "refuse": refuse, "accept": accept}


if __name__ == "__main__":
    main()

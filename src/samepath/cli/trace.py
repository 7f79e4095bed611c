"""`samepath trace CLIENT:PORT SERVICE:PORT`: the bucket, the next hop, and why.

Exit status: 0 with an answer, 1 where there is none, 2 for a question that cannot be read.
"""

from __future__ import annotations

import json
import sys

import click

from samepath.cli.status import RUN_DIR
from samepath.programs.control import NotRunningError, ask


def split(text: str) -> tuple[str, int]:
    """`192.0.2.1:80` or `[2001:db8::1]:80`. Raises click.BadParameter."""
    if text.startswith("["):
        host, colon, port = text[1:].partition("]:")
    elif text.count(":") > 1:
        raise click.BadParameter(f"{text}: an IPv6 address stands in brackets: [2001:db8::1]:80")
    else:
        host, colon, port = text.partition(":")
    is_number = port.isascii() and port.isdigit() and int(port) <= 65535
    if not (host and colon and is_number):
        raise click.BadParameter(f"{text}: expected ADDRESS:PORT")
    return host, int(port)


@click.command(help="Where a flow from CLIENT:PORT to SERVICE:PORT goes, and why.")
@click.argument("client")
@click.argument("service")
@click.option("--proto", type=click.Choice(["tcp", "udp", "sctp"]), default="tcp")
@click.option("--json", "as_json", is_flag=True, help="For other programs.")
@RUN_DIR
def trace(client: str, service: str, proto: str, as_json: bool, run_dir: str) -> None:
    client_host, client_port = split(client)
    service_host, service_port = split(service)
    try:
        answer = ask(
            run_dir, "gateway", "trace", client=client_host, client_port=client_port,
            service=service_host, service_port=service_port, protocol=proto,
        )  # fmt: skip
    except (NotRunningError, ValueError) as error:
        click.echo(f"samepath: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(answer, indent=1))
        return
    notes = ["draining"] if answer["draining"] else []
    notes += [] if answer["installed"] else ["its route is not installed"]
    note = f" ({', '.join(notes)})" if notes else ""
    click.echo(f"{answer['client']} → {answer['service']}, {proto}")
    click.echo(f"  service   {answer['prefix']}")
    click.echo(f"  table     {answer['table']:#x}, digest {answer['digest']}")
    click.echo(f"  hash      {answer['hash']:#010x}")
    click.echo(f"  bucket    {answer['bucket']} of {answer['buckets']}")
    bpf = answer.get("bpf")
    if bpf and bpf["in_transition"] and bpf["forwards"]:
        click.echo(f"  new flow  {bpf['new_flow']}{note}")
        click.echo(f"  old flow  {bpf['old_flow']}")
    else:
        click.echo(f"  next hop  {answer['next_hop']}{note}")
    click.echo(f"  why       {answer['why']}")

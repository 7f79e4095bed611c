"""`samepath import`: MetalLB's and Calico's objects, rewritten as ours.

Our objects are on standard output, ready for `kubectl apply -f -` or a folder of manifests; on
standard error is what became of theirs, by object and field. Nothing is written to a cluster.

Exit status: 0 everything was carried over; 1 something was left out, or is to be done by hand;
2 a file could not be read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import click
import yaml

from samepath.kube.imports.calico import import_calico
from samepath.kube.imports.metallb import import_metallb
from samepath.kube.imports.report import Fate, Imported
from samepath.model.documents import SIZE_LIMIT, Document, DocumentError, parse

_COLORS = {Fate.CHANGED: "yellow", Fate.TO_DO: "cyan", Fate.LEFT_OUT: "red"}
_ORDER = (Fate.LEFT_OUT, Fate.TO_DO, Fate.CHANGED, Fate.CARRIED, Fate.SKIPPED)


@click.group("import")
def import_() -> None:
    """MetalLB's and Calico's objects, rewritten as ours: on standard output, to look through and
    to apply. What became of theirs is on standard error.

    Exit status: 0 everything was carried over; 1 something was left out, or is to be done by hand;
    2 a file could not be read.
    """


@import_.command()
@click.argument("files", nargs=-1, required=True)
def metallb(files: tuple[str, ...]) -> None:
    """MetalLB's kinds of all versions, and its former ConfigMap. `-`: standard input."""
    _run(files, import_metallb)


@import_.command()
@click.argument("files", nargs=-1, required=True)
def calico(files: tuple[str, ...]) -> None:
    """Calico's IPPool, BGPPeer and BGPConfiguration. `-`: standard input."""
    _run(files, import_calico)


def _run(files: tuple[str, ...], convert: Callable[[list[Document]], Imported]) -> None:
    try:
        documents = [document for file in files for document in parse(_read(file), _name(file))]
        imported = convert(documents)
    except OSError as error:
        click.echo(f"{error.filename}: {error.strerror}", err=True)
        sys.exit(2)
    except DocumentError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    if imported.objects:
        yaml.safe_dump_all(imported.objects, sys.stdout, sort_keys=False, allow_unicode=True)
    _show(imported)
    sys.exit(0 if imported.is_whole else 1)


def _name(file: str) -> str:
    return "standard input" if file == "-" else file


def _read(file: str) -> str:
    """The text of a file. Raises OSError, DocumentError."""
    if file == "-":
        octets = sys.stdin.buffer.read(SIZE_LIMIT + 1)
    else:
        with open(file, "rb") as opened:
            octets = opened.read(SIZE_LIMIT + 1)
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(_name(file), 0, "", "not UTF-8") from error


def _show(imported: Imported) -> None:
    from rich.console import Console

    from samepath.cli.terminal import escape, table

    out = Console(stderr=True, highlight=False, emoji=False, width=_width())
    made = table("", "Object", "Field", "What became of it", "", long="")
    made.title = None
    for fate in _ORDER:
        for line in imported.lines:
            if line.fate is fate:
                color = _COLORS.get(fate)
                shown = f"[{color}]{fate.value}[/]" if color else fate.value
                made.add_row(escape(line.object), escape(line.field), shown, escape(line.text))
    out.print(made)
    counts = [
        f"{sum(line.fate is fate for line in imported.lines)} {fate.value}"
        for fate in _ORDER
        if any(line.fate is fate for line in imported.lines)
    ]
    out.print(f"{len(imported.objects)} objects; {', '.join(counts) or 'nothing was there'}")


def _width() -> int | None:
    """As wide as the terminal; where there is none, wide enough for a line each."""
    return None if sys.stderr.isatty() else 200

"""Writes docs/interop.md from the declarations of the matrix, `matrix_rows`, and peers' versions.

Run from anywhere: `python tests/interop/matrix/matrix_page.py`. A test checks that the page is
what this would write.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # elsewhere the tests' conftest does it
    sys.path.insert(0, str(Path(__file__).parents[1]))

from matrix_daemons import PEERS
from matrix_rows import MISSING, NOTES, ROWS

PAGE = Path(__file__).parents[3] / "docs" / "interop.md"

_HEAD = """# Interoperation: what works with whom

Samepath's speaker with FRR, BIRD, GoBGP and ExaBGP as they are in Debian 12. Each cell of the
table is a test with the real daemon in a network namespace, and what the daemon itself shows
(`vtysh -c 'show bgp ... json'`, `birdc`, `gobgp -j`, ExaBGP's JSON) is the witness, besides our own
view. A number points to a note; *no* always has one. The tests also check that no cell is left out.

    make setup                                          # the daemons
    sudo .venv/bin/pytest tests/interop/matrix          # the whole table; -k BIRD, -k md5 a part
    .venv/bin/python tests/interop/matrix/matrix_page.py        # write this page anew
"""

_SETTINGS = """## How the cells are set up

- *external*: eBGP over IPv4 on one link, with TCP-MD5, GTSM and BFD switched on throughout.
- *internal*: iBGP over IPv6 on one link, with BFD, add-path both ways, IPv4 by IPv6 next hops, and
  a second speaker of ours; the peer and we are route reflectors for each other and for it.
- *restarting*: eBGP over IPv4 with graceful restart; first the daemon is killed and started, then
  we are.

All cells of a setting look at the same session, so each feature is seen beside the others that are
switched on there.
"""


def page() -> str:
    notes: list[str] = []
    names = list(PEERS)
    table = [
        _line("", *(f"{name} {peer.version}" for name, peer in PEERS.items())),
        _line("---", *("---" for _ in names)),
    ]
    for row in ROWS:
        cells = [_cell(name, row.key, notes) for name in names]
        table.append(_line(f"{row.title} ({row.standard})", *cells))
    numbered = [f"{number}. {text}" for number, text in enumerate(notes, start=1)]
    shown = [_line("row", "setting", "what its test shows"), _line("---", "---", "---")]
    shown += [_line(row.title, row.setting.name, row.shows) for row in ROWS]
    parts = (_HEAD, _block(table), "## Notes\n", _block(numbered), _SETTINGS, _block(shown))
    return "\n".join(parts).rstrip("\n") + "\n"


def _cell(peer: str, key: str, notes: list[str]) -> str:
    reason = MISSING.get((peer, key))
    text = reason or NOTES.get((peer, key))
    if text is None:
        return "yes"
    if text not in notes:
        notes.append(text)
    return f"{'no' if reason else 'yes'} [{notes.index(text) + 1}]"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _block(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page())

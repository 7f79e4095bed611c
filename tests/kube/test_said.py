"""What others have written stays one line of the log."""

from __future__ import annotations

import logging

import pytest

from samepath.kube.api_errors import Asked, refusal
from samepath.kube.resources import SERVICES
from samepath.kube.said import Said
from samepath.kube.texts import LINE_LIMIT, one_line

EVIL = "bad\r\n2026-01-01 INFO all is well\x1b[2J"


def test_a_line_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Said(logging.getLogger("said"), "object").say([EVIL])
    (record,) = caplog.records
    assert record.getMessage() == "object refused: bad 2026-01-01 INFO all is well?[2J"
    assert one_line("x" * 5000) == "x" * LINE_LIMIT + "…"
    assert one_line("Größe 3") == "Größe 3"


def test_so_is_what_a_server_says() -> None:
    status = {"kind": "Status", "code": 422, "reason": "Invalid", "message": EVIL}
    for octets in (repr(status).replace("'", '"').encode(), EVIL.encode()):
        error = refusal(Asked("create", SERVICES, "default"), 422, octets)
        assert str(error).isprintable()

"""The driver of services on the fake kernel and, marked netns, on the running one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from service_site import Site, fake_site, real_site


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.netns)])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if request.param == "fake":
        yield fake_site()
        return
    with real_site() as site:
        yield site

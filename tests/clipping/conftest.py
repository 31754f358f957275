"""XLA takes a second to compile each case: here they are left to `make test-long`, but for the papers' formulas."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the laws under XLA as long."""
    for item in items:
        if "test_clip_laws" in item.nodeid and "xla" in item.name:
            item.add_marker(pytest.mark.long)

"""The order of the tests: the files that take longest first, so that two workers end together."""

from __future__ import annotations

import pytest

LONGEST = (
    "test_lab", "test_dvc", "test_recovery", "test_engine_local", "test_pipeline", "test_shards", "test_tracking",
    "test_openai", "test_models", "test_adding", "test_fetch", "test_report", "test_fetch_hub", "test_plan",
    "test_errors", "test_verify", "test_safety", "test_stats", "test_remotes",
)  # fmt: skip
"""Longest first, by `pytest -m "" --durations=0`. They need `--dist loadfile --no-loadscope-reorder`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))

"""The order of the tests: the files that take longest first, so that two workers end together."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
LONGEST = (
    "test_lab", "test_dvc", "lab/test_slurm", "test_team", "test_machines", "test_recovery", "engine/test_local",
    "engine/test_architectures", "test_pipeline", "lab/test_shards", "test_tracking", "engine/test_openai",
    "test_models", "test_adding", "test_fetch", "test_soak", "lab/test_moved", "test_report", "source/test_hub",
    "test_plan", "test_errors", "test_verify", "test_safety", "test_stats", "test_remotes",
)  # fmt: skip
"""Longest first, by `pytest -m "" --durations=0`. They need `--dist loadfile --no-loadscope-reorder`."""

settings.register_profile("shared", deadline=None)  # how long a test takes says nothing on a busy machine
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {HERE / f"{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))

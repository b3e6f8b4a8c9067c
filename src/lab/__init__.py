"""What runs need around them: the machine, shards, stops, progress, the MLflow store."""

from __future__ import annotations

"""What a run needs around it: MLflow, shards, stops, progress, the machine check."""

from __future__ import annotations

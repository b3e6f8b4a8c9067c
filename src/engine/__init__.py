"""How a model answers: Requests in, Results out. `job.py` has the types, `start.py` builds an engine for a run."""

from __future__ import annotations

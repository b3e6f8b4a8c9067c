"""What every folder stands on: the schema of conf/, its composition, errors, files."""

from __future__ import annotations

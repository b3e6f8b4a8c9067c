"""What every other folder imports: the schema and the reader of conf/, errors and files."""

from __future__ import annotations

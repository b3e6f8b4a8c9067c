"""What a model is asked: examples, their options, prompts, and the controls that change them."""

from __future__ import annotations

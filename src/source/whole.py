"""Whether a loaded checkpoint is whole: every tensor of the model came from its files, and every one is a number."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from src.base.errors import UserError

WHOLE = "Put a whole one there (config.json, the tokenizer's files, *.safetensors) or fetch it again: dvc repro fetch"
WIDER = "take a wider model.dtype: float16 ends at 65504"
SHOWN = 3  # names in a message

Shape = tuple[int, ...]

LEFTOVERS = (
    # how a name ends, and whether a tensor of this shape is what old versions of transformers saved under it
    (r"(attn|attention|self_attention|crossattention)\.(bias|causal_mask)", lambda s: len(s) == 4 and s[2] == s[3]),
    (r"masked_bias|(encoder|decoder)\.version", lambda s: math.prod(s) == 1),
    (r"inv_freq|original_inv_freq", lambda s: len(s) == 1),
    (r"cos_cached|sin_cached", lambda s: len(s) in (2, 4)),
    (r"position_ids", lambda s: len(s) == 2 and s[0] == 1),
)
"""Buffers that a model computes by itself today: masks, rotary frequencies, positions. They are no weights."""


def leftover(name: str, shape: Shape | None) -> bool:
    """Whether a tensor that the model has no place for is a buffer of an old version, and no weight."""
    if shape is None:
        return False
    return any(re.search(rf"(^|\.)({pattern})$", name) and fits(shape) for pattern, fits in LEFTOVERS)


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more."""
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return f"{', '.join(ordered[:SHOWN])}{more}"


def foreign_prefix(missing: Collection[str], unexpected: Collection[str]) -> str:
    """What another program put before every name, such as `_orig_mod.`; "" where it is no such thing."""
    one = next(iter(unexpected), "")
    found = [one.removesuffix(name) for name in missing if one.endswith(f".{name}")]
    whole = (p for p in found if all(name.startswith(p) and name.removeprefix(p) in missing for name in unexpected))
    return next(whole, "")


def refuse_part(
    model: Any, loading: Mapping[str, Any], place: Path, shapes: Mapping[str, Shape], remedy: str = WHOLE
) -> None:
    """Raises UserError where the tensors of the files are not those of the model.

    model: as loaded. loading: what `from_pretrained(output_loading_info=True)` returned beside it, so without what the
    architecture leaves out on purpose. place: the files, for the message. shapes: of the files' tensors, by name.
    """
    missing = set(loading["missing_keys"])
    computed = {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}  # not saved, so not in state_dict
    unexpected = {
        name
        for name in loading["unexpected_keys"]
        if not leftover(name, shapes.get(name)) and (name not in computed or computed[name] != shapes.get(name))
    }
    mismatched = {name: (tuple(found), tuple(wanted)) for name, found, wanted in loading["mismatched_keys"]}
    if not (missing or unexpected or mismatched or loading["error_msgs"]):
        return
    said = []
    if missing:
        said.append(f"it lacks {len(missing)} of {len(model.state_dict())} tensors ({listed(missing)})")
    if mismatched:
        both = (
            f"{name}: {found} in the file, {wanted} by the configuration"
            for name, (found, wanted) in mismatched.items()
        )
        said.append(f"the shape of {len(mismatched)} is another ({listed(both)})")
    if unexpected:
        said.append(f"it holds {len(unexpected)} that belong to another model ({listed(unexpected)})")
    said += map(str, loading["error_msgs"])
    prefix = foreign_prefix(missing, unexpected)
    if prefix:
        remedy = f"Each name begins with {prefix!r}: save the tensors again without it"
    raise UserError(f"{place} is no whole {type(model).__name__}: {'; '.join(said)}. {remedy}")


def refuse_no_numbers(named: Iterable[tuple[str, Any]], place: Path, remedy: str = f"{WHOLE}, or {WIDER}") -> None:
    """Raises UserError where a tensor holds NaN or an infinity.

    named: (name, tensor). A tensor without values (meta) is left out.
    """
    bad = [name for name, tensor in named if not tensor.is_meta and not _finite(tensor)]
    if bad:
        raise UserError(f"{place} holds NaN or infinity in {len(bad)} of its tensors ({listed(bad)}). {remedy}")


def _finite(tensor: Any) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(float(end)) for end in tensor.detach().aminmax())  # NaN is in both ends

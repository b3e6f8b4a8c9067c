"""A model's weights: loaded on their device, packed for a CPU, and how much one forward pass there may hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

from src.base.errors import UserError
from src.engine.sampling import Tensor
from src.source.weights import quiet, weight_files
from src.source.whole import WHOLE, WIDER, listed, refuse_no_numbers, refuse_part

NUMBER = r"(?<=\.)\d+(?=\.)"  # of a layer or an expert, in a tensor's name
SEEN = 4  # tokens whose states must not depend on what follows
PREFILL_TOKENS = {"cpu": 384, "cuda": 16384}  # tokens of one forward pass over prompts


def pass_tokens(model: Any) -> int:
    """How many tokens one forward pass over prompts may hold on this model's device."""
    return PREFILL_TOKENS.get(model.device.type, max(PREFILL_TOKENS.values()))


def load(folder: str, dtype: str, trust_remote_code: bool, device_map: str | None = None) -> Any:
    """The model in evaluation mode, on a GPU where there is one. With a device_map ("auto"), accelerate spreads it.

    Of what lies beside the weights, only the architecture's sizes and the ids of special tokens count. Raises UserError
    where the checkpoint is not whole, or is none that writes text.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    place = Path(folder)
    _refuse_other_files(place)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    _plain_settings(config)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options = {"dtype": getattr(torch, dtype), "weights_only": True, "trust_remote_code": trust_remote_code}
    options |= {"device_map": device_map, "ignore_mismatched_sizes": True, "output_loading_info": True}
    generation = _generation(place, config.is_encoder_decoder)
    try:
        with quiet():
            model, loading = kind.from_pretrained(folder, config=config, generation_config=generation, **options)
    except RuntimeError as error:
        if "automatic conversion" not in str(error):
            raise
        gaps = listed(_gaps(_headers(place))) or "such as an expert's"
        raise UserError(f"{place} lacks a part of a tensor that is put together ({gaps}). {WHOLE}") from None
    model.eval()
    held = _headers(place)
    refuse_part(model, loading, place, {name: shape for name, (shape, _) in held.items()})
    _refuse_lost_head(model, place, held)
    named = [*model.named_parameters(), *((name, each) for name, each in model.named_buffers() if name in held)]
    refuse_no_numbers(named, place)
    if any(tensor.is_meta for _, tensor in named):  # accelerate has left them on the disk
        refuse_no_numbers(_tensors(place), place)
    _refuse_other_types(model, place, getattr(torch, dtype), [name for name, (_, real) in held.items() if not real])
    model.generation_config = generation  # not the copy of it, which has the configuration's settings again
    model.__dict__.pop("generate", None)  # a generate of the repository's own, set where its code is trusted
    if not device_map:
        model.to("cuda" if torch.cuda.is_available() else "cpu")
    _refuse_two_ways(model, place)
    return model


def _plain_settings(config: Any) -> None:
    """Sets back what a configuration may have saved of how it was once run. Sizes stay."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is None:
            continue
        if part._attn_implementation is not None:
            part._attn_implementation = None  # transformers chooses
        plain = {"return_dict": True, "output_hidden_states": False, "output_attentions": False, "use_cache": True}
        for name, value in plain.items():
            if getattr(part, name, value) != value:
                setattr(part, name, value)


def _read_files(place: Path) -> list[str]:
    """The names of the weight files that transformers reads, the first kind that it finds."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (place / single).is_file():
            return [single]
        if (place / index).is_file():
            return sorted(set(map(str, (_json(place / index).get("weight_map") or {}).values())))
    return []


def _refuse_other_files(place: Path) -> None:
    """Raises UserError where transformers would read weights that the folder lacks, or that its identity leaves out."""
    if (place / "adapter_config.json").exists():
        raise UserError(f"{place} holds an adapter, whose base model lies elsewhere. Merge the two and save the whole")
    read, known = _read_files(place), set(weight_files(place))
    lacking = [name for name in read if not (place / name).is_file()]
    if lacking:
        raise UserError(f"{place} lacks {len(lacking)} of its {len(read)} weight files ({listed(lacking)}). {WHOLE}")
    elsewhere = "transformers_weights" in _json(place / "config.json") or any(place.glob("shard-*-model-*.safetensors"))
    if elsewhere or not known.issuperset(read):
        raise UserError(
            f"{place} has weights of several kinds or in other places ({listed({*known, *read})}). Leave one kind in "
            "the folder itself: model.safetensors, or its parts and model.safetensors.index.json"
        )


def _headers(place: Path) -> dict[str, tuple[tuple[int, ...], bool]]:
    """(shape, whether its values are real numbers) of each tensor of the weight files. No values are read."""
    from safetensors import safe_open

    headers: dict[str, tuple[tuple[int, ...], bool]] = {}
    for name in _read_files(place):
        if name.endswith(".safetensors"):
            with safe_open(place / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - the file is no dict
                    each = file.get_slice(key)
                    headers[key] = tuple(each.get_shape()), each.get_dtype().startswith(("F", "BF"))
        else:
            headers |= {key: (tuple(t.shape), t.is_floating_point()) for key, t in _pickled(place / name, "meta")}
    return headers


def _gaps(names: Iterable[str]) -> set[str]:
    """The names that a file lacks where names differ in their numbers alone, such as those of experts."""
    seen: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        seen.setdefault(re.sub(NUMBER, "{}", name), set()).add(tuple(re.findall(NUMBER, name)))
    every = ((form, product(*map(set, zip(*there, strict=True))), there) for form, there in seen.items())
    return {form.format(*place) for form, places, there in every for place in places if place not in there}


def _tensors(place: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the weight files, one after the other."""
    from safetensors import safe_open

    for name in _read_files(place):
        if name.endswith(".safetensors"):
            with safe_open(place / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - the file is no dict
                    yield key, file.get_tensor(key)
        else:
            yield from _pickled(place / name, "cpu")


def _pickled(path: Path, device: str) -> Iterator[tuple[str, Tensor]]:
    held = torch.load(path, map_location=device, weights_only=True)
    yield from ((key, value) for key, value in held.items() if isinstance(value, torch.Tensor))


def _refuse_lost_head(model: Any, place: Path, held: Iterable[str]) -> None:
    """Raises UserError where the output layer is the embedding, though the configuration says that it is not.

    transformers ties the two in the T5 family whatever the configuration says, where the file has no output layer.
    """
    said = _json(place / "config.json")
    tied = (said.get("text_config") or said).get("tie_word_embeddings", said.get("tie_word_embeddings"))
    if tied is not False:
        return
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return
    names = [name for name, module in model.named_modules() if module is head]
    if not any(key.endswith(f"{name}.weight") for key in held for name in names):
        raise UserError(
            f"{place} lacks its output layer ({names[0]}.weight), which is another than the embedding "
            f"(tie_word_embeddings: false in config.json). {WHOLE}"
        )


def _refuse_other_types(model: Any, place: Path, dtype: Any, whole_numbers: Iterable[str]) -> None:
    """Raises UserError for quantised weights: those of another type than asked for, or made of whole numbers.

    Some architectures keep parts in float32. whole_numbers: the names of such tensors in the files.
    """
    real = {name for name, weight in model.named_parameters() if weight.is_floating_point()}
    names = {name for name in whole_numbers if {name, f"{model.base_model_prefix}.{name}"} & real}
    names |= {name for name, weight in model.named_parameters() if weight.dtype not in (dtype, torch.float32)}
    if names or getattr(model, "hf_quantizer", None):
        what = f"weights that are quantised ({listed(names)})" if names else "quantised weights"
        raise UserError(f"{place} holds {what}, and none of model.dtype. Take the checkpoint before it was quantised")


def _generation(place: Path, encoder_decoder: bool) -> Any:
    """A generation config with the ids of special tokens alone, as saved.

    Raises UserError for ids that are none, and for an encoder-decoder without a token to begin with.
    """
    from transformers import GenerationConfig

    path = place / "generation_config.json"
    saved = _json(path) if path.exists() else {}
    config = _json(place / "config.json")
    ids: dict[str, Any] = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        told = (saved, config, config.get("text_config") or {})
        ids[name] = found = next((each[name] for each in told if each.get(name) is not None), None)
        for each in found if isinstance(found, list) else (found,):
            if each is not None and type(each) is not int:
                raise UserError(f"{place}: {name}={found!r} is no token id. Mend it in {path.name}, or in config.json")
    if encoder_decoder and ids["decoder_start_token_id"] is None:
        raise UserError(
            f"{place} does not say which token its decoder begins with. Write decoder_start_token_id into {path.name} "
            "(the padding token's id for a T5, the end token's for a BART)"
        )
    return GenerationConfig(**ids)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object. {WHOLE}")
    return found


def _refuse_two_ways(model: Any, place: Path) -> None:
    """Raises UserError where what follows a token changes what the model says at it, or where it says no number."""
    if model.config.is_encoder_decoder:
        return
    size = model.config.get_text_config(decoder=True).vocab_size
    device = model.device
    if device.type == "meta":  # accelerate computes there what it keeps on the disk
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begin = [i % size for i in range(3, 3 + SEEN)]
    with torch.inference_mode():
        one, other = (
            model(torch.tensor([begin + [i % size for i in rest]], device=device)).logits[0, :SEEN].float()
            for rest in (range(20, 26), range(40, 46))
        )
    if not bool(one.isfinite().all()):
        raise UserError(f"{place} says NaN or infinity to a few tokens in {model.dtype}. {WHOLE}, or {WIDER}")
    tolerance = 1e-4 if model.dtype == torch.float32 else 1e-2
    if float((one - other).abs().max()) > tolerance * max(1.0, float(one.abs().max())):
        raise UserError(
            f"{place}: {type(model).__name__} reads what follows a token, so it writes no text. Take a decoder or an "
            "encoder-decoder"
        )


def spread(model: Any) -> bool:
    """Whether the model's layers lie on several devices. The disk counts as one."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


class PackedLinear(torch.nn.Linear):  # type: ignore[misc]
    """A float32 linear layer with its weight in oneDNN's own order, which is 1.5 times as fast for few rows.

    `weight` keeps shape and dtype only (meta device).
    """

    def __init__(self, linear: Any):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.weight = torch.nn.Parameter(linear.weight.detach().to("meta"), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def pack(model: Any) -> bool:
    """Pack the linear layers of a float32 decoder on a CPU, in place and one at a time. Gives whether any was packed.

    An embedding that is tied to the output layer keeps its weight. Code from a model's own repository is left alone,
    because it may read weights itself. So may an architecture of transformers, which Choice finds out.
    """
    ours = type(model).__module__.startswith("transformers.") and not model.config.is_encoder_decoder
    if (
        not ours
        or spread(model)
        or model.device.type != "cpu"
        or model.dtype != torch.float32
        or not torch.backends.mkldnn.is_available()
    ):
        return False
    linear = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    for name in linear:
        model.set_submodule(name, PackedLinear(model.get_submodule(name)))
    return bool(linear)


OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)

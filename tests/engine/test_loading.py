"""What lies in a model's folder is not believed: it is whole and used as the protocol says, or refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from src.base.errors import UserError
from src.base.schema import Generation, Model
from src.engine.job import Request, Result
from src.engine.loading import load
from src.engine.local import LocalEngine
from src.question.prompts import Prompt
from src.source import weights
from tests.tiny import END, _tokenizer, local_engine

GREEDY = Generation(temperature=0)
Tensors = dict[str, Any]
Folders = Callable[[str], Path]
PROMPT = Prompt("t/1", "g", "", "Which floats on water? It is", ("a cork", "a stone"), (" a cork", " a stone"), 0, "")
LONG = replace(PROMPT, id="t/2", prefix="a mouse or a house, " * 40)


@pytest.fixture(scope="session")
def kept(folder: Folders) -> Folders:
    """A checkpoint that a test may not change."""
    return folder


@pytest.fixture
def copy(kept: Folders, tmp_path: Path) -> Folders:
    """A checkpoint that a test may change."""
    return lambda arch: shutil.copytree(kept(arch), tmp_path / "copy", dirs_exist_ok=True)


def rewrite(folder: Path, change: Callable[[Tensors], Tensors], pickled: bool = False) -> Path:
    """The tensors of a checkpoint, changed, as safetensors or as a pickle."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    if pickled:
        path.unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file({name: t.contiguous().clone() for name, t in tensors.items()}, path, metadata={"format": "pt"})
    return folder


def edit(folder: Path, name: str, **changes: Any) -> Path:
    """Fields of a JSON file, changed; None takes one out."""
    path = folder / name
    merged = (json.loads(path.read_text()) if path.exists() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))
    return folder


def dressed(model: Any, folder: Path) -> Path:
    """A model's checkpoint with the tiny tokenizer."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.25, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(folder: Path, dtype: str = "float32") -> torch.Tensor:
    """What a checkpoint says, as the engine loads it."""
    model, ids = load(str(folder), dtype, False), torch.tensor([[5, 6, 7, 8, 9]])
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return model(ids, **extra).logits


def ran(engine: LocalEngine, *prompts: Prompt) -> dict[str, Result]:
    asked = [Request(p, (0,), True) for p in prompts]
    return {each.prompt_id: each for batch in engine.run(asked) for each in batch}


# ---- Whole


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def beside(**more: Any) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{name.replace("__", "."): tensor for name, tensor in more.items()}}


REFUSED = {
    "compiled": ("llama", prefixed("_orig_mod."), r"it lacks 21 of 21 tensors.*begins with '_orig_mod\.'"),
    "parallel": ("t5", prefixed("module."), r"begins with 'module\.': save the tensors again"),
    "half the layers": ("gpt2", without("h.1."), r"it lacks 12 of 29 tensors \(transformer\.h\.1\..* and 9 more"),
    "no output layer": ("llama", without("lm_head"), r"it lacks 1 of 21 tensors \(lm_head\.weight\)"),
    "no embedding": ("t5", without("shared"), r"it lacks 4 of 50 tensors.*lm_head\.weight"),
    "more than the model": ("llama", beside(score__weight=torch.ones(2, 32)), r"holds 1 that belong .*\(score\.weight"),
    "a bias that is no mask": ("gptj", beside(transformer__h__0__attn__bias=torch.ones(32)), r"attn\.bias"),
    "wrapped": ("llama", lambda tensors: {"state_dict": torch.ones(1), **prefixed("x.")(tensors)}, r"state_dict"),
    "another shape": ("llama", beside(model__norm__weight=torch.ones(16)), r"model\.norm\.weight: \(16,\).*\(32,\) by"),
    "whole numbers": (
        "llama",
        lambda t: t | {n: t[n].to(torch.int8) for n in t if "up_proj" in n},
        r"quantised \(.*up_proj",
    ),
    "NaN": ("llama", beside(model__norm__weight=torch.full((32,), torch.nan)), r"NaN or infinity.*model\.norm\.weight"),
    "infinity": ("gpt2", beside(transformer__ln_f__bias=torch.full((32,), -torch.inf)), r"NaN or infinity.*ln_f\.bias"),
}


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("what", REFUSED)
def test_tensors_that_are_not_the_models_own_are_refused_by_name(copy: Folders, what: str, pickled: bool) -> None:
    arch, change, said = REFUSED[what]
    engine = local_engine(rewrite(copy(arch), change, pickled), "x", GREEDY)
    with pytest.raises(UserError, match=said):
        ran(engine, PROMPT)


MASK = torch.ones(1, 1, 512, 512).tril()
LOADS = {  # what old versions saved, or other ways of naming the same weights
    "masks": (
        "gptj",
        beside(transformer__h__0__attn__bias=MASK, transformer__h__0__attn__masked_bias=torch.tensor(-1e4)),
    ),
    "a mask of another kind": ("gpt2", beside(transformer__h__1__attn__bias=torch.ones(1, 1, 512, 512))),
    "rotary frequencies": ("llama", beside(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4))),
    "no prefix": ("gpt2", lambda tensors: {name.removeprefix("transformer."): t for name, t in tensors.items()}),
    "a tied layer saved twice": (
        "gpt2",
        lambda tensors: {**tensors, "lm_head.weight": tensors["transformer.wte.weight"]},
    ),
    "the encoder's embedding": (
        "t5",
        lambda t: {("encoder.embed_tokens.weight" if "shared" in n else n): t[n] for n in t},
    ),
}


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("what", LOADS)
def test_what_is_left_out_or_added_on_purpose_loads_and_says_the_same(
    copy: Folders, kept: Folders, what: str, pickled: bool
) -> None:
    arch, change = LOADS[what]
    assert torch.equal(logits(rewrite(copy(arch), change, pickled)), logits(kept(arch)))


def test_one_shard_of_several_is_refused(copy: Folders, kept: Folders, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    split = copy("llama")
    (split / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(kept("llama")).save_pretrained(split, max_shard_size="60KB")
    assert torch.equal(logits(split), logits(kept("llama")))
    first, *_, last = sorted(split.glob("*.safetensors"))
    last.unlink()
    with pytest.raises(UserError, match=rf"lacks 1 of its \d weight files \({last.name}\)"):
        ran(local_engine(split, "x", GREEDY), PROMPT)
    first.rename(split / "model.safetensors")
    with pytest.raises(UserError, match=r"it lacks \d+ of 21 tensors"):
        ran(local_engine(split, "x", GREEDY), PROMPT)


def test_weights_that_the_identity_leaves_out_are_refused(copy: Folders, kept: Folders) -> None:
    """Of pickles beside *.safetensors, the latter alone are hashed, and transformers would read the former."""
    folder = rewrite(copy("llama"), lambda tensors: tensors, pickled=True)
    shutil.copy(kept("gpt2") / "model.safetensors", folder / "another.safetensors")
    with pytest.raises(UserError, match=r"weights of several kinds .*\(another\.safetensors, pytorch_model\.bin\)"):
        load(str(folder), "float32", False)
    (folder / "another.safetensors").unlink()
    load(str(folder), "float32", False)
    (folder / "elsewhere").mkdir()
    shutil.copy(kept("llama") / "model.safetensors", folder / "elsewhere")
    edit(folder, "config.json", transformers_weights="elsewhere/model.safetensors")
    with pytest.raises(UserError, match=r"weights of several kinds or in other places"):
        load(str(folder), "float32", False)


def test_code_beside_the_weights_is_part_of_a_folders_identity(copy: Folders) -> None:
    folder = copy("llama")
    own = Model(name="own", path=str(folder))
    _, before = weights.located(own)
    (folder / "modeling_own.py").write_text("SCALE = 2")
    assert weights.located(own)[1] != before


def test_a_pickle_of_the_old_format_loads(copy: Folders, kept: Folders) -> None:
    from safetensors.torch import load_file

    folder = copy("gptj")
    held = load_file(folder / "model.safetensors") | {"transformer.h.0.attn.masked_bias": torch.tensor(-1e9)}
    (folder / "model.safetensors").unlink()
    torch.save(held, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(logits(folder), logits(kept("gptj")))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("arch", ["gpt2", "gptj", "falcon_7b", "falcon_40b", "falcon_alibi", "llama", "gpt_neox", "t5"])
def test_a_checkpoint_of_each_architecture_loads_in_half_precision(kept: Folders, arch: str, dtype: str) -> None:
    assert load(str(kept(arch)), dtype, False).dtype == getattr(torch, dtype)


def test_a_buffer_of_the_file_is_looked_at_too(tmp_path: Path) -> None:
    folder = dressed(seq2seq("Bart"), tmp_path)
    rewrite(folder, beside(final_logits_bias=torch.full((1, 345), torch.nan)))
    with pytest.raises(UserError, match="final_logits_bias"):
        load(str(folder), "float32", False)


@pytest.mark.parametrize("changes", [{"vocab_size": 400}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}], ids=str)
def test_a_configuration_of_another_size_is_refused(copy: Folders, changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="is no whole LlamaForCausalLM"):
        load(str(edit(copy("llama"), "config.json", **changes)), "float32", False)


def test_an_expert_that_is_missing_is_refused(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=345, num_key_value_heads=2, num_local_experts=4, **sizes)
    folder = dressed(MixtralForCausalLM(config), tmp_path)
    load(str(folder), "float32", False)
    with pytest.raises(
        UserError, match=r"lacks a part of a tensor .*\(model\.layers\.1\.block_sparse_moe\.experts\.2\.w1\.weight\)"
    ):
        load(str(rewrite(folder, without("layers.1.block_sparse_moe.experts.2.w1"))), "float32", False)


def test_the_output_layer_of_a_flan_t5_is_its_own_or_refused(copy: Folders) -> None:
    """transformers ties it to the embedding where it is missing, whatever config.json says."""
    folder = edit(copy("t5"), "config.json", tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"lacks its output layer \(lm_head\.weight\)"):
        load(str(folder), "float32", False)
    rewrite(folder, lambda tensors: {**tensors, "lm_head.weight": 2 * tensors["shared.weight"]})
    model = load(str(folder), "float32", False)
    assert torch.equal(model.lm_head.weight, 2 * model.shared.weight)
    assert model.config.scale_decoder_outputs is False


def test_a_value_beyond_the_dtype_is_refused(copy: Folders) -> None:
    folder = rewrite(copy("llama"), beside(model__norm__weight=torch.full((32,), 1e5)))
    assert logits(folder).isfinite().all()
    with pytest.raises(UserError, match=r"NaN or infinity.*model\.norm\.weight.*wider model\.dtype"):
        load(str(folder), "float16", False)


def test_what_stays_on_the_disk_is_looked_at_too(copy: Folders) -> None:
    folder = rewrite(copy("llama"), beside(model__layers__1__mlp__up_proj__weight=torch.full((64, 32), torch.nan)))
    disk = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    with pytest.raises(UserError, match=r"NaN or infinity.*layers\.1\.mlp\.up_proj"):
        load(str(folder), "float32", False, {**disk, "model.norm": "cpu", "lm_head": "cpu"})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Bert", "Roberta", "Electra", "XLNet"])
def test_a_model_that_sees_what_follows_is_refused(name: str, tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if name == "XLNet":
        sizes = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    config = getattr(transformers, f"{name}Config")(vocab_size=345, **sizes)
    kind = getattr(transformers, "XLNetLMHeadModel" if name == "XLNet" else f"{name}ForMaskedLM")
    with pytest.raises(UserError, match="reads what follows a token, so it writes no text"):
        load(str(dressed(kind(config), tmp_path)), "float32", False)


def test_an_adapter_is_refused(copy: Folders) -> None:
    folder = edit(copy("llama"), "adapter_config.json", base_model_name_or_path="elsewhere")
    with pytest.raises(UserError, match=r"holds an adapter.*Merge"):
        load(str(folder), "float32", False)


@pytest.mark.parametrize("size", [0, 5000])
def test_a_pickle_that_is_cut_short_is_said(copy: Folders, size: int) -> None:
    folder = rewrite(copy("llama"), lambda tensors: tensors, pickled=True)
    (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[:size])
    with pytest.raises(UserError, match="cannot be loaded"):
        ran(local_engine(folder, "x", GREEDY), PROMPT)


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": "two"}, {"num_attention_heads": 0}, {"hidden_size": []}], ids=str
)
def test_a_configuration_that_makes_no_sense_is_said(copy: Folders, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="cannot be loaded: "):
        ran(local_engine(edit(copy("llama"), "config.json", **changes), "x", GREEDY), PROMPT)


# ---- Settings saved beside the weights

SETTINGS: dict[str, Any] = {
    "repetition_penalty": 1.7, "no_repeat_ngram_size": 1, "bad_words_ids": [[5], [6]],
    "suppress_tokens": [*range(9, 200)],
    "begin_suppress_tokens": [*range(9, 300)], "forced_bos_token_id": 7, "forced_eos_token_id": 7, "min_length": 100,
    "min_new_tokens": 60, "num_beams": 3, "max_length": 9, "max_new_tokens": 1, "use_cache": False, "top_p": 0.1,
    "temperature": 9.0, "do_sample": True, "num_return_sequences": 2, "typical_p": 0.2, "penalty_alpha": 0.6,
    "stop_strings": ["a"], "length_penalty": 5.0, "guidance_scale": 3.0, "renormalize_logits": True,
    "exponential_decay_length_penalty": [1, 9.0], "encoder_no_repeat_ngram_size": 1, "max_time": 0.0,
    "sequence_bias": [[[5], 99.0]], "watermarking_config": None, "cache_implementation": "static",
    "return_dict_in_generate": True, "output_scores": True, "low_memory": True, "prompt_lookup_num_tokens": 3,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*cannot share a prefix")
@pytest.mark.parametrize("arch", ["falcon_alibi", "gpt2", "t5"])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_no_saved_setting_reaches_a_text(copy: Folders, kept: Folders, arch: str, file: str) -> None:
    expected = ran(local_engine(kept(arch), "x", GREEDY), PROMPT)
    folder = copy(arch)
    ids = json.loads((folder / "generation_config.json").read_text())
    ids = {name: value for name, value in ids.items() if name.endswith("token_id")}
    for name, value in SETTINGS.items():
        if file == "config.json":  # where old checkpoints have them
            (folder / "generation_config.json").unlink(missing_ok=True)
            edit(folder, file, **ids, **{name: value})
        else:
            (folder / file).write_text(json.dumps({**ids, name: value}))
        model = load(str(folder), "float32", False)
        extra = {**model.generation_config.to_diff_dict()}
        assert {k: v for k, v in extra.items() if k != "transformers_version"} == ids, name
        shutil.copy(kept(arch) / "config.json", folder)
    edit(folder, "config.json", **SETTINGS, **ids)
    assert ran(local_engine(folder, "x", GREEDY), PROMPT) == expected


@pytest.mark.filterwarnings("ignore:.*cannot share a prefix")
@pytest.mark.parametrize("arch", ["falcon_alibi", "gpt2", "t5"])
def test_how_a_model_was_once_run_changes_nothing(copy: Folders, kept: Folders, arch: str) -> None:
    expected = ran(local_engine(kept(arch), "x", GREEDY), PROMPT)
    folder = copy(arch)
    for changes in (
        {"use_cache": False, "return_dict": False, "dtype": "float16", "torch_dtype": "bfloat16"},
        {"output_hidden_states": True, "output_attentions": True, "attn_implementation": "eager"},
        {"_attn_implementation": "flash_attention_2"},
    ):
        edit(folder, "config.json", **changes)
        assert ran(local_engine(folder, "x", GREEDY), PROMPT) == expected, changes
        assert load(str(folder), "float32", False).dtype == torch.float32
        shutil.copy(kept(arch) / "config.json", folder)


def test_ids_of_special_tokens_are_taken_from_where_they_are(copy: Folders) -> None:
    folder = edit(copy("llama"), "generation_config.json", eos_token_id=[0, 7])
    assert load(str(folder), "float32", False).generation_config.eos_token_id == [0, 7]
    (folder / "generation_config.json").write_text("{}")
    edit(folder, "config.json", eos_token_id=[0, 9])
    assert load(str(folder), "float32", False).generation_config.eos_token_id == [0, 9]
    edit(folder, "generation_config.json", eos_token_id="</s>")
    with pytest.raises(UserError, match="eos_token_id='</s>' is no token id"):
        load(str(folder), "float32", False)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config.json is no JSON object"):
        load(str(folder), "float32", False)


def test_an_encoder_decoder_that_cannot_begin_says_so(copy: Folders) -> None:
    folder = edit(copy("t5"), "config.json", decoder_start_token_id=None)
    edit(folder, "generation_config.json", decoder_start_token_id=None)
    with pytest.raises(UserError, match=r"which token its decoder begins with\. Write decoder_start_token_id"):
        ran(local_engine(folder, "x", GREEDY), PROMPT)
    edit(folder, "config.json", decoder_start_token_id=0)
    assert ran(local_engine(folder, "x", GREEDY), PROMPT)


# ---- Tokenizers


def closing(begin: int | None, end: int | None) -> dict[str, Any]:
    """A post-processor that puts these tokens around a text."""

    def special(token: int | None) -> list[dict[str, Any]]:
        return [] if token is None else [{"SpecialToken": {"id": f"t{token}", "type_id": 0}}]

    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [*special(begin), text, *special(end)],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {f"t{t}": {"id": f"t{t}", "ids": [t], "tokens": [f"t{t}"]} for t in {begin, end} - {None}},
    }


@pytest.mark.parametrize(("begin", "end"), [(None, 0), (3, 0), (3, None), (3, 4), (0, 0)])
@pytest.mark.parametrize("arch", ["gpt2", "t5"])
def test_a_decoders_prompt_ends_with_its_text(
    copy: Folders, kept: Folders, arch: str, begin: int | None, end: int | None
) -> None:
    plain = local_engine(kept(arch), "x", GREEDY)
    closed = local_engine(edit(copy(arch), "tokenizer.json", post_processor=closing(begin, end)), "x", GREEDY)
    before, behind = [() if token is None else (token,) for token in (begin, end)]
    for text in ("What floats?", "x", f"it is over{END}", f"{END}{END}", "a "):
        prompt = replace(PROMPT, text=text)
        ids = plain.ids(prompt)
        assert closed.ids(prompt) == (*before, *ids, *(behind if arch == "t5" else ()))
        expected = [((*before, *full) if arch == "gpt2" else full) for full in plain.scored(prompt)]
        assert list(closed.scored(prompt)) == expected
    assert closed.budget(PROMPT) == plain.budget(PROMPT)


def sentencepiece_model(path: Path, **ids: int) -> Any:
    """A tiny model of sentencepiece's, trained and read."""
    import sentencepiece

    text = iter(["a mouse or a house floats on water, the correct one is a cork"] * 40)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=text, model_prefix=str(path.with_suffix("")), vocab_size=40, hard_vocab_limit=False,
        minloglevel=3, **ids,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def test_an_end_token_asked_for_in_the_tokenizers_configuration_closes_no_prompt(tmp_path: Path) -> None:
    sentencepiece_model(tmp_path / "tokenizer.model", unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    edit(tmp_path, "config.json", model_type="llama", vocab_size=400)
    edit(tmp_path, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", add_eos_token=True, add_bos_token=True)
    engine = local_engine(tmp_path, "x", GREEDY)
    end = engine.tokenizer.eos_token_id
    assert engine.tokenizer(PROMPT.text)["input_ids"][-1] == end
    assert engine.ids(PROMPT) == (*engine.tokenizer(PROMPT.text)["input_ids"][:-1],)
    assert not [full for full in engine.scored(PROMPT) if end in full]


HABITS = {
    "truncation": {"truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}},
    "padding": {
        "padding": {
            "strategy": {"Fixed": 99}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0,
            "pad_token": END,
        }
    },
    "dropout": {"model": {"dropout": 0.5}},
}  # fmt: skip


def habit(folder: Path, name: str) -> Path:
    """A tokenizer.json with something that its training needed."""
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    for key, value in HABITS[name].items():
        saved[key] = {**saved[key], **value} if key == "model" else value
    path.write_text(json.dumps(saved))
    return folder


@pytest.mark.parametrize("name", HABITS)
def test_ids_are_complete_unpadded_and_the_same_each_time(copy: Folders, kept: Folders, name: str) -> None:
    plain, folder = local_engine(kept("gpt2"), "x", GREEDY), habit(copy("gpt2"), name)
    counted = weights.tokenizer(Model(name="own", path=str(folder)))
    for _ in range(5):
        engine = local_engine(folder, "x", GREEDY)
        assert engine.ids(LONG) == plain.ids(LONG)
        assert engine.completion_key(LONG, 0) == plain.completion_key(LONG, 0)
        assert engine.likelihood_key(LONG) == plain.likelihood_key(LONG)
        assert tuple(counted.encode(LONG.text, add_special_tokens=False).ids) == plain.encode(LONG.text, False)


def test_a_sentencepiece_tokenizer_draws_nothing(tmp_path: Path) -> None:
    pieces = sentencepiece_model(tmp_path / "sentencepiece.bpe.model", bos_id=0, unk_id=1, eos_id=2, pad_id=-1)
    own = {pieces.id_to_piece(i): i + 1 for i in range(3, pieces.get_piece_size())}
    (tmp_path / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **own}))
    edit(tmp_path, "config.json", model_type="m2m_100", vocab_size=400)
    drawing = {"enable_sampling": True, "alpha": 0.1, "nbest_size": -1}
    edit(tmp_path, "tokenizer_config.json", tokenizer_class="M2M100Tokenizer", src_lang="en", sp_model_kwargs=drawing)
    assert len({local_engine(tmp_path, "x", GREEDY).ids(PROMPT) for _ in range(8)}) == 1


def test_what_a_tokenizers_configuration_says_of_lengths_and_chats_changes_no_ids(copy: Folders, kept: Folders) -> None:
    said = {
        "model_max_length": 4, "truncation_side": "left", "padding_side": "right", "truncation": True, "max_length": 4,
        "padding": "max_length", "pad_to_multiple_of": 8, "stride": 1, "chat_template": "{{ 'system: obey' }}",
    }  # fmt: skip
    folder = edit(copy("gpt2"), "tokenizer_config.json", **said)
    (folder / "chat_template.jinja").write_text("{{ 'system: obey' }}")
    assert local_engine(folder, "x", GREEDY).ids(LONG) == local_engine(kept("gpt2"), "x", GREEDY).ids(LONG)


def test_a_tokenizer_of_a_larger_model_is_refused(copy: Folders) -> None:
    folder = copy("llama")
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["model"]["vocab"]["zzz"] = size
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=rf"1 tokens of the tokenizer are beyond the {size} of config.json \('zzz'\)"):
        local_engine(folder, "x", GREEDY).completion_key(PROMPT, 0)


def test_a_padding_token_without_an_embedding_is_refused_where_a_prompt_has_it(copy: Folders, kept: Folders) -> None:
    folder = copy("llama")
    tokenizer = _tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    engine = local_engine(folder, "x", GREEDY)
    assert engine.ids(PROMPT) == local_engine(kept("llama"), "x", GREEDY).ids(PROMPT)
    with pytest.raises(UserError, match=r"makes token 345 \('\[PAD\]'\) of a prompt, and the model has 345"):
        engine.ids(replace(PROMPT, text="a [PAD] b"))


# ---- Windows


def seq2seq(name: str, **sizes: Any) -> Any:
    import transformers

    kinds = {"M2M100": "ForConditionalGeneration", "Marian": "MTModel"}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=345, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=0, bos_token_id=0, forced_eos_token_id=None, **sizes,
    )  # fmt: skip
    return getattr(transformers, f"{name}{kinds.get(name, 'ForConditionalGeneration')}")(config)


LEARNED = {
    "Bart": {"max_position_embeddings": 64},
    "Pegasus": {"max_position_embeddings": 64},
    "MBart": {"max_position_embeddings": 64},
    "Blenderbot": {"max_position_embeddings": 64},
    "LED": {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 32, "attention_window": 16},
}


@pytest.mark.parametrize("name", LEARNED)
def test_an_encoder_whose_positions_end_reads_the_end_of_a_prompt(name: str, tmp_path: Path) -> None:
    engine = local_engine(dressed(seq2seq(name, **LEARNED[name]), tmp_path), "x", GREEDY)
    edit(engine.folder, "tokenizer.json", post_processor=closing(3, 4))
    whole = engine.encode(LONG.prefix + LONG.text)
    assert engine.cut(LONG) == len(whole) - 64
    assert engine.ids(LONG) == (3, *whole[-63:])
    with pytest.warns(UserWarning, match=r"1 of 2 prompts are longer than the window of tiny \(64 tokens\)"):
        found = ran(engine, LONG, PROMPT)
    assert found[LONG.id].completions[0].n_tokens > 0
    long_option = replace(PROMPT, options=("a mouse " * 60,), continuations=("a mouse " * 60,))
    with pytest.raises(UserError, match=r"t/1: \d+ tokens follow the prompt .* takes (64|32) in all"):
        engine.job(long_option, (0,), True)


def test_relative_positions_do_not_end(copy: Folders) -> None:
    engine = local_engine(edit(copy("t5"), "config.json", n_positions=64, max_position_embeddings=64), "x", GREEDY)
    assert engine.windows == (None, None)
    assert engine.cut(LONG) == 0


def decoder(name: str) -> Any:
    """A decoder whose configuration calls or hides its window of 64 tokens in its own way."""
    import transformers as t

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"vocab_size": 345, "bos_token_id": 0, "eos_token_id": 0}
    if name == "gpt2":
        return t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **ends))
    if name == "roberta":  # its positions begin at 2, behind the padding token's
        roberta = {"intermediate_size": 64, "is_decoder": True, "pad_token_id": 1, "max_position_embeddings": 66}
        return t.RobertaForCausalLM(t.RobertaConfig(**sizes, **ends | roberta))
    if name == "mpt":
        return t.MptForCausalLM(t.MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=64, **ends))
    if name == "bloom":
        return t.BloomForCausalLM(t.BloomConfig(hidden_size=32, n_layer=2, n_head=4, seq_length=64, **ends))
    if name == "opt":
        opt = {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
        return t.OPTForCausalLM(t.OPTConfig(**sizes, **ends, **opt))
    text = {**sizes, **ends, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    return t.Gemma3ForConditionalGeneration(
        t.Gemma3Config(
            text_config={**text, "max_position_embeddings": 64},
            vision_config={**vision, "image_size": 28, "patch_size": 14},
            mm_tokens_per_image=4, image_token_index=340, boi_token_index=341, eoi_token_index=342,
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", ["gpt2", "roberta", "mpt", "bloom", "opt", "gemma3"])
def test_a_window_is_found_wherever_the_configuration_has_it(name: str, tmp_path: Path) -> None:
    engine = local_engine(dressed(decoder(name), tmp_path), "x", GREEDY)
    assert (engine.windows, engine.vocabulary) == ((64, 64), 345)
    longest = max(len(engine.ids(LONG)) + engine.budget(LONG), *(len(full) for full in engine.scored(LONG)))
    assert longest == 64
    whole = engine.encode(LONG.prefix + LONG.text)
    assert engine.ids(LONG) == whole[engine.cut(LONG) :]
    assert engine.cut(PROMPT) == 0
    with torch.no_grad():
        said = load(str(tmp_path), "float32", False)(torch.tensor([[*engine.ids(LONG), *[5] * engine.budget(LONG)]]))
    assert said.logits.shape[:2] == (1, len(engine.ids(LONG)) + engine.budget(LONG))


def test_what_the_tokenizer_puts_first_stays_first(copy: Folders, kept: Folders) -> None:
    folder = edit(copy("gpt2"), "tokenizer.json", post_processor=closing(3, None))
    long = replace(LONG, prefix=LONG.prefix * 5)
    engine, plain = local_engine(folder, "x", GREEDY), local_engine(kept("gpt2"), "x", GREEDY)
    assert engine.ids(PROMPT) == (3, *plain.ids(PROMPT))
    assert engine.cut(long) == plain.cut(long) + 1 > 1
    assert engine.ids(long) == (3, *plain.ids(long)[1:])
    assert engine.scored(long) == tuple((3, *full[1:]) for full in plain.scored(long))
    assert ran(engine, long)[long.id].completions[0].n_tokens > 0


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_an_option_that_leaves_no_room_for_a_prompt_is_refused(copy: Folders, arch: str) -> None:
    engine = local_engine(copy(arch), "x", GREEDY)
    options = ("a mouse or a house, " * 400,)
    for prompt in (replace(PROMPT, options=options), replace(PROMPT, continuations=options)):
        with pytest.raises(UserError, match=r"t/1: \d+ tokens follow the prompt of \d+, and tiny takes \d+ in all"):
            engine.completion_key(prompt, 0)


def test_prompts_that_lose_tokens_are_counted_once_a_cell(kept: Folders) -> None:
    engine = local_engine(kept("gpt2"), "x", GREEDY)
    long = [replace(LONG, id=f"t/{i}", prefix=LONG.prefix * i) for i in (3, 5)]
    asked = [Request(p, (0,), False) for p in (PROMPT, *long)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        list(engine.run(asked[:2], asked))
        list(engine.run(asked[:1]))
    lost = engine.cut(long[1])
    assert [str(each.message) for each in said] == [
        "2 of 3 prompts are longer than the window of tiny (512 tokens): "
        f"they lose up to {lost} tokens at their beginning."
    ]

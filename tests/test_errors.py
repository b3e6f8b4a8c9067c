"""Every mistake ends in a line that says what to do. The table of docs/errors.md is these cases.

`python -m tests.test_errors` writes it.
"""
# ruff: noqa: E501 - a table is read by line

from __future__ import annotations

import functools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file

from src import prepare
from src.base import conf, errors, grid
from src.base.errors import UserError
from src.base.files import ROOT, whole
from src.base.schema import Model
from src.cell.file import read_cell
from src.cell.store import Store
from src.engine.job import Request
from src.engine.start import engine_of
from src.question import examples
from src.question.prompts import Prompt
from src.source import pins, weights
from tests import inputs
from tests.completions import Served, serving
from tests.quantised import gguf_file
from tests.test_pipeline import made_up
from tests.tiny import local_engine, tiny

KEPT = "What came back is kept in .... No answer is stored for it, so the same command asks it again"
PAGE = ROOT / "docs/errors.md"
TASK = "analytic_entailment"


@dataclass(frozen=True)
class Case:
    """One wrong input. `wrong` makes it in a folder and returns what then meets it."""

    area: str
    what: str
    said: str  # the message; ... stands for what differs from place to place
    wrong: Callable[[Path], Callable[[], object]]

    @property
    def pattern(self) -> str:
        return ".*".join(map(re.escape, self.said.split("...")))


def composed(*words: str) -> Callable[[Path], Callable[[], object]]:
    """These words on the command line, composed and checked as `python -m src.run` does."""

    def act() -> object:
        grid.register()
        seen = grid.checked_overrides(words)
        with initialize_config_dir(str(conf.CONF), version_base="1.3"):
            return grid.compose_run(compose("config", overrides=seen))

    return lambda _: act


def params(change: Callable[[str], str] | bytes) -> Callable[[Path], Callable[[], object]]:
    """params.yaml with its text changed."""

    def wrong(place: Path) -> Callable[[], object]:
        path, text = place / "params.yaml", (ROOT / "params.yaml").read_text()
        path.write_bytes(change if isinstance(change, bytes) else change(text).encode())
        return lambda: grid.params(path)

    return wrong


def raw(content: bytes) -> Callable[[Path], Callable[[], object]]:
    """A raw task file with this content."""

    def wrong(place: Path) -> Callable[[], object]:
        task = conf.load_task(TASK)
        path = place / task.source / task.file
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return lambda: prepare.prepare(task, place)

    return wrong


def prepared(harm: Callable[[bytes], bytes], summary: bool = False) -> Callable[[Path], Callable[[], object]]:
    """A prepared task's file, harmed; `summary`: beside what says its sha256."""

    def wrong(place: Path) -> Callable[[], object]:
        (place / f"{TASK}.jsonl").write_bytes(harm(made_up(TASK).encode()))
        if summary:
            (place / examples.SUMMARY).write_text(f"task,sha256\n{TASK},{'0' * 64}\n")
        return lambda: examples.load(TASK, place)

    return wrong


def checkpoint(harm: Callable[[Path], object]) -> Callable[[Path], Callable[[], object]]:
    """A model's folder, harmed, then loaded as a run does."""

    def wrong(place: Path) -> Callable[[], object]:
        folder = shutil.copytree(whole_checkpoint(), place / "weights")
        harm(folder)
        return lambda: loaded(folder)

    return wrong


@functools.cache
def whole_checkpoint() -> Path:
    return tiny("llama", Path(tempfile.mkdtemp()))


def loaded(folder: Path) -> object:

    found, identity = weights.located(Model(name="mine", path=str(folder)))
    engine = local_engine(found, identity)
    return engine.tokenizer, engine.choice.load()


def served(finish: str, n_tokens: int, **how: object) -> Callable[[Path], Callable[[], object]]:
    """A server whose one answer ended like this, and how it is asked."""

    def bend(_: object, answer: dict[str, Any]) -> dict[str, Any]:
        ended = {**answer["choices"][0], "finish_reason": finish}
        return {**answer, "choices": [ended], "usage": {"prompt_tokens": 1, "completion_tokens": n_tokens}}

    def wrong(place: Path) -> Callable[[], object]:
        store = tempfile.mkdtemp()  # apart, because what came back is kept there

        def ask() -> object:
            with serving(Served(whole_checkpoint(), bend=bend)) as url:
                words = ("+model=llama_7b", "engine=openai", f"engine.base_url={url}", "engine.key=null")
                run = composed(*words, *(f"{key}={value}" for key, value in how.items()), f"store='{store}'")(place)()
                prompt = Prompt("t/0", "t/0", "", "What floats?", ("a cork",), (" a cork",), 0, "a cork")
                return list(engine_of(run).run([Request(prompt, (1,), False)]))  # type: ignore[arg-type]

        return ask

    return wrong


def edited(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def tensors(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def one_part(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    parts = {
        "model.norm.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


def two_kinds(folder: Path) -> None:
    pickled(folder)
    save_file({}, folder / "other.safetensors")


def encoder(folder: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=size, **sizes)).save_pretrained(folder)


def gguf(name: str, metadata: dict[str, Any]) -> Callable[[Path], Callable[[], object]]:
    """A GGUF file with this in its metadata, then located as a run does."""

    def wrong(place: Path) -> Callable[[], object]:
        gguf_file(place / name, metadata=metadata)
        return lambda: weights.located(Model(name="mine", path=name), place)

    return wrong


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def source(harm: Callable[[Path], object]) -> Callable[[Path], Callable[[], object]]:
    """A fetched file of conf/source/bigbench, harmed and checked."""

    def wrong(place: Path) -> Callable[[], object]:
        pinned = pins.load_source("bigbench", ROOT)
        name, sha256 = next(iter(pinned.files.items()))
        path = place / Path(name).name
        harm(path)
        return lambda: pins.check(pinned, path, sha256)

    return wrong


def a_file(place: Path) -> Path:
    (place / "file").write_text("")
    return place / "file"


def cut_cell(place: Path) -> Callable[[], object]:
    path = place / "model/a__b.jsonl"
    path.parent.mkdir()
    path.write_text('{"fingerprint": "0", "pref')
    return lambda: read_cell(path)


def stage_into_a_file(place: Path) -> Callable[[], object]:
    file = a_file(place)

    def act() -> None:
        with errors.disk_errors("prepare"), whole(file / "out.csv") as part:
            part.write_text("x")

    return act


def full_disk(place: Path) -> Callable[[], object]:
    def act() -> None:
        with errors.disk_errors("collect"), whole(place / "scores.csv") as part:
            part.write_text("half of what")
            Path("/dev/full").write_text("x" * 10**6)

    return act


def unreadable_segment(place: Path) -> Callable[[], object]:
    (place / "segment.jsonl").mkdir()  # root may read everything, but not a folder as a file
    return lambda: Store(place)


MODEL = "+model=gpt2"
AGAIN = "Write it anew: python -m src.config suite=pilot"
WHOLE = "Put a whole one there (config.json, the tokenizer's files, *.safetensors) or fetch it again: dvc repro fetch"
PREPARE = "Make it anew: dvc repro -f prepare"
SEEDS = "seeds are distinct whole numbers of 0 or more"
CASES = [
    Case("configuration", "no model", "Which model? Add +model=<name>. Known (conf/model/*.yaml): ...", composed()),
    Case("configuration", "unknown model", "Unknown model 'lama_7b'. Did you mean llama_7b...", composed("+model=lama_7b")),
    Case("configuration", "model without its plus", "model=gpt2 lacks its plus. Write +model=gpt2", composed("model=gpt2")),
    Case("configuration", "unknown task", "Unknown task 'gsm8'. Did you mean gsm8k?...", composed(MODEL, "task=gsm8")),
    Case("configuration", "unknown condition", "Unknown condition 'closed_fewer'. Did you mean closed_few...",
         composed(MODEL, "condition=closed_fewer")),
    Case("configuration", "unknown suite", "Unknown suite 'laptp'. Did you mean laptop?...", composed(MODEL, "suite=laptp")),
    Case("configuration", "unknown compat", "Unknown compat 'publishd'. Did you mean published?...",
         composed(MODEL, "compat=publishd")),
    Case("configuration", "unknown encoder", "Unknown encoder 'roberta'. Did you mean roberta_large?...",
         composed(MODEL, "encoder=roberta")),
    Case("configuration", "misspelt key", "Unknown key 'limt'. Did you mean limit...", composed(MODEL, "limt=3")),
    Case("configuration", "misspelt key of a model", "Unknown key of model 'pth'. Did you mean path...",
         composed(MODEL, "model.pth=/x")),
    Case("configuration", "misspelt key of tracking", "Unknown key of tracking 'url'. Did you mean uri?...",
         composed(MODEL, "tracking.url=x")),
    Case("configuration", "a word that is no override", "Cannot read '=='. Overrides look like limit=8 or +model=gpt2",
         composed("==")),
    Case("configuration", "negative limit", "limit=-1: limit is a whole number of 1 or more, or null for no bound",
         composed(MODEL, "limit=-1")),
    Case("configuration", "limit of 0", "limit=0: limit is a whole number of 1 or more...", composed(MODEL, "limit=0")),
    Case("configuration", "limit that is no number", "limit=all: limit is a whole number of 1 or more...",
         composed(MODEL, "limit=all")),
    Case("configuration", "a seed twice", f"seeds=[1, 1]: {SEEDS}...", composed(MODEL, "seeds=[1,1]")),
    Case("configuration", "a seed beyond 64 bits", f"seeds=[{2**70}]: {SEEDS}...", composed(MODEL, f"seeds=[{2**70}]")),
    Case("configuration", "no seeds", f"seeds=[]: {SEEDS}...", composed(MODEL, "seeds=[]")),
    Case("configuration", "tasks that are no list", f"tasks={TASK}: tasks is a list of distinct names...",
         composed(MODEL, f"tasks={TASK}")),
    Case("configuration", "no condition", "conditions=[]: conditions is a list of distinct names...",
         composed(MODEL, "conditions=[]")),
    Case("configuration", "several names where one is taken", "condition takes one name. Several: 'conditions=[...",
         composed(MODEL, "condition=[closed_zero,closed_few]")),
    Case("configuration", "null where a value is needed", "store=null: store needs a value. Leave the word out...",
         composed(MODEL, "store=null")),
    Case("configuration", "a path from a variable that is empty", "store= is empty, as where the shell does not know a variable. Write a path...",
         composed(MODEL, "store=")),
    Case("configuration", "a variable that is not set", "engine.base_url: ...'NO_SUCH_SERVER' not found... Set what it names (export NAME=...), or write the value itself",
         composed(MODEL, "engine.base_url=${oc.env:NO_SUCH_SERVER}")),
    Case("configuration", "wrong dtype", "model.dtype=float31: model.dtype is float32, float16 or bfloat16",
         composed(MODEL, "model.dtype=float31")),
    Case("configuration", "text for a number", "model: Value 'many'...", composed(MODEL, "model.parameters=many")),
    Case("configuration", "negative temperature",
         "generation.temperature=-1...: generation.temperature is a number of 0 (greedy) or more",
         composed(MODEL, "generation.temperature=-1")),
    Case("configuration", "top_k of 0", "generation.top_k=0: generation.top_k is a whole number of 1 or more",
         composed(MODEL, "generation.top_k=0")),
    Case("configuration", "a temperature that is no number",
         "generation.temperature=nan: generation.temperature is a number of 0 (greedy) or more",
         composed(MODEL, "generation.temperature=nan")),
    Case("configuration", "a seed with a fraction", f"seeds=[1.5]: {SEEDS}...", composed(MODEL, "seeds=[1.5]")),
    Case("configuration", "a limit with a fraction", "limit=1.5: limit is a whole number of 1 or more...",
         composed(MODEL, "limit=1.5")),
    Case("configuration", "a number of parameters below 0", "model.parameters=-1.0: model.parameters is the number of parameters, above 0...",
         composed(MODEL, "model.parameters=-1")),
    Case("configuration", "no task", "tasks=[]: tasks is a list of distinct names...", composed(MODEL, "tasks=[]")),
    Case("configuration", "unknown value of incomplete", "incomplete=maybe: incomplete is fail (...) or report (...)",
         composed(MODEL, "incomplete=maybe")),
    Case("params.yaml", "empty", f"params.yaml cannot be used: it is empty. {AGAIN}", params(b"")),
    Case("params.yaml", "no YAML", f"params.yaml cannot be used: ... {AGAIN}", params(b"suite: [pilot")),
    Case("params.yaml", "a key twice", f"params.yaml cannot be used: ...found duplicate key limit... {AGAIN}",
         params(lambda text: text + "limit: 3\n")),
    Case("params.yaml", "not UTF-8", f"params.yaml cannot be used: ... {AGAIN}", params(b"suite: \xff\xfe")),
    Case("params.yaml", "a key missing", f"params.yaml cannot be used: it lacks limit. {AGAIN}",
         params(lambda text: text.replace("limit: 16\n", ""))),
    Case("params.yaml", "misspelt key", "params.yaml cannot be used: Unknown key 'limits'. Did you mean limit...",
         params(lambda text: text.replace("limit: 16", "limits: 16"))),
    Case("params.yaml", "unknown suite", "params.yaml cannot be used: Unknown suite 'pilt'. Did you mean pilot...",
         params(lambda text: text.replace("suite: pilot", "suite: pilt"))),
    Case("params.yaml", "no model", f"params.yaml cannot be used: models=[]: models is a list of distinct names... {AGAIN}",
         params(lambda text: text.replace("models:\n- smollm2_135m_instruct\n", "models: []\n"))),
    Case("params.yaml", "a name that YAML reads as false",
         f"params.yaml cannot be used: models: False is no text to YAML. Put the name into quotation marks. {AGAIN}",
         params(lambda text: text.replace("models:\n- smollm2_135m_instruct\n", "models: [no]\n"))),
    Case("params.yaml", "a name that YAML reads as a number",
         f"params.yaml cannot be used: models: 7 is no text to YAML. Put the name into quotation marks. {AGAIN}",
         params(lambda text: text.replace("models:\n- smollm2_135m_instruct\n", "models: [007]\n"))),
    Case("params.yaml", "alpha of 5", f"params.yaml cannot be used: alpha=5: alpha is a number between 0 and 1... {AGAIN}",
         params(lambda text: text.replace("alpha: 0.05", "alpha: 5"))),
    Case("data", "raw file missing", f"{TASK}: ... is missing. Make it: dvc repro fetch@bigbench",
         lambda place: lambda: prepare.prepare(conf.load_task(TASK), place)),
    Case("data", "wrong hash", "bigbench: ... has sha256 ..., conf/source/bigbench.yaml expects ... fetch it again.",
         source(lambda path: path.write_text("{}"))),
    Case("data", "wrong count", f"{TASK}: ... holds 0 examples, conf/task/{TASK}.yaml says 70. Fetch it again: dvc repro -f ...",
         raw(b'{"examples": []}')),
    Case("data", "empty file", f"{TASK}: ... cannot be read as bigbench (...). Fetch it again: dvc repro -f fetch@bigbench...",
         raw(b"")),
    Case("data", "not UTF-8", f"{TASK}: ... cannot be read as bigbench (UnicodeDecodeError...). Fetch it again: ...",
         raw(b'{"examples": [{"input": "\xff\xfe"}]}')),
    Case("data", "another format", f"{TASK}: ... cannot be read as bigbench (KeyError: 'examples'). Fetch it again: ...",
         raw(b'{"rows": []}')),
    Case("data", "task not prepared", f"... is missing: the task {TASK} is not prepared. Make it: dvc repro prepare",
         lambda place: lambda: examples.load(TASK, place)),
    Case("data", "prepared task cut short", f"... is not whole (...). {PREPARE}", prepared(lambda text: text[:-40])),
    Case("data", "prepared task edited", f"... was edited: its sha256 is not that of .... {PREPARE}",
         prepared(lambda text: text.replace(b"sinks", b"swims"), summary=True)),
    Case("data", "prepared task without a test item", f"... holds no test item. {PREPARE}", prepared(lambda text: b"")),
    Case("data", "a cell's file cut short", "... is not a whole cell (...). Make it anew: dvc repro -f infer@model",
         cut_cell),
    *(Case(*entry) for entry in inputs.DATA),
    Case("model folder", "no such folder", "mine: model.path=... is no folder. Point it to one with *.safetensors, or to a *.gguf file.",
         lambda place: lambda: loaded(place / "nowhere")),
    Case("model folder", "no config.json", f"... holds no config.json, so no checkpoint. {WHOLE}",
         checkpoint(lambda folder: (folder / "config.json").unlink())),
    Case("model folder", "config.json that is no JSON", f"... cannot be loaded: ... {WHOLE}",
         checkpoint(lambda folder: (folder / "config.json").write_text("{"))),
    Case("model folder", "no weights", "mine: ... holds no *.safetensors or *.bin. Convert the checkpoint first.",
         checkpoint(lambda folder: (folder / "model.safetensors").unlink())),
    Case("model folder", "weights cut short", f"... cannot be loaded: Error while deserializing header... {WHOLE}",
         checkpoint(lambda folder: os.truncate(folder / "model.safetensors", 1000))),
    Case("model folder", "no tokenizer", f"... cannot be loaded: ... {WHOLE}", checkpoint(no_tokenizer)),
    Case("model folder", "a pickle (*.bin) that holds code", f"... cannot be loaded: ... {WHOLE}", checkpoint(pickled)),
    Case("model folder", "needs code of its own",
         "... needs code that comes with the checkpoint. Read it; where you trust it: model.trust_remote_code=true",
         checkpoint(lambda folder: edited(folder, model_type="own", auto_map={"AutoConfig": "c.C"}))),
    Case("model folder", "unknown architecture", f"... cannot be loaded: ... model type `own` ... {WHOLE}",
         checkpoint(lambda folder: edited(folder, model_type="own"))),
    Case("model folder", "half of the layers missing", f"... is no whole LlamaForCausalLM: it lacks 9 of 21 tensors (model.layers.1...). {WHOLE}",
         checkpoint(lambda folder: tensors(folder, lambda held: {k: v for k, v in held.items() if "layers.1." not in k}))),
    Case("model folder", "one part of split weights", f"... lacks 1 of its 2 weight files (model-00002-of-00002.safetensors). {WHOLE}",
         checkpoint(one_part)),
    Case("model folder", "tensors of a compiled model",
         "... is no whole LlamaForCausalLM: ...Each name begins with '_orig_mod.': save the tensors again without it",
         checkpoint(lambda folder: tensors(folder, lambda held: {f"_orig_mod.{k}": v for k, v in held.items()}))),
    Case("model folder", "NaN in a tensor",
         f"... holds NaN or infinity in 1 of its tensors (model.norm.weight). {WHOLE}, or take a wider model.dtype: float16 ends at 65504",
         checkpoint(lambda folder: tensors(folder, lambda held: held | {"model.norm.weight": held["model.norm.weight"] / 0}))),
    Case("model folder", "config.json of another size",
         "... is no whole LlamaForCausalLM: the shape of 2 is another (lm_head.weight: (...) in the file, (999, 32) by the configuration, ...",
         checkpoint(lambda folder: edited(folder, vocab_size=999))),
    Case("model folder", "a tokenizer of a larger model",
         "...: 5 tokens of the tokenizer are beyond the 340 of config.json (...). Put the model's own tokenizer there",
         checkpoint(lambda folder: edited(folder, vocab_size=340))),
    Case("model folder", "an adapter", "... holds an adapter, whose base model lies elsewhere. Merge the two and save the whole",
         checkpoint(lambda folder: (folder / "adapter_config.json").write_text("{}"))),
    Case("model folder", "weights of several kinds",
         "... has weights of several kinds or in other places (other.safetensors, pytorch_model.bin). Leave one kind in the folder itself: ...",
         checkpoint(two_kinds)),
    Case("model folder", "a model that reads both ways",
         "...: BertLMHeadModel reads what follows a token, so it writes no text. Take a decoder or an encoder-decoder",
         checkpoint(encoder)),
    Case("model folder", "generation_config.json that is no JSON", f".../generation_config.json is no JSON object. {WHOLE}",
         checkpoint(lambda folder: (folder / "generation_config.json").write_text("{"))),
    Case("model folder", "an option that merges with the whole prompt",
         "t/0: an option has no token of its own, or merges with the whole prompt in the tokens of tiny, so nothing predicts it. Leave the likelihoods out: generation.likelihood=false",
         lambda place: lambda: local_engine(whole_checkpoint()).scored(Prompt("t/0", "g", "", "m", ("a",), ("ouse",), 0, "a"))),
    Case("model folder", "one part of a split GGUF file",
         "... is part 1 of 3 of a split GGUF file. The others: own-00002-of-00003.gguf, own-00003-of-00003.gguf. Join them (llama-gguf-split --merge ...) and point model.path to the whole file",
         gguf("own-00001-of-00003.gguf", {"split.no": 0, "split.count": 3})),
    Case("model folder", "a GGUF file with a rotary scale that transformers does not read",
         "... says what transformers does not read (rope.scaling.factor=4.0, rope.scaling.type=yarn). Get it again, or one of another kind, ...",
         gguf("own.gguf", {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0})),
    Case("server", "an answer that was filtered",
         f"... answered t/0 with what is no answer: finish_reason content_filter. {KEPT}", served("content_filter", 1)),
    Case("server", "an answer cut shorter than asked",
         f"... answered t/0 with what is no answer: it was cut at 1 tokens and not at the ... that were asked for. {KEPT}",
         served("length", 1)),
    Case("server", "a tolerance of 0", "engine.agree_nats=0...: engine.agree_nats is nats, a number above 0...",
         served("stop", 1, **{"engine.agree_nats": 0})),
    Case("store", "cannot be read", "The example store ... cannot be read: ... Check its permissions.", unreadable_segment),
    Case("store", "cannot be written", "The example store ... cannot be written: ... Make room or mend its permissions...",
         lambda place: put_into(a_file(place) / "store")),
    Case("disk", "an out whose folder is a file", "prepare: ... Free space or mend it, then run again: nothing half-...",
         stage_into_a_file),
    Case("disk", "full", "collect: No space left on device (...). Free space or mend it, then run again: nothing half-...",
         full_disk),
]  # fmt: skip


def put_into(folder: Path) -> Callable[[], object]:
    return lambda: Store(folder).put({"0" * 64: {"text": "x"}})


@dataclass(frozen=True)
class Process:
    """A command in a copy of the checkout whose path has spaces and umlauts. `prepare` makes the surroundings."""

    area: str
    what: str
    said: str
    words: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda _: None
    env: Callable[[Path], dict[str, str]] = lambda _: dict(os.environ)
    wrap: tuple[str, ...] = ()  # what runs the command
    limit: int | None = None  # bytes a file may grow to (RLIMIT_FSIZE)


def without(*names: str) -> Callable[[Path], dict[str, str]]:
    return lambda _: {key: value for key, value in os.environ.items() if key not in names}


def write(name: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda tree: (tree / name).write_text(change((tree / name).read_text() if (tree / name).exists() else ""))


def shallow(tree: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (
        ["init", "-q"],
        ["commit", "-q", "--allow-empty", "-m", "one"],
        ["commit", "-q", "--allow-empty", "-m", "two"],
    ):
        subprocess.run([*git, *words], cwd=tree, check=True)
    subprocess.run([*git, "clone", "-q", "--depth", "1", tree.as_uri(), str(tree / "clone")], check=True)
    shutil.copytree(tree / "src", tree / "clone/src")


def can_remount() -> bool:
    """Whether a folder can be made read-only even for root."""
    tried = ["unshare", "-m", "true"]
    return shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True).returncode == 0


GIT_STATE = "from src.lab.runs import git_state; print(git_state())"
READ_ONLY = (
    "unshare",
    "-m",
    "sh",
    "-c",
    'mount --bind . . && mount -o remount,ro,bind . && cd "$PWD" && exec "$@"',
    "sh",
)
ENDS = [
    Process("process", "misspelt model", "error: Unknown model 'lama_7b'. Did you mean llama_7b...",
            ("src.run", "+model=lama_7b")),
    Process("process", "params.yaml with a key twice", "error: params.yaml cannot be used: ...duplicate key limit...",
            ("src.prepare",), write("params.yaml", lambda text: text + "limit: 3\n")),
    Process("process", "no cell to collect", "error: data/outputs holds no cell. Make them: dvc repro infer",
            ("src.collect",)),
    Process("process", "unknown suite", "error: Unknown suite 'laptp'. Did you mean laptop?...", ("src.config", "suite=laptp")),
    Process("process", "raw data missing", "error: ...analytic_entailment: ... is missing. Make it: dvc repro fetch@bigbench...",
            ("src.prepare",)),
    Process("process", "terms that nobody accepted", "error: gemma3_270m comes under the Gemma Terms of Use (...), which bind ... To "
            "accept them: ACCEPT_TERMS=gemma python -m src.fetch gemma3_270m", ("src.fetch", "gemma3_270m")),
    Process("process", "a reference suite that was not run", "error: data/pair/scores.parquet is missing. Make it: ...",
            ("src.verify", "--reference", "pair")),
    Process("disk", "full while params.yaml is written", "error: params.yaml: File too large (...). Free space or mend it...",
            ("src.config", "suite=paper"), limit=100),
    Process("environment", "read-only checkout", "error: params.yaml: Read-only file system (...). Free space or mend it...",
            ("src.config", "suite=paper"), wrap=READ_ONLY),
    Process("environment", "foreign mlflow.db", "error: mlflow.db cannot be opened: ... Move it away: the next run begins another",
            ("src.tracking",), write("mlflow.db", lambda _: "another program's")),
]  # fmt: skip
WORKS = [
    Process("works", "a path with spaces and umlauts", "suite pilot: ...", ("src.plan",)),
    Process("works", "params.yaml with CRLF", "suite pilot: ...", ("src.plan",),
            lambda tree: (tree / "params.yaml").write_bytes((tree / "params.yaml").read_bytes().replace(b"\n", b"\r\n"))),
    Process("works", "huge limit", "suite pilot: ...", ("src.plan", f"limit={10**30}")),
    Process("works", "HOME unset", "suite pilot: ...", ("src.plan",), env=without("HOME")),
    Process("works", "no tool on PATH, git neither", "...'git_commit': 'unknown'...", ("-c", GIT_STATE),
            env=lambda tree: {**os.environ, "PATH": str(tree)}),
    Process("works", "shallow clone", "...'git_commit': '...", ("-c", "import os; os.chdir('clone'); " + GIT_STATE), shallow),
]  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the checkout without data."""
    place = tmp_path / "a checkout with späces"
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", place)
    (place / "data/published").mkdir(parents=True)
    shutil.copy(conf.EXEMPLARS, place / "data/published")
    return place


def ran(case: Process, tree: Path) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if case.limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (case.limit, case.limit))

    module = () if case.words[0] == "-c" else ("-m",)
    command = [*case.wrap, sys.executable, *module, *case.words]
    env = {**case.env(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=tree, env=env, capture_output=True, text=True, timeout=120, preexec_fn=limited, check=False
    )


@pytest.mark.parametrize("case", ENDS, ids=lambda case: f"{case.area}: {case.what}")
def test_a_process_ends_with_what_to_do(case: Process, tree: Path) -> None:
    """Exit code not 0, one short block on stderr, no traceback, and the checkout as it was."""
    if case.wrap and not can_remount():
        pytest.skip("no folder can be made read-only here (unshare -m)")
    case.prepare(tree)
    before = content(tree)
    done = ran(case, tree)
    assert done.returncode not in (0, None)
    assert re.match(Case("", "", case.said, composed()).pattern, done.stderr, re.DOTALL), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert content(tree) == before


@pytest.mark.slow
@pytest.mark.parametrize("case", WORKS, ids=lambda case: case.what)
def test_what_may_be_odd_works(case: Process, tree: Path) -> None:
    case.prepare(tree)
    done = ran(case, tree)
    assert done.returncode == 0, done.stderr
    assert re.match(Case("", "", case.said, composed()).pattern, done.stdout, re.DOTALL), done.stdout


def content(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_there_are_a_hundred_wrong_inputs() -> None:
    assert len(CASES) + len(ENDS) >= 100
    assert len({(case.area, case.what) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.area}: {case.what}")
def test_a_wrong_input_is_answered_with_what_to_do(case: Case, tmp_path: Path) -> None:
    """Said as the table has it, in a short block, and nothing was written."""
    place = tmp_path / "a place with späces"
    place.mkdir()
    act = case.wrong(place)
    before = content(place)
    with pytest.raises(UserError) as told:
        act()
    said = str(told.value)
    assert re.fullmatch(case.pattern, said, re.DOTALL) or re.match(case.pattern, said, re.DOTALL), said
    assert len(said.splitlines()) <= 8
    assert "Traceback" not in said
    assert content(place) == before


def test_the_page_is_this_table() -> None:
    """Write it anew: python -m tests.test_errors."""
    assert PAGE.read_text() == page()


def page() -> str:
    """docs/errors.md."""

    def row(case: Case | Process) -> str:
        said = case.said.replace("|", "\\|").replace(str(2**70), "2**70")
        return f"| {case.area} | {case.what} | `{said}` |"

    head = ["| where | what | message |", "|---|---|---|"]
    return "\n".join(
        [
            "# Errors",
            "",
            "What goes wrong, and what is then said: one line or a short block, the remedy in it, exit code not 0, no",
            "traceback, nothing half-written. `...` stands for what differs from place to place. Each row is a test of",
            "[tests/test_errors.py](../tests/test_errors.py); `python -m tests.test_errors` writes this page from it.",
            "",
            *head,
            *map(row, (*CASES, *ENDS)),
            "",
            "What may be odd and works: " + "; ".join(case.what for case in WORKS) + ".",
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())

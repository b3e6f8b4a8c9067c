"""Every model's configuration, and the paper's architectures through the whole pipeline: run, MLflow, scores, report.

The checkpoints are tiny and random; nothing of them leaves a temporary folder. docs/models.md is made from this file:
`python -m tests.test_models`.
"""

import csv
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from src import audit, collect, plan, report, run, stats
from src.base import conf, grid
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.grid import composed, composed_params, register
from src.base.schema import Generation, Model
from src.engine.job import Request
from src.question.prompts import Prompt
from src.source import weights
from tests import members
from tests.engine.test_architectures import section_of
from tests.engine.test_local import ARCHITECTURES
from tests.quantised import gguf_file, weights_of
from tests.tiny import local_engine, tiny

PAGE = ROOT / "docs/models.md"
STANDS_FOR = {  # a tiny checkpoint and the model of conf/model in whose place it is run
    "gpt2": "gpt2", "gptj": "gptj_6b", "falcon_7b": "falcon_7b", "falcon_40b": "falcon_40b", "llama": "llama_7b",
    "gpt_neox": "pythia_70m", "t5": "t5_small",
}  # fmt: skip
HEAD = (
    "model", "from", "million parameters", "dtype", "GB", "base twin", "licence", "gate",
    "composes", "pipeline as", "parity", "weights run",
)  # fmt: skip
INTRODUCTION = """# Models

The table has every model of conf/model and what was proven of it here. This machine has only the weights
that the last column names.

- **composes**: `python -m src.run +model=<name> --cfg job` makes a whole, typed configuration.
- **pipeline as**: a tiny random checkpoint of its architecture went through run, MLflow, scores and report in the place
  of the model named (`python -m pytest -m slow tests/test_models.py`).
- **parity**: greedy completions of that checkpoint equal `model.generate`, log-likelihoods a plain forward pass
  (`python -m pytest tests/engine/test_local.py`).
- **weights run**: the real weights were run, and the hashes of what they said are in reports/hashes.

Whatever the table says, a model is proven anew where it is run: before it answers, the engine compares it with a plain
forward pass, and the cell keeps what was compared. Nothing else is claimed: no other weights were run, no GPU, no
`float16`. GB is parameters x bytes of the dtype, without caches. A revision is shown by 12 of its 40 digits. If a model
has none, the first download writes it into conf/revisions.yaml, and a run refuses to mix two revisions.
`python -m tests.test_models` writes this page.
"""
TASKS = ("logical_deduction", "social_iqa")
CONDITIONS = ("closed_few", "closed_adv_zero")
BEGINS = {  # how the names of an architecture's models begin
    "gpt2": "gpt2", "gptj": "gptj", "gpt_neox": "pythia", "falcon_40b": "falcon_40b", "falcon_7b": "falcon_7b",
    "t5": ("t5", "flan_t5"), "llama": ("llama", "alpaca", "smollm2"),
    "gemma3": "gemma3",
}  # fmt: skip


def architecture(model: Model) -> str | None:
    """The tiny checkpoint that has this model's architecture; none for one behind an API."""
    return None if model.api else next(arch for arch, begin in BEGINS.items() if model.name.startswith(begin))


# ---- configurations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", members.models(), ids=lambda model: model.name)
def test_a_models_configuration_says_what_a_run_and_a_reader_need(model: Model) -> None:
    assert model.hub or model.source or model.api, "where its weights come from"
    assert model.dtype in ("float32", "float16", "bfloat16")
    assert model.parameters > 1e7
    assert model.licence or model.gate, "its licence, or why none is known"
    if model.twin:
        base = conf.load("model", model.twin, Model)
        assert (model.tuned, base.tuned) == (True, False)
        assert (model.family, model.parameters) == (base.family, base.parameters)
    revision = weights.pinned(model, ROOT) if model.hub else None
    assert revision is None or (len(revision) == 40 and int(revision, 16) >= 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llama_30b", "Meta's licence binds whoever uses"),
        ("alpaca_7b", "a single-author upload under Meta's LLaMA licence"),
        ("gpt2_it", "a single-author upload"),
        ("gpt2_xl_it", "a single-author upload"),
    ],
)
def test_who_cannot_get_the_weights_reads_why(name: str, said: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=said):
        weights.located(conf.load("model", name, Model), tmp_path)


# ---- the whole pipeline ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory):
    """A project in which each architecture has answered the same four cells; stats, audit and report are made of it."""
    root = tmp_path_factory.mktemp("architectures")
    (root / "data").mkdir()
    for name in ("conf", "dvc.yaml", "data/published", "data/tasks", "data/raw"):
        (root / name).symlink_to(ROOT / name)
    register()
    grid = {"models": list(STANDS_FOR.values()), "tasks": list(TASKS), "conditions": list(CONDITIONS), "limit": 4}
    params = composed_params(["suite=pilot"]) | grid
    (root / "params.yaml").write_text(OmegaConf.to_yaml(params))
    for arch, name in STANDS_FOR.items():
        words = [
            f"+model={name}", f"model.path='{tiny(arch, root / 'weights' / arch)}'", "model.weights=random",
            f"tasks=[{','.join(TASKS)}]", f"conditions=[{','.join(CONDITIONS)}]", "limit=4", "seeds=[2266,105]",
            "model.tasks=null", f"data='{root / 'data/tasks'}'", f"store='{root / 'data/store'}'",
            f"out='{root / 'data/outputs' / name}'",
            f"tracking.uri='sqlite:///{root / 'runs.db'}'", "tracking.system_metrics=false",
        ]  # fmt: skip
        assert run.execute(composed(words)) == 0, name
    collect.collect(root / "data/outputs").to_parquet(root / "data/scores.parquet", index=False)
    stats.run(root)
    (root / "data/audit").mkdir()
    for name, frame in audit.audit_frames(root, stats.read_setting(root)).items():
        frame.to_parquet(root / f"data/audit/{name}.parquet", index=False)
    report.build(root)
    yield root
    shutil.rmtree(root / "weights")


@pytest.mark.slow
def test_every_architecture_goes_through_the_whole_pipeline(root) -> None:
    import pandas as pd

    scores = pd.read_parquet(root / "data/scores.parquet")
    assert set(scores["model"]) == set(STANDS_FOR.values())
    assert len(scores) == len(STANDS_FOR) * len(TASKS) * len(CONDITIONS) * 4 * 2  # examples, seeds
    own = pd.read_csv(root / "reports/tables/own_runs.csv")
    found = set(map(tuple, own.loc[own["weights"] == "random", ["model", "task", "prompt"]].to_numpy()))
    assert found == {(m, t, p) for m in STANDS_FOR.values() for t in TASKS for p in ("closed", "closed_adv")}
    page = (root / "reports/index.html").read_text()
    assert all(name in page for name in STANDS_FOR.values())


@pytest.mark.slow
def test_random_weights_are_in_an_experiment_of_their_own(root) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'runs.db'}")
    random = client.get_experiment_by_name("emergence-audit (random)")
    assert client.get_experiment_by_name("emergence-audit") is None
    cells = client.search_runs([random.experiment_id], "tags.kind = 'cell'", max_results=1000)
    assert len(cells) == len(STANDS_FOR) * len(TASKS) * len(CONDITIONS)
    assert {each.info.status for each in cells} == {"FINISHED"}


# ---- weights that lie elsewhere ---------------------------------------------------------------------


SPREAD = {  # the second layer on another device than the first: here the disk stands for a second GPU
    "llama": {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
              "model.norm": "cpu", "lm_head": "cpu"},
    "t5": {"shared": "cpu", "encoder": "cpu", "decoder.embed_tokens": "cpu", "decoder.dropout": "cpu", "lm_head": "cpu",
           "decoder.final_layer_norm": "cpu", "decoder.block.0": "cpu", "decoder.block.1": "disk"},
}  # fmt: skip


@pytest.mark.parametrize("arch", ["llama", "t5"])
@pytest.mark.filterwarnings("ignore:.*cannot share a prefix")
def test_a_device_map_changes_no_answer(arch: str, tmp_path) -> None:
    folder = tiny(arch, tmp_path)
    asked = [
        Request(Prompt(n, n, "What floats? ", f"A cork, case {n} ", ("a", "b"), (" a", " b"), 0, "a"), (1, 2), True)
        for n in "123"
    ]
    engines = [
        local_engine(folder, "x", Generation(temperature=1.0), device_map=m) for m in (None, "auto", SPREAD[arch])
    ]
    whole, auto, several = ({r.prompt_id: r for batch in engine.run(asked) for r in batch} for engine in engines)
    assert whole == auto
    for name, found in several.items():
        assert found.completions == whole[name].completions
        assert found.likelihood.logprob == pytest.approx(whole[name].likelihood.logprob, rel=1e-5)


def test_a_damaged_gguf_is_said_and_leaves_nothing(tmp_path) -> None:
    (tmp_path / "own.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        weights.located(Model(name="own", path="own.gguf"), tmp_path)
    assert not [*(tmp_path / weights.GGUF).iterdir()]


OWN = Model(name="own", path="own.gguf")


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_a_gguf_file_becomes_its_model_once(arch: str, tmp_path, monkeypatch) -> None:
    from transformers import AutoModelForCausalLM

    gguf_file(tmp_path / "own.gguf", arch)
    folder, identity = weights.located(OWN, tmp_path)
    ids, made = torch.arange(3, 60)[None], AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(made(ids).logits, weights_of(arch)(ids).logits)
    assert getattr(made.config, "layer_types", None) == getattr(weights_of(arch).config, "layer_types", None)
    assert getattr(made.config, "sliding_window", None) == (16 if arch == "gemma3" else None)
    monkeypatch.setattr(weights, "dequantise", lambda *_: pytest.fail("dequantised again"))
    assert weights.located(OWN, tmp_path) == (folder, identity)


def test_a_linear_rotary_scale_of_a_gguf_file_is_kept(tmp_path) -> None:
    gguf_file(tmp_path / "own.gguf", "gemma3", {**LINEAR, "gemma3.rope.scaling.factor": 8.0})
    rope = json.loads((weights.located(OWN, tmp_path)[0] / "config.json").read_text())["rope_parameters"]
    assert rope["full_attention"] == {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    assert rope["sliding_attention"]["rope_type"] == "default"


def only(part: str, change):
    return lambda held: {name: change(array) if part in name else array for name, array in held.items()}


LINEAR = {"gemma3.rope.scaling.type": "linear"}
PARTS = {"split.no": 0, "split.count": 3}
YARN = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
EVERY_SECOND = {"gemma3.attention.sliding_window_pattern": [True, False] * 3}
NO_WINDOW = ("gemma3.attention.sliding_window",)
LOST = {  # what a GGUF file is like, and what is said of it
    "half": (
        "llama",
        {"tensors": lambda h: {n: a for n, a in h.items() if "blk.1." not in n}},
        "lacks 9 of 21 tensors",
    ),
    "NaN": ("llama", {"tensors": only("output_norm", lambda a: a * np.nan)}, r"NaN or infinity .*model\.norm\.weight"),
    "another shape": ("llama", {"tensors": only("blk.0.attn_q", lambda a: a[:16])}, r"q_proj.*\(16, 32\) in the file"),
    "a layer more": ("llama", {"metadata": {"llama.block_count": 1}}, r"does not read \(blk\.1\."),
    "rotary factors": (
        "llama",
        {"tensors": lambda h: {**h, "rope_freqs.weight": 3 * np.ones(4)}},
        r"rope_freqs\.weight",
    ),
    "yarn": ("llama", {"metadata": YARN}, r"rope\.scaling\.type=yarn"),
    "a scale": ("llama", {"metadata": {"llama.logit_scale": 4.0}}, r"logit_scale=4\.0"),
    "a cap": ("gemma3", {"metadata": {"gemma3.final_logit_softcapping": 30.0}}, r"final_logit_softcapping=30\.0"),
    "other layers slide": ("gemma3", {"metadata": EVERY_SECOND}, "sliding_window_pattern"),
    "no window": ("gemma3", {"without": NO_WINDOW}, "no sliding window, where the configuration has 4096"),
    "a part": ("llama", {"metadata": PARTS}, r"part 1 of 3 .*own-00002-of-00003\.gguf, .*llama-gguf-split --merge"),
}


@pytest.mark.parametrize("what", LOST)
def test_a_gguf_file_that_would_lose_something_is_refused_and_leaves_nothing(what: str, tmp_path) -> None:
    arch, changes, said = LOST[what]
    name = "own-00001-of-00003.gguf" if what == "a part" else "own.gguf"
    gguf_file(tmp_path / name, arch, **changes)
    with pytest.raises(UserError, match=said):
        weights.located(Model(name="own", path=name), tmp_path)
    assert not [*(tmp_path / weights.GGUF).iterdir()]


def test_a_killed_dequantisation_leaves_nothing_that_is_believed(tmp_path) -> None:
    gguf_file(tmp_path / "own.gguf")
    code = (
        "import os, signal, sys; from pathlib import Path; from src.base.schema import Model\n"
        "from src.source import weights; whole = weights.dequantise\n"
        "def killed(file, into): whole(file, into); os.kill(os.getpid(), signal.SIGKILL)\n"
        "weights.dequantise = killed\n"
        "weights.located(Model(name='own', path='own.gguf'), Path(sys.argv[1]))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT).returncode == -signal.SIGKILL
    folder, _ = weights.located(OWN, tmp_path)
    assert [*(tmp_path / weights.GGUF).iterdir()] == [folder]


def test_a_folder_of_an_unchecked_dequantisation_is_made_anew(tmp_path) -> None:
    """A version that believed GGUF files left its folders under the same names."""
    gguf_file(tmp_path / "own.gguf")
    folder, identity = weights.located(OWN, tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / weights.CHECKED).unlink()
    (folder / "model.safetensors").write_bytes(b"random")
    assert weights.located(OWN, tmp_path) == (folder, identity)
    assert (folder / "model.safetensors").read_bytes() == whole


def test_what_lies_at_a_path_is_looked_at_and_not_read(tmp_path) -> None:
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    assert weights.on_disk(Model(name="own", path="own.gguf"), tmp_path) == tmp_path / "own.gguf"
    assert weights.on_disk(Model(name="own", path="none.gguf"), tmp_path) is None
    assert weights.tokenizer(Model(name="own", path="own.gguf"), tmp_path) is None


@pytest.mark.slow
def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path) -> None:
    """The GGUF that the main job fetches, as a user's own file: the same weights, the same words."""
    model = conf.load("model", "smollm2_135m_instruct", Model)
    folder, _ = weights.located(model, ROOT)
    (tmp_path / "own.gguf").symlink_to(next((ROOT / f"data/raw/{model.source}").glob("**/*.gguf")))
    own, identity = weights.located(Model(name="own", path="own.gguf"), tmp_path)
    assert identity.startswith("gguf:")
    assert (own / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert weights.located(Model(name="own", path="own.gguf"), tmp_path) == (own, identity)  # without converting again


# ---- the page -----------------------------------------------------------------------------------------


def page() -> str:
    """docs/models.md. Its section on architectures is left as it stands (tests/engine/test_architectures.py)."""
    real = {name for name in grid.params()["models"] if (ROOT / "reports/hashes/completions.csv").exists()}
    with (ROOT / "data/reference/pair.csv").open(encoding="utf-8") as file:
        real |= {line["model"] for line in csv.DictReader(file)}

    def row(model: Model) -> str:
        arch = architecture(model)
        revision = (weights.pinned(model, ROOT) or "")[:12] if model.hub else ""
        where = f"{model.hub}{f'@{revision}' if revision else ''}" if model.hub else plan.origin(model)
        memory = "" if model.api else f"{model.parameters * plan.BYTES[model.dtype] / 1e9:.1f}"
        proven = [
            "yes", STANDS_FOR.get(arch or "", ""), "yes" if arch in ARCHITECTURES else "",
            "yes" if model.name in real else "",
        ]  # fmt: skip
        size = f"{model.parameters / 1e6:,.0f}"
        return " | ".join(["", f"`{model.name}`", where, size, model.dtype, memory, model.twin or "",
                           model.licence or "", model.gate or "", *proven, ""]).strip()  # fmt: skip

    table = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *map(row, members.models())]
    return "\n".join([INTRODUCTION, *table, "", section_of(PAGE.read_text()), ""])


def test_the_page_is_what_was_proven() -> None:
    assert PAGE.read_text() == page()


if __name__ == "__main__":
    PAGE.write_text(page())

"""Every YAML of conf/ composes and is typed; mistakes are answered with what to do."""

import subprocess
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from src.base import conf, grid
from src.base.conf import CONF
from src.base.errors import UserError
from src.base.files import ROOT
from src.cell.file import fingerprint

MEMBERS = [(group, name) for group in ("model", "condition", "compat", "bertscore") for name in conf.known(group)]


@pytest.mark.parametrize(("group", "name"), MEMBERS)
def test_every_member_composes_under_its_own_name(group, name):
    assert conf.load(group, name, conf.SCHEMAS[group]).name == name


@pytest.mark.parametrize("group", sorted(set(conf.SCHEMAS) - {"generation"}))
def test_every_member_is_what_hydra_composes(group):
    names = conf.known(group)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        by_hydra = compose(overrides=[f"+{group}@all.{name}={name}" for name in names])["all"]
    assert {name: conf.composed(group, name) for name in names} == {name: by_hydra[name] for name in names}
    assert [list(conf.composed(group, name)) for name in names] == [list(by_hydra[name]) for name in names]


@pytest.mark.filterwarnings("ignore:In 'task/one'. Defaults list is missing")
@pytest.mark.parametrize("defaults", ["[base@_here_, _self_]", "[_self_, base@_here_]", "[base@_here_]"])
def test_a_defaults_list_is_merged_in_hydras_order(tmp_path, monkeypatch, defaults):
    (tmp_path / "task").mkdir()
    (tmp_path / "task/base.yaml").write_text("file: base\nwording: {closed: {gap: base}}\n")
    own = "file: own\nwording: {closed: {after_input: x}}\n"
    (tmp_path / "task/one.yaml").write_text(f"defaults: {defaults}\n{own}")
    monkeypatch.setattr(conf, "CONF", tmp_path)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert conf.composed("task", "one") == compose("task/one")["task"]


@pytest.mark.parametrize("name", conf.known("task"))
def test_every_task_composes_and_names_a_source(name):
    task = conf.load_task(name)
    assert task.name == name
    assert (CONF / "source" / f"{task.source}.yaml").exists()


def composed(*overrides):
    grid.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return grid.compose_run(compose("config", overrides=list(overrides)))


@pytest.mark.parametrize("suite", conf.known("suite"))
def test_every_suite_names_only_what_exists(suite):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = compose("params", overrides=[f"suite={suite}"])
    assert found.suite == suite
    for group in ("model", "task", "condition"):
        assert set(found[f"{group}s"]) <= set(conf.known(group))
    assert set(found.sources) <= set(conf.known("source"))


def test_the_paper_suite_is_the_papers_grid():
    run = composed("+model=gpt2", "suite=paper")
    assert len({c.task.name for c in run.cells}) == 22
    assert {c.condition.prompt for c in run.cells} == {"closed", "closed_adv", "open"}
    assert (run.seeds, run.limit) == ((2266, 105, 86379), None)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert len(compose("params", overrides=["suite=paper"]).models) == 20


def test_params_yaml_is_what_its_suite_composes_to():
    """`dvc exp run -S suite=...` writes params.yaml; a hand edit of a suite must not leave it behind."""
    committed = yaml.safe_load((ROOT / "params.yaml").read_text())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = compose("params", overrides=[f"suite={committed['suite']}"])
    assert committed == OmegaConf.to_container(found)


def test_task_and_condition_narrow_the_grid_and_limit_overrides_the_suite():
    run = composed("+model=gpt2", "suite=paper", "task=social_iqa", "condition=closed_few", "limit=8")
    assert [c.name for c in run.cells] == ["social_iqa/closed_few"]
    assert run.limit == 8


def test_seed_zero_is_a_seed():
    assert composed("+model=gpt2", "seeds=[0]").seeds == (0,)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "Add +model=<name>"),
        (["+model=gpt2", "limit=-1"], "1 or more"),
        (["+model=gpt2", "limit=0"], "1 or more"),
        (["+model=gpt2", "seeds=[1,1]"], "distinct"),
        (["+model=gpt2", "seeds=[-3]"], "0 or more"),
        (["+model=gpt2", "tasks=[social_iqq]"], "Did you mean social_iqa"),
        (["+model=gpt2", "conditions=[closed]"], "Did you mean closed_"),
        (["+model=gpt2", "+model.colour=red"], "colour"),
        (["+model=gpt2", "model.parameters=many"], "many"),
    ],
)
def test_what_cannot_be_run_is_said(overrides, said):
    with pytest.raises(UserError, match=said.replace("+", r"\+")):
        composed(*overrides)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+model=lama_7b"], "Did you mean llama_7b"),
        (["task=gsm8"], "Did you mean gsm8k"),
        (["condition=closed_fewer"], "Did you mean closed_few"),
        (["limt=3"], "Did you mean limit"),
        (["suite=papr"], "Did you mean paper"),
        (["condition=[closed_zero,closed_few]"], r"conditions=\[closed_zero,closed_few\]"),
        (["compat.tempate_leak=true"], "Unknown key of compat 'tempate_leak'. Did you mean template_leak"),
        (["+model=gpt2", "model.pth=/x"], "Did you mean path"),
        (["=="], "Overrides look like"),
    ],
)
def test_misspelt_words_get_near_misses(words, said):
    with pytest.raises(UserError, match=said):
        grid.checked_overrides(words)


def test_a_field_that_its_yaml_leaves_out_is_set_like_any_other():
    words = ["+model=gpt2", "--cfg", "job", "model.trust_remote_code=true", "task=rhyming", "condition=open_few"]
    assert grid.checked_overrides([*words, "compat.batch_budget=true"]) == [
        "+model=gpt2", "++model.trust_remote_code=true", "task=rhyming", "condition=open_few",
        "++compat.batch_budget=true", "--cfg", "job",
    ]  # fmt: skip
    command = [sys.executable, "-m", "src.run", *words, "compat.batch_budget=true"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "trust_remote_code: true" in done.stdout
    assert "batch_budget: true" in done.stdout


def test_a_users_mistake_ends_without_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "src.run", "+model=lama_7b"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr.startswith("error: Unknown model 'lama_7b'. Did you mean llama_7b")
    assert "Traceback" not in done.stderr


def test_the_fingerprint_moves_with_what_decides_a_score_and_with_nothing_else():
    def mark(*overrides, identity="a", prompts="p", data="d"):
        run = composed("+model=gpt2", "task=gsm8k", *overrides)
        return fingerprint(run, run.cells[0], {"identity": identity}, prompts, data)

    first = mark()
    assert first == mark("token_budget=99", "suite=paper")
    changed = [
        mark(identity="b"),
        mark(prompts="q"),
        mark(data="e"),
        mark("seeds=[0]"),
        mark("compat=published"),
        mark("generation.temperature=1.0"),
        mark("encoder=roberta_large"),
    ]
    assert len({first, *changed}) == len(changed) + 1

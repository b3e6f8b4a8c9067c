"""An odd claim is one line that names the file and the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from src.base.errors import UserError
from src.base.files import ROOT
from src.judgement.claims import OWN, TESTS, load_claims, written

CLAIM = {
    "question": "RQ1", "place": "Table 9", "test": "above", "rule": "a test", "unit": "accuracy",
    "says": {"if_yes": "yes"}, "statement": {"if_yes": "{item}: yes"}, "why": "{value:.1%}, {p_effect:p}",
}  # fmt: skip


def write(root: Path, **changes: object) -> Path:
    (root / "conf/claim").mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in {**CLAIM, **changes}.items() if value is not None}
    (root / "conf/claim/made.yaml").write_text(yaml.safe_dump(given))
    return root


def test_one_yaml_is_a_claim(tmp_path: Path):
    (claim,) = load_claims(write(tmp_path))
    assert claim.name == "made"
    assert not claim.two_sided
    assert written(claim, claim.why, {"value": 0.25, "p_effect": 0.0004}) == "25.0%, p < .001"
    assert written(claim, claim.why, {"value": 0.25, "p_effect": 0.5}) == "25.0%, p = .500"
    assert written(claim, claim.why, {"value": None, "p_effect": float("nan")}) == "–, –"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"statment": "x"}, "statment"),
        ({"rule": None}, "rule"),
        ({"test": "abov"}, "abov"),
        ({"says": {True: "yes"}}, "if_yes"),
        ({"says": {"if_yes": True}}, "no text"),
        ({"says": {"if_yes": "x", "if_no": "y"}}, "same keys"),
        ({"reply": 2026}, "reply is 2026"),
        ({"of": {"model": "x"}}, "told the wrong things"),
        ({"test": "exemplars_help"}, "told the wrong things"),
        ({"moves": {"of": "examples"}}, "moves needs"),
        ({"unit": "apples"}, "apples"),
        ({"question": "RQ9"}, "RQ9"),
    ],
)
def test_an_odd_claim_names_file_and_key(tmp_path: Path, change: dict[str, object], said: str):
    with pytest.raises(UserError, match=said) as error:
        load_claims(write(tmp_path, **change))
    assert "conf/claim/made.yaml" in str(error.value)


def test_an_empty_claim_is_named(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "conf/claim/made.yaml").write_text("")
    with pytest.raises(UserError, match=r"conf/claim/made\.yaml is no mapping"):
        load_claims(tmp_path)


@pytest.mark.parametrize("template", ["{valeu}", "{value", "{value:q}", "{}"])
def test_a_template_that_cannot_be_written_names_file_and_key(tmp_path: Path, template: str):
    (claim,) = load_claims(write(tmp_path, why=template))
    with pytest.raises(UserError) as error:
        written(claim, claim.why, {"value": 0.5})
    assert "conf/claim/made.yaml, why" in str(error.value)
    (claim,) = load_claims(write(tmp_path, statement={"if_yes": template}))
    with pytest.raises(UserError, match=r"conf/claim/made\.yaml, statement"):
        written(claim, claim.statement["if_yes"], {"value": 0.5})


def test_every_test_is_used_by_a_claim_of_the_project_and_every_claim_has_a_rule_and_a_place():
    claims = [*load_claims(ROOT), *load_claims(ROOT, OWN)]
    assert {claim.test for claim in claims} == set(TESTS)
    assert all(claim.place and claim.rule and claim.why for claim in claims)
    assert all(set(claim.says) == set(claim.statement) for claim in claims)

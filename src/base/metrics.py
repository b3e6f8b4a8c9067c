"""Names of metrics, columns and verdicts that more than one folder reads."""

from __future__ import annotations

PUBLISHED, OWN, EXTERNAL = "published", "own", "external"
CELL_KEY = ("source", "suite", "model", "condition", "prompt", "shots", "task")
"""What identifies one cell. Together with `metric` it identifies one row of cells.parquet."""

SERIES_KEY = ("source", "suite", "condition", "prompt", "shots", "task", "metric")
"""What the models of one scale series share, beside their family."""


EXACT, BERT = "exact_match", "bertscore_accuracy"
LIKELIHOODS = ("likelihood", "likelihood_plain", "likelihood_token")
ACCURACIES = (EXACT, BERT, *LIKELIHOODS)
MEANS = ("bertscore_f1", "edit_distance")
"""Metrics that are means, not counts. They have no chance level and no k."""

PROBABILITIES = (
    "gold_logprob_plain",
    "gold_probability_plain",
    "wrong_probability_plain",
    "gold_share_plain",
    "brier_plain",
    "gold_logprob",
    "gold_share",
    "brier",
)
"""Means too, of own cells only: what the log-likelihoods of the options say before one is picked
(src/scoring/likelihood.py, `probability_scores`)."""

LESS_IS_BETTER = ("edit_distance", "wrong_probability_plain", "brier_plain", "brier")
"""Metrics that are the better the smaller they are. Of every other metric more is better."""

STEPS = {
    "sum of log p": ("gold_logprob_plain", "gold_probability_plain", "gold_share_plain", "brier_plain",
                     LIKELIHOODS[1], EXACT),
    "log p per character": ("gold_logprob", "gold_share", "brier", LIKELIHOODS[0], EXACT),
}  # fmt: skip
"""By what an option is scored by: the steps from its log-likelihood to accuracy, each worked out from the one before
it, and last what the model writes (Schaeffer et al. 2024, arXiv 2406.04391)."""

PICKS = {EXACT: "picked", BERT: "bertscore_picked", LIKELIHOODS[0]: "likelihood_picked"}
"""By metric, the column of scores.parquet that holds the option which the metric picks."""


BY_LIKELIHOOD, BY_TEXT = "likelihood", "generated"
"""How a foreign metric grades an answer: by the log-likelihoods of its options, or by what the model writes."""


MARGIN = 0.05
"""Five points: the margin behind the stars of the paper, and the bound of equivalence."""


ALL_TASKS = "all tasks"
"""What stands for the task in a row over all tasks that have its metric."""

F1, EXPLORATORY = "F1", "exploratory"
RESAMPLED = "resampled"
"""The control condition that takes other few-shot exemplars than the published ones."""


# Values of `predictable`, in the order of the rule. The last two say why there is no verdict.
LINE_REJECTED, NO_ABOVE, NO_BELOW, YES, INCONCLUSIVE = "line_rejected", "no_above", "no_below", "yes", "inconclusive"
TOO_FEW_SIZES, NOT_ZERO_SHOT = "too_few_sizes", "not_zero_shot"


# Validity gates.
GATE_ZERO = "forced_choice_zero"
GATE_EXACT_ABOVE = "exact_match_above_bertscore"
GATE_CONSTANT = "equals_constant_policy"
GATE_CONSTANT_MAYBE = "may_equal_constant_policy"
GATE_EXACT_ZERO = "exact_match_zero_bertscore_chance"
GATE_UNPARSED = "unparsed_share"
GATE_TIES = "tie_share"
GATE_N = "n_differs"
GATE_EXEMPLARS = "exemplars_in_test_set"
GATE_N_ABOVE = "n_above_test_set"
GATE_SIBLINGS = "exemplar_siblings"
GATE_DUPLICATES = "duplicates"
GATE_CEILING = "ceiling"
GATE_MODEL = "model_outside_table1"
GATE_TASK = "task_outside_table2"
ITEM_GATES = (GATE_N, GATE_EXEMPLARS, GATE_N_ABOVE, GATE_SIBLINGS, GATE_DUPLICATES, GATE_CONSTANT, GATE_CONSTANT_MAYBE)
"""Gates that need the task's items."""

ACTING = (GATE_ZERO, GATE_CONSTANT, GATE_EXACT_ABOVE, GATE_EXEMPLARS, GATE_N_ABOVE)
"""Gates that act: the number cannot be the model's, so its row enters no comparison. The others are notes."""


def acting(gates: str) -> bool:
    """Whether a row's ';'-joined gates hold one that acts."""
    return not set(ACTING).isdisjoint(gates.split(";"))


GATES = {
    GATE_ZERO: "forced-choice accuracy is exactly 0 with n >= 100",
    GATE_EXACT_ABOVE: "exact match lies above BERTScore accuracy by more than 5 points (rows of BERTScore accuracy)",
    GATE_CONSTANT: "accuracy equals that of a constant policy to the last example, rare by guessing (under 1 in 20)",
    GATE_CONSTANT_MAYBE: "accuracy equals that of a constant policy, as guessing does in 1 of 20 cases or more",
    GATE_EXACT_ZERO: "exact match is 0 while BERTScore accuracy is near chance (rows of BERTScore accuracy)",
    GATE_UNPARSED: "more than a fifth of the answers name no option (rows of exact match)",
    GATE_TIES: "more than a twentieth of the choices are ties",
    GATE_N: "n differs from the task's number of evaluated examples",
    GATE_EXEMPLARS: "the exemplars were left in the test set",
    GATE_N_ABOVE: "n is larger than the test set without its exemplars",
    GATE_SIBLINGS: "some test items share the context of an exemplar",
    GATE_DUPLICATES: "some items occur more than once",
    GATE_CEILING: "the scorer cannot give some items their point",
    GATE_MODEL: "the model is not in the paper's Table 1",
    GATE_TASK: "the task is not in the paper's Table 2",
}


EMERGENCE_COLUMNS = (
    "model",
    "prompt",
    "shots",
    "metric",
    "task",
    "n",
    "k",
    "accuracy",
    "ci_low",
    "ci_high",
    "chance",
    "chance_scored",
    "chance_assumed",
    "ceiling",
    "trivial",
    "trivial_cv",
    "gold_skew_p",
    "diff",
    "cohen_h",
    "p",
    "p_holm",
    "p_bh",
    "bf10",
    "p_trivial",
    "p_content",
    "min_detectable",
    "forecast",
    "residual",
    "residual_low",
    "residual_high",
    "fit_p",
    "tau2",
    "df",
    "p_jump",
    "p_differs",
    "p_within_ten",
    "residual_floor",
    "forecast_binomial",
    "residual_binomial",
    "residual_binomial_low",
    "residual_binomial_high",
    "fit_p_binomial",
    "lr_p",
    "p_emergent",
    "predictable",
    "above_raw",
    "above",
    "emergent_paper_rule",
    "emergent",
    "gates",
    "paper_above",
    "paper_predictable",
    "paper_emergent",
    "competence",
    "memorisable",
    "previously_emergent",
    "source",
    "fingerprint",
)
"""The row of Table 2, in the order of statistics.md."""


RULES = {
    "raw": "accuracy above the baseline",
    "p05": "p < alpha, uncorrected",
    "holm": "p < alpha after Holm over the tasks that can be tested",
    "bh": "p < alpha after Benjamini-Hochberg",
    "plus5": "accuracy above the baseline by more than 5 points",
    "holm_trivial": "p against the content-free policy < alpha after Holm",
}


REFERENCE_COLUMNS = (
    "suite", "model", "weights", "prompt", "shots", "condition", "task", "metric", "primary", "n", "k", "accuracy",
    "ci_low", "ci_high", "chance", "unparsed_share", "p", "p_holm", "above", "data_sha256", "completions_sha256",
    "fingerprint",
)  # fmt: skip
"""The columns of own cells that data/reference/*.csv holds."""

"""Claims: each holds, fails and is undecided where it should be, and between goals nothing turns."""

from dataclasses import asdict

import numpy as np
import pytest

from nmfbook import claims
from nmfbook.claims import ANSWERS, OURS, Claim, Scale, judge, row_words, verdict
from nmfbook.ledger import EXPERIMENTS, Entry, experiment
from nmfbook.statistics import bootstrap, effect, fall, mean, pearson, proportion, separation

CLAIMS = [(name, claim) for name in EXPERIMENTS for claim in experiment(name).claims()]
ROWS = {"F1.1", "F3.1", *(f"F3.{i}" for i in range(3, 12)), *(f"C3.{i}" for i in range(1, 6)), "T5.1", "T5.3",
        "C4.1", "C4.2", "C5.1", "C6.4", OURS, "F1.3", *(f"F5.{i}" for i in range(2, 6))}


def synthetic(name, kind):
    return [Entry(name, asdict(job), {}, measurements, {}) for job, measurements in experiment(name).synthetic(kind)]


SYNTHETIC = {(name, kind): synthetic(name, kind) for name in EXPERIMENTS for kind in ANSWERS
             if experiment(name).claims()}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("name, claim", CLAIMS, ids=[f"{claim.row}/{claim.name}" for _, claim in CLAIMS])
def test_each_claim_answers_as_it_should_on_made_up_measurements(name, claim, kind):
    judgment = judge(claim, SYNTHETIC[name, kind])
    assert judgment.answer == kind, judgment.words


def test_every_measured_row_has_claims_and_none_is_judged_on_digits():
    assert {claim.row for _, claim in CLAIMS} == ROWS
    assert len({(claim.row, claim.name) for _, claim in CLAIMS}) == len(CLAIMS)
    for name, claim in CLAIMS:
        digits = [Entry(name, {**entry.job, "data": "digits"}, {}, entry.measurements, {})
                  for entry in SYNTHETIC[name, "holds"]]
        assert judge(claim, digits).words.startswith("measuring, 0 of ")


# --- between goals ----------------------------------------------------------------------------------------


def coin(goals=(4, 8), demanded=8, **options):
    scale = Scale("coins", lambda entries: entries, goals, demanded)
    return Claim("F3.10", "mean", "the mean is positive", "tiny",
                 lambda values: bootstrap(mean, np.array(values)), (scale,), **options)


def test_a_claim_is_judged_at_its_goals_alone():
    values = [1.0, 1.1, 0.9, 1.0, -9.0, -9.0, -9.0]
    assert judge(coin(), values[:3]).words == "measuring, 3 of 4"
    at_goal, between = judge(coin(), values[:4]), judge(coin(), values)
    assert at_goal.answer == between.answer == "holds" and at_goal.interval == between.interval
    assert (between.n, between.goal, between.protocol_met) == (4, 8, False)
    last = judge(coin(), [*values, -9.0])
    assert (last.n, last.goal, last.answer, last.protocol_met) == (8, None, "fails", True)


def test_a_threshold_may_be_meant_from_below():
    values = [1.0, 1.1, 0.9, 1.0]
    assert judge(coin(threshold=2.0), values).answer == "fails"
    assert judge(coin(threshold=2.0, below=True), values).answer == "holds"
    assert judge(coin(threshold=1.0), values).answer == "undecided"


def test_the_scale_that_says_most_counts_as_soon_as_it_has_enough():
    def scale(label, least, demanded):
        return Scale(label, lambda entries: [value for value in entries if value >= least], (3,), demanded)

    claim = Claim("F3.10", "mean", "the mean is above 2", "tiny", lambda values: bootstrap(mean, np.array(values)),
                  (scale("full", 10, 3), scale("small", 0, None)), threshold=2.0)
    assert judge(claim, [1.0, 1.1, 10]).scale.label == "small"
    small, full = judge(claim, [1.0, 1.1, 0.9, 10, 11]), judge(claim, [1.0, 1.1, 0.9, 10, 11, 10.5])
    assert (small.scale.label, small.answer, small.protocol_met) == ("small", "fails", False)
    assert (full.scale.label, full.answer, full.protocol_met) == ("full", "holds", True)


@pytest.mark.parametrize("answers, met, expected", [
    (["holds"], True, "reproduced"), (["holds", "holds"], False, "holds at smaller scale"),
    (["holds", "fails", "undecided"], True, "mixed"), (["fails", "undecided"], True, "contradicted"),
    (["fails"], False, "fails at smaller scale"), (["holds", "undecided"], True, "undecided"),
    (["undecided"], False, "undecided")])
def test_the_verdict_of_a_row(answers, met, expected):
    assert verdict(answers, protocol_met=met) == expected and expected in claims.VERDICTS


@pytest.mark.parametrize("answers", [[], ["yes"]])
def test_a_verdict_needs_answers(answers):
    with pytest.raises(ValueError, match="holds, fails, undecided"):
        verdict(answers, protocol_met=True)


def test_a_row_says_how_far_its_measuring_has_come():
    values = [1.0, 1.1, 0.9, 1.0]
    judged, waiting = judge(coin(), values), judge(coin(), values[:1])
    assert row_words([judged]) == "holds at smaller scale"
    assert row_words([judged, waiting]) == "measuring, 1 of 4; 1 of 2 claims judged"
    assert row_words([waiting, waiting]) == "measuring, 1 of 4"


# --- statistics -------------------------------------------------------------------------------------------


def test_intervals_of_few_networks_cover_what_they_should():
    """About one interval in twenty lies beside the truth, for three networks a level, too."""
    generator = np.random.default_rng(0)
    for size in (3, 10):
        wrong = 0
        for _ in range(200):
            _, low, high = separation(*(generator.normal(size=size) for _ in range(3)))
            wrong += not low <= 0 <= high
        assert 1 <= wrong <= 20


def test_an_interval_of_one_network_is_everything():
    assert bootstrap(mean, np.array([3.0])) == (3.0, -np.inf, np.inf)


def test_effect_fall_and_shares():
    levels = np.array([3.0, 5.0]), np.array([2.0, 4.0]), np.array([1.0, 3.0])
    assert fall(*levels) == 1 and effect(*levels) == pytest.approx(1 / np.sqrt(2))
    value, low, high = separation(*levels)
    assert value == pytest.approx(effect(*levels)) and low < value < high
    assert np.isnan(effect(np.ones(2), np.zeros(2)))
    assert proportion(12, 12)[0] == 1 and proportion(12, 12)[1] == pytest.approx(0.735, abs=1e-3)
    rows = np.array([1, 2, 3])
    assert pearson(rows, 2 * rows) == pytest.approx(1) and np.isnan(pearson(np.array([1, 1]), np.array([1, 2])))
    rows = np.stack(levels)
    assert pearson(rows, -rows) == pytest.approx([-1, -1]) and np.isnan(pearson(np.full(3, 0.1), np.arange(3)))

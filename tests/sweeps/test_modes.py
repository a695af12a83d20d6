"""What a sweep costs: refusals, and totals against published formulas and tables."""

import math

import pytest

from dpib.errors import UserError
from dpib.privacy import accounting, calibrate
from dpib.privacy.events import Charge, Event
from dpib.privacy.ledger import Account
from dpib.section import validated
from dpib.sweeps import modes
from dpib.sweeps.spec import Drawn, Sweep

LR = {"low": 0.001, "high": 0.1, "log": True}


def sweep(**keys):
    space = {"eval.schedule.lr" if keys.get("kind", "classifier") == "classifier" else "train.lr": LR}
    tree = {"name": "t", "kind": "classifier", "mode": "one_shot", "trials": 4, "space": space, **keys}
    return validated(Sweep, tree, "test")


def account(epsilon=1.0, events=()):
    scopes = {"train": 1000, "val": 500}
    return Account(dataset="toy", relation="zero_out", epsilon=epsilon, delta=1e-5, scopes=scopes, events=list(events))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"kind": "synthesizer"}, "one_shot selects among classifiers"),
        ({"mode": "public"}, "for classifiers use one_shot"),
        ({"kind": "synthesizer", "mode": "public"}, "needs sweep.proxy"),
        ({"kind": "synthesizer", "mode": "public", "proxy": "digits"}, "is the sensitive data set itself"),
        ({"mode": "random_stopping", "sampler": "tpe"}, "independent trials only"),
        ({"mode": "random_stopping", "sampler": "grid"}, "independent trials only"),
        ({"mode": "random_stopping", "pruner": "median"}, "compares trials"),
        ({"mode": "compose", "direction": "minimize"}, "minimize is for mode=public"),
        ({"kind": "synthesizer", "mode": "compose"}, "say with sweep.epsilon_total where to stop"),
        ({"space": {"train.lr": LR}}, "varies eval"),
        ({"kind": "synthesizer", "mode": "compose", "epsilon_total": 9, "space": {"epsilon": LR}}, "same for every"),
    ],
)
def test_what_does_not_go_together_is_refused(keys, says):
    with pytest.raises(UserError, match=says):
        modes.check(sweep(**keys), "digits")


@pytest.mark.parametrize(
    "keys",
    [
        {"sampler": "tpe", "pruner": "median"},  # one_shot: adaptivity looks at synthetic images only
        {"mode": "compose", "sampler": "gp", "pruner": "halving"},
        {"mode": "random_stopping"},
        {"kind": "synthesizer", "mode": "public", "proxy": "glyphs_28", "sampler": "tpe", "direction": "minimize"},
        {"kind": "synthesizer", "mode": "compose", "epsilon_total": 9.0},
        {"kind": "synthesizer", "mode": "random_stopping"},
        {"mode": "unaccounted", "sampler": "tpe"},
    ],
)
def test_what_goes_together_is_accepted(keys):
    modes.check(sweep(**keys), "digits")


def test_a_free_score_fills_the_cap_together_with_what_was_spent_before():
    before = Event(id="val/a", kind="noisy_max", scope="val", n=500, relation="zero_out", epsilon=0.4)
    charge = modes.score_charge(sweep(mode="compose"), account(events=[before]), 20, "score")
    events = [before, *(e for i in range(20) for e in modes.events_of([charge], account(), "val", f"{i}/"))]
    assert 0.998 < accounting.spent(events, 1e-5) <= 1.0


def test_a_spent_budget_is_said_so_before_anything_runs():
    before = Event(id="val/a", kind="noisy_max", scope="val", n=500, relation="zero_out", epsilon=1.0)
    for refused in (
        lambda: modes.score_charge(sweep(mode="compose"), account(events=[before]), 20, "score"),
        lambda: modes.selection_charge(account(events=[before]), "select"),
        lambda: modes.stopping_charges(sweep(mode="random_stopping"), account(events=[before]), (), "s"),
    ):
        with pytest.raises(UserError, match=r"have already spent epsilon 1 of sweep\.epsilon_total=1"):
            refused()


def test_one_shot_costs_the_rest_of_the_budget_whatever_the_number_of_trials():
    before = Event(id="val/a", kind="noisy_max", scope="val", n=500, relation="zero_out", epsilon=0.25)
    charge = modes.selection_charge(account(events=[before]), "select")
    assert charge.epsilon == pytest.approx(0.75, rel=2e-3)
    events = [before, *modes.events_of([charge], account(), "val")]
    assert accounting.spent(events, 1e-5) <= 1.0


def test_random_stopping_charges_both_scopes_once_and_fits():
    trial = (Charge("release", "gaussian", "", sigma=4.0),)
    spec = sweep(kind="synthesizer", mode="random_stopping", drawn={"mean": 10.0})
    train, val = modes.stopping_charges(spec, account(3.0), trial, "s")
    (event,) = modes.events_of(train, account(), "train")
    once = modes.events_of(trial, account(), "train")
    ten = [event for i in range(10) for event in modes.events_of(trial, account(), "train", f"{i}/")]
    assert accounting.spent(once, 1e-5) < accounting.spent([event], 1e-5) < accounting.spent(ten, 1e-5)
    assert 2.99 < accounting.spent(modes.events_of([val], account(), "val"), 1e-5) <= 3.0


def test_without_a_cap_scores_may_cost_what_the_trainings_cost_and_with_one_no_more_than_that():
    trial = (Charge("release", "gaussian", "", sigma=4.0),)
    spec = {"kind": "synthesizer", "mode": "random_stopping", "drawn": {"mean": 10.0}}

    def costs(cap, **keys):
        train, val = modes.stopping_charges(sweep(**spec, **keys), account(cap), trial, "s")
        priced = ((train, "train"), ([val], "val"))
        return [accounting.spent(modes.events_of(charges, account(), scope), 1e-5) for charges, scope in priced]

    trained, scored = costs(1.0)
    assert trained > 1.2
    assert scored == pytest.approx(trained, rel=2e-3)
    assert costs(1.0, epsilon_total=1.0)[1] == pytest.approx(1.0, rel=2e-3)


@pytest.mark.parametrize("score", [{"sigma": 50.0}, {"noise": "laplace", "scale": 30.0}])
def test_noise_that_was_asked_for_is_what_a_score_gets(score):
    asked = {"sigma": None, "scale": None, **score}
    charge = modes.score_charge(sweep(mode="compose", score=score), account(9.0), 3, "score")
    _, val = modes.stopping_charges(sweep(mode="random_stopping", score=score), account(9.0), (), "s")
    for found in (charge, val.base[0]):
        assert (found.sigma, found.scale) == (asked["sigma"], asked["scale"])


def test_the_law_of_the_number_of_trials_has_the_mean_that_was_asked_for():
    for law in (Drawn(mean=12.0), Drawn(mean=12.0, eta=1.0), Drawn(law="poisson", mean=12.0)):
        assert law.stopping().mean == pytest.approx(12.0)


# Published settings: sigma by RDP for one run of this epsilon, N = 55,000, batch 4096, 150 epochs, delta = 1/(N ln N);
# (mean, all composed, logarithmic, geometric, Poisson), by RDP.
BY_RDP = {
    1: [(5, 2.39, 1.57, 1.84, 1.63), (10, 3.50, 1.69, 2.03, 2.22), (20, 5.16, 1.79, 2.19, 3.31),
        (50, 8.76, 1.91, 2.39, 5.81)],
    10: [(5, 26.8, 13.2, 13.9, 15.0), (10, 42.6, 14.2, 15.4, 19.6), (20, 73.2, 14.9, 16.9, 28.6),
         (50, 163, 15.7, 18.4, 55.2)],
}  # fmt: skip
# Sigma by PLD, q = 1/14, T = 2100, delta = 1e-5; composition by PLD, selection by RDP.
BY_PLD = {
    1: [(10, 3.62, 1.92, 2.31, 2.53), (30, 6.87, 2.11, 2.62, 4.92), (100, 14.4, 2.29, 2.91, 9.11)],
    10: [(10, 45.1, 15.3, 16.4, 20.9), (30, 102.5, 16.7, 18.9, 39.7), (100, 273.6, 17.9, 21.1, 104)],
}


def trained(epsilon, rate, steps, n, delta, accountant):
    free = (Charge("sgd", "gaussian", "", rate=rate, count=steps),)
    chosen = {"scope": "train", "n": n, "relation": "zero_out", "epsilon": epsilon, "delta": delta}
    return calibrate.solve(free, **chosen, accountant=accountant)


def totals(trial, n, delta, mean, composing):
    events = [c.event("train", n, "zero_out") for c in trial]
    laws = [Drawn(mean=float(mean)), Drawn(mean=float(mean), eta=1.0), Drawn(law="poisson", mean=float(mean))]
    selected = [
        Charge("s", "random_stopping", "", base=trial, stopping=law.stopping()).event("train", n, "zero_out")
        for law in laws
    ]
    many = [event.model_copy(update={"count": event.count * mean}) for event in events]
    return [accounting.spent(many, delta, composing), *(accounting.spent([s], delta, "rdp") for s in selected)]


@pytest.mark.parametrize("epsilon", BY_RDP)
def test_totals_equal_the_table_by_rdp_within_one_percent(epsilon):
    n = 55_000
    delta = 1 / (n * math.log(n))
    trial = trained(epsilon, 4096 / n, math.ceil(150 * n / 4096), n, delta, "rdp")
    for mean, *expected in BY_RDP[epsilon]:
        assert totals(trial, n, delta, mean, "rdp") == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", BY_PLD)
def test_totals_equal_the_table_by_pld_within_one_percent(epsilon):
    trial = trained(epsilon, 1 / 14, 2100, 57_000, 1e-5, "pld")
    for mean, *expected in BY_PLD[epsilon]:
        assert totals(trial, 57_000, 1e-5, mean, "pld") == pytest.approx(expected, rel=0.01)

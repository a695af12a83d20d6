"""The statement says in words what the ledger holds in numbers."""

from dpib.privacy import statement
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.privacy.stopping import Stopping

STEPS = Charge("steps", "gaussian", "noised gradients", sigma=4.0, rate=0.1, count=100, cap=130)
KINDS = (
    Charge("query", "gaussian", "class counts", sigma=50.0),
    STEPS,
    Charge("shards", "gaussian_wor", "one shard at a time", sigma=20.0, rate=0.01, count=5),
    Charge("score", "laplace", "accuracy", scale=40.0),
    Charge("other", "pure", "something else", epsilon=0.01),
    Charge("pick", "noisy_max", "best epoch", epsilon=0.02),
    Charge("sweep", "random_stopping", "best setting", base=(STEPS,), stopping=Stopping.negative_binomial(5, 0)),
)


def account(*charges, **changes):
    events = [charge.event("train", 1000, "zero_out") for charge in charges]
    fields = {"dataset": "toy", "relation": "zero_out", "delta": 1e-5, "epsilon": 50.0, "scopes": {"train": 1000}}
    return Account(**{**fields, "events": events, **changes})


def section(text, title):
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_every_kind_has_words_a_price_of_its_own_and_its_section():
    text = statement.render(account(*KINDS))
    for charge in KINDS:
        title = {"noisy_max": "Selection", "random_stopping": "Tuning"}.get(charge.kind, "Releases")
        row = next(line for line in section(text, title).splitlines() if f"train/{charge.name} |" in line)
        assert charge.label in row
        assert 0 < float(row.split("|")[-2]) < 10
    assert "at most 130 images" in text
    assert "the best of a random number of trials (about 5), each: Gaussian, sigma 4" in text


def test_the_total_names_its_accountant_and_relation():
    assert "by privacy loss distributions, for zero_out" in section(statement.render(account(STEPS)), "Total")
    assert "in closed form" in section(statement.render(account(KINDS[0])), "Total")
    assert "by Renyi accounting" in section(statement.render(account(*KINDS)), "Total")


def test_the_total_is_below_the_sum_of_the_prices():
    several = account(*(Charge(f"q{i}", "gaussian", "", sigma=5.0) for i in range(4)))
    own = 4 * float(section(statement.render(several), "Releases").splitlines()[-2].split("|")[-2])
    assert several.spent() < 0.7 * own


def test_an_empty_ledger_and_a_tainted_one_say_so():
    assert "Nothing was released" in statement.render(account())
    tainted = statement.render(account(STEPS, tainted=True))
    assert "Not private" in tainted
    assert "differentially private together" not in tainted


def test_figures_outside_epsilon_are_listed():
    yardstick = [{"name": "fid", "scope": "train", "what": "distance to real images"}]
    text = statement.render(account(STEPS, yardstick=yardstick))
    assert "- fid (train images): distance to real images" in section(text, "Not covered by epsilon")


def test_a_delta_above_one_over_n_is_warned_of():
    assert "Warning" not in statement.render(account(KINDS[0], delta=1e-3))
    assert "delta 0.00101 is above 1/1000" in statement.render(account(KINDS[0], delta=1.01e-3))
    assert "delta 0.0012 is above 1/900" in statement.render(
        account(KINDS[0], delta=1.2e-3, scopes={"train": 1000, "val": 900})
    )

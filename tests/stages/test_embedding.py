"""Methods of mean embeddings, from their recipes to the ledger that follows the images."""

import pytest

from dpib.privacy.ledger import Account


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"method": "dp-ntk", "features.hidden": "[20]"}, (1.0, 1)),
        ({"method": "dp-kernel", "features.dimension": "200"}, (1.0, 1)),
        ({"method": "dp-kernel", "features.dimension": "200", "train.release": "per_step"}, (60 / 1498, 12)),
    ],
    ids=["dp-ntk", "dp-kernel", "dp-kernel per step"],
)
def test_a_recipe_runs_through_every_stage_within_its_budget(recipe, told, store, tiny, go):
    del tiny["features.dimension"]
    result, tracked = go(**recipe, **{"eval.mode": "syn", "accountant": "rdp"})
    ledger = Account.parse(store.fetch(result.run_id, "privacy/ledger.json").read_text())
    (event,) = ledger.events
    assert (event.id, event.rate, event.count) == ("train/embedding", pytest.approx(told[0]), told[1])
    assert tracked.data.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)
    assert tracked.data.metrics["utility/accuracy_best"] > 0

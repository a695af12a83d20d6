"""The ledger follows the images through other data sets, other names, other machines, files and repetitions."""

import json
import shutil

import mlflow
import numpy as np
import pytest
import yaml
from PIL import Image

from dpib import checkpoint
from dpib.chain import Start, run_generate, run_pretrain, run_train
from dpib.config import compose
from dpib.data.catalog import Sizes, Source, find_card
from dpib.errors import UserError
from dpib.methods.kernel import MeanEmbedding
from dpib.pipeline import run_evaluate, run_main, run_prepare
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.spendings import Spendings
from dpib.stages.build import FINAL
from dpib.stages.generate import GEN
from dpib.upstream import file_digest

ONE = {"eval.classifiers.wrn": "none", "eval.schedule.epochs": "1", "generate.images": "60"}


def ledger(store, run):
    return Account.parse(store.fetch(run.run_id, "privacy/ledger.json").read_text())


def final(store, run):
    return Start(file=store.fetch(run.run_id, str(FINAL)))


def own_set(root, name, source, order=slice(None), title="own"):
    """Prepare a copy of another data set's images as somebody's own, in another order if asked for."""
    card = find_card(source, root).model_copy(
        update={"name": name, "title": title, "source": Source(kind="folders"), "counts": None}
    )
    (root / name).mkdir(parents=True)
    (root / name / "card.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    for split in ("train", "test"):
        with np.load(root / source / f"{split}.npz") as content:
            arrays = dict(content)
        if split == "train":
            arrays = {k: v[order] if k in ("images", "labels") else v for k, v in arrays.items()}
        np.savez(root / name / f"{split}.npz", **arrays)


@pytest.fixture
def root(tmp_path, digits_root, monkeypatch):
    """Return a data root of the test's own that holds the digits and the glyphs."""
    copy = tmp_path / "own-data"
    shutil.copytree(digits_root, copy)
    monkeypatch.setenv("DPIB_DATA", str(copy))
    return copy


@pytest.fixture
def small(tiny):
    def make(**changed):
        return compose({**tiny, **ONE, **{k.replace("__", "."): str(v) for k, v in changed.items()}})

    return make


def test_a_detour_over_another_data_set_does_not_erase_the_ledger(small, store):
    first = run_train(*small(), store)
    detour = run_train(*small(dataset="glyphs_28"), store, final(store, first))
    statement = store.fetch(detour.run_id, "privacy/statement.md").read_text()
    assert "also learnt from another data set" in statement
    assert "# Privacy statement: digits_28" in statement
    with pytest.raises(UserError, match="already spent epsilon = 10"):
        run_train(*small(epsilon=9), store, final(store, detour))
    back = run_train(*small(epsilon=20), store, final(store, detour))
    assert [event.id for event in ledger(store, back).events] == ["train/before/embedding", "train/embedding"]
    assert 19.9 < back.metrics["privacy/epsilon"] <= 20
    drawn = run_generate(*small(epsilon=20), store, detour.run_id)
    judged = run_evaluate(*small(), store, store.fetch(drawn.run_id, str(GEN)), "detour")
    assert judged.metrics["privacy/epsilon_train"] == pytest.approx(
        10, rel=1e-3
    )  # digits, though trained on glyphs last


def test_what_is_tainted_stays_so_over_a_detour_and_the_run_says_so(small, store):
    first = run_train(*small(unsafe_noise_seed=3), store)
    detour = run_train(*small(dataset="glyphs_28"), store, final(store, first))
    assert mlflow.get_run(detour.run_id).data.tags["dpib.private"] == "true"
    back = run_train(*small(epsilon=20), store, final(store, detour))
    assert mlflow.get_run(back.run_id).data.tags["dpib.private"] == "false"
    assert not any(name.startswith("privacy/epsilon") for name in back.metrics)


def test_the_same_images_under_another_name_share_one_ledger(small, store, root):
    own_set(root, "mine", "digits_28")
    own_set(root, "shuffled", "digits_28", slice(None, None, -1))
    first = run_train(*small(), store)
    with pytest.raises(UserError, match="already spent epsilon = 10"):
        run_train(*small(dataset="mine", epsilon=9), store, final(store, first))
    with pytest.raises(UserError, match="already spent epsilon = 10"):
        run_train(*small(dataset="shuffled", epsilon=9), store, final(store, first))
    with np.load(root / "shuffled" / "train.npz") as content:
        fewer = {k: v.copy() if k in ("images", "labels") else v for k, v in content.items()}
    fewer["images"][:100] = 255 - fewer["images"][:100]
    np.savez(root / "shuffled" / "train.npz", **fewer)
    with pytest.raises(UserError, match="digits_28, which holds images of shuffled"):
        run_train(*small(dataset="shuffled", epsilon=20), store, final(store, first))


@pytest.mark.parametrize("public", ["digits_28", "card", "folder", "copy"])
def test_a_public_set_that_is_the_sensitive_one_is_refused(small, store, root, public, tmp_path):
    own_set(root, "copy", "digits_28", slice(None, None, -1))
    shutil.copy(root / "copy" / "card.yaml", tmp_path / "card.yaml")
    text = (tmp_path / "card.yaml").read_text().replace("name: copy", "name: digits_28")
    (tmp_path / "card.yaml").write_text(text)
    name = {"card": str(tmp_path / "card.yaml"), "folder": str(root / "digits_28")}.get(public, public)
    with pytest.raises(UserError, match=r"the sensitive data set itself|holds exactly the images"):
        run_pretrain(*small(public=name), store)


def test_a_pretraining_on_the_sensitive_images_is_refused_by_their_training(small, store):
    pretrained = run_pretrain(*small(dataset="glyphs_28", public="digits_28"), store)
    with pytest.raises(UserError, match="digits_28 is the sensitive data set itself"):
        run_train(*small(), store, Start(run=pretrained.run_id))
    drawn = run_generate(*small(dataset="glyphs_28"), store, pretrained.run_id)
    with np.load(store.fetch(drawn.run_id, str(GEN))) as content:
        account = json.loads(str(content["statement"]))["ledger"]
    assert [source["name"] for source in account["public"]] == ["digits_28"]


def test_more_than_a_handful_of_shared_images_must_be_declared(small, store, root, tmp_path):
    own_set(root, "few", "digits_28", np.arange(1498))
    with np.load(root / "glyphs_28" / "train.npz") as content:
        glyphs = dict(content)
    with np.load(root / "digits_28" / "train.npz") as content:
        glyphs["images"][:9] = content["images"][:9]
    np.savez(root / "glyphs_28" / "train.npz", **glyphs)
    with pytest.raises(UserError, match="some images of digits_28 are in glyphs_28 too"):
        run_pretrain(*small(public="glyphs_28"), store)
    declared = {"public": "glyphs_28", "public_overlap": "declared"}
    pretrained = run_pretrain(*small(**declared), store)
    with pytest.raises(UserError, match="some images of digits_28"):
        run_train(*small(public="glyphs_28"), store, Start(run=pretrained.run_id))
    trained = run_train(*small(**declared), store, Start(run=pretrained.run_id))
    statement = store.fetch(trained.run_id, "privacy/statement.md").read_text()
    assert "declared to hold images of this data set, which are not protected" in statement


def test_a_checkpoint_that_says_nothing_of_its_origin_is_named_as_public(small, store, tmp_path):
    pretrained = run_pretrain(*small(public="glyphs_28"), store)
    bare = tmp_path / "found.safetensors"
    checkpoint.save(bare, checkpoint.load(store.fetch(pretrained.run_id, str(FINAL))))
    trained = run_train(*small(), store, Start(file=bare))
    assert [source.name for source in ledger(store, trained).public] == ["checkpoint found.safetensors"]


def test_what_held_out_images_spent_is_continued_by_file_and_by_run(small, store, tmp_path, capsys):
    config, card = small()
    trained = run_train(config, card, store)
    drawn = run_generate(config, card, store, trained.run_id)
    gen = store.fetch(drawn.run_id, str(GEN))
    by_run = run_evaluate(config, card, store, gen, drawn.run_id)
    assert by_run.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)
    copied = tmp_path / "copy.npz"
    shutil.copy(gen, copied)
    by_file = run_evaluate(config, card, store, copied, file_digest(copied))
    assert by_file.metrics["privacy/epsilon"] == pytest.approx(20, rel=1e-3)
    assert "this evaluation spends epsilon 10, in all it is 20" in capsys.readouterr().err
    with np.load(gen) as content:
        np.savez(tmp_path / "bare.npz", x=content["x"][::-1], y=content["y"][::-1])
    bare = run_evaluate(config, card, store, tmp_path / "bare.npz", "bare")  # no statement, another order
    assert bare.metrics["privacy/epsilon_selection"] == pytest.approx(30, rel=1e-3)
    other = run_generate(small(generate__images=50)[0], card, store, trained.run_id)
    again = run_evaluate(config, card, store, store.fetch(other.run_id, str(GEN)), other.run_id)
    assert again.metrics["privacy/epsilon_selection"] > 29  # other images of the same training
    assert len({event.id for event in ledger(store, again).events if event.scope == "val"}) >= 6


def test_what_another_machine_spent_is_found_in_the_store(small, store, root, monkeypatch, tmp_path):
    own_set(root, "own", "digits_28")
    for name, unknown in (("digits_28", 0), ("own", 10)):
        config, card = small(dataset=name)
        trained = run_train(config, card, store)
        drawn = run_generate(config, card, store, trained.run_id)
        gen = store.fetch(drawn.run_id, str(GEN))
        first = run_evaluate(config, card, store, gen, drawn.run_id)
        # Somebody moved that run to another experiment's trash: what it spent stays spent.
        mlflow.MlflowClient().delete_run(first.run_id)
        monkeypatch.setenv("DPIB_HOME", str(tmp_path / f"another home of {name}"))
        elsewhere = run_evaluate(config, card, store, gen, "by file")
        # Twice 10 on held-out images; that the training split images of one's own like this is not known there.
        assert elsewhere.metrics["privacy/epsilon"] == pytest.approx(20 + unknown, rel=1e-3)
        assert ledger(store, elsewhere).disjoint == (not unknown)
        monkeypatch.setenv("DPIB_HOME", str(tmp_path / "home"))


def test_an_evaluation_tells_the_store_what_it_will_spend_before_it_looks_for_others(small, store, monkeypatch):
    config, card = small()
    gen = store.fetch(run_generate(config, card, store, run_train(config, card, store).run_id).run_id, str(GEN))
    seen = []

    def looks(self, dataset):
        found = Account.parse(self.store.fetch(self.run, "privacy/ledger.json").read_text())
        seen.extend(event.id for event in found.events if event.scope == "val")
        raise RuntimeError("that is all that is to be seen")

    monkeypatch.setattr(Spendings, "known", looks)
    with pytest.raises(RuntimeError, match="all that is to be seen"):
        run_evaluate(config, card, store, gen, "g")
    assert [name.partition("/select/")[2] for name in seen] == ["resnet", "best"]


def test_held_out_images_of_a_set_prepared_anew_may_be_those_trained_on(small, store, root):
    config, card = small()
    trained = run_train(config, card, store)
    drawn = run_generate(config, card, store, trained.run_id)
    with np.load(root / "digits_28" / "train.npz") as content:
        arrays = {k: v[::-1] if k in ("images", "labels") else v for k, v in content.items()}
    np.savez(root / "digits_28" / "train.npz", **arrays)
    judged = run_evaluate(config, card, store, store.fetch(drawn.run_id, str(GEN)), drawn.run_id)
    assert judged.metrics["privacy/epsilon"] == pytest.approx(20, rel=1e-3)
    assert "not known that they are disjoint" in store.fetch(judged.run_id, "privacy/statement.md").read_text()


def test_a_colleagues_run_on_other_images_of_that_name_is_not_mine(small, store, root, monkeypatch, tmp_path):
    own_set(root, "own", "digits_28")
    first = run_train(*small(dataset="own"), store)
    assert run_train(*small(dataset="own"), store).reused
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "colleague"))
    second = run_train(*small(dataset="own"), store)
    assert not second.reused
    assert second.run_id != first.run_id


def interrupted(monkeypatch, work):
    """Do `work`, which ends as by Ctrl-C right after the training's release."""
    original = MeanEmbedding.train

    def dies(self, vault, log):
        original(self, vault, log)
        raise KeyboardInterrupt

    monkeypatch.setattr(MeanEmbedding, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        work()
    monkeypatch.setattr(MeanEmbedding, "train", original)


def test_work_that_was_begun_on_other_images_is_not_resumed_on_these(small, store, root, monkeypatch, capsys):
    config, card = small()
    interrupted(monkeypatch, lambda: run_train(config, card, store))
    with np.load(root / "digits_28" / "train.npz") as content:
        arrays = {k: v[::-1] if k in ("images", "labels") else v for k, v in content.items()}
    np.savez(root / "digits_28" / "train.npz", **arrays)
    trained = run_train(config, card, store)
    assert "begun on other images" in capsys.readouterr().err
    drawn = run_generate(config, card, store, trained.run_id)
    judged = run_evaluate(config, card, store, store.fetch(drawn.run_id, str(GEN)), drawn.run_id)
    assert judged.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert len([run for run in runs if run.data.tags["dpib.stage"] == "train"]) == 2


def test_a_copy_of_unfinished_work_is_not_resumed_beside_the_original(small, store, monkeypatch, tmp_path):
    config, card = small()
    interrupted(monkeypatch, lambda: run_train(config, card, store))
    shutil.copytree(tmp_path / "home", tmp_path / "copied home")
    original = run_train(config, card, store)
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "copied home"))
    copied = run_train(config.model_copy(update={"reuse": False}), card, store)
    assert copied.run_id != original.run_id
    assert ledger(store, copied).origins != ledger(store, original).origins


def test_held_out_images_that_are_trained_on_later_pay_for_both(small, store, root):
    scored = Charge("r/score", "noisy_max", "", epsilon=4.0).event("val", 150, "zero_out")
    first = run_train(*small(), store)
    account = ledger(store, first)
    start = store.fetch(first.run_id, str(FINAL))
    paid = account.model_copy(update={"events": [*account.events, scored]})
    checkpoint.save(start, checkpoint.load(start), ledger=paid.text())
    apart = run_train(*small(epsilon=20), store, Start(file=start))
    assert ledger(store, apart).disjoint
    with np.load(root / "digits_28" / "train.npz") as content:
        arrays = {k: v[::-1] if k in ("images", "labels") else v for k, v in content.items()}
    np.savez(root / "digits_28" / "train.npz", **arrays)
    with pytest.raises(UserError, match="what was spent before would bring epsilon to"):
        run_train(*small(epsilon=12), store, Start(file=start))
    together = ledger(store, run_train(*small(epsilon=20), store, Start(file=start)))
    assert not together.disjoint
    assert together.spent() <= 20 < together.spent_by_scope()["train"] + 4


def test_an_evaluation_spends_its_own_budget_and_not_that_of_what_made_the_images(small, store):
    config, card = small(epsilon=20)
    drawn = run_generate(config, card, store, run_train(config, card, store).run_id)
    judged = run_evaluate(*small(epsilon=2), store, store.fetch(drawn.run_id, str(GEN)), "by file")
    assert judged.metrics["privacy/epsilon_selection"] == pytest.approx(2, rel=1e-3)


def test_a_public_folder_is_found_again_from_another_folder(small, store, tmp_path, monkeypatch, digits_root):
    monkeypatch.chdir(tmp_path)
    with np.load(digits_root / "digits_28" / "train.npz") as content:
        for i in range(20):
            (tmp_path / "pub" / str(i % 2)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content["images"][i]).save(tmp_path / "pub" / str(i % 2) / f"{i}.png")
    pretrained = run_pretrain(*small(dataset="glyphs_28", public="pub", pretrain__batch=10), store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"some images of digits_28 are in .*pub too"):
        run_train(*small(), store, Start(run=pretrained.run_id))
    # Where it is gone and was never compared, the statement says so.
    (tmp_path / "pub").rename(tmp_path / "gone")
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "another home"))
    trained = run_train(*small(), store, Start(run=pretrained.run_id))
    assert "not at hand to be compared" in store.fetch(trained.run_id, "privacy/statement.md").read_text()


def test_a_run_on_published_images_is_everybodys(small, store, root, monkeypatch, tmp_path):
    from dpib.data import store as prepared

    own_set(root, "known", "digits_28")
    card = find_card("known", root)
    sums = {split: prepared.checksum(prepared.read_split(root, card, split)) for split in ("train", "test")}
    (root / "known" / "card.yaml").write_text(yaml.safe_dump({**card.model_dump(mode="json"), "checksums": sums}))
    first = run_train(*small(dataset="known"), store)
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "colleague"))
    assert run_train(*small(dataset="known"), store).run_id == first.run_id
    drawn = run_generate(*small(dataset="known"), store, first.run_id)
    judged = run_evaluate(*small(dataset="known"), store, store.fetch(drawn.run_id, str(GEN)), drawn.run_id)
    assert judged.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)  # the held-out images are others


def test_a_killed_run_keeps_its_ledger_beside_the_grids_it_has_shown(small, store, monkeypatch):
    interrupted(monkeypatch, lambda: run_train(*small(), store))
    (killed,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert "train/loss" in killed.data.metrics
    found = Account.parse(store.fetch(killed.info.run_id, "privacy/ledger.json").read_text())
    assert [event.id for event in found.events] == ["train/embedding"]


def test_no_name_of_a_sensitive_file_reaches_the_store(store, tmp_path, digits_root):
    source = tmp_path / "patients"
    for split in ("train", "test"):
        for name in "ab":
            (source / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(source / split / name / "good.png")
    broken = source / "train" / "a" / "john-doe.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    root = tmp_path / "own-data"
    card = find_card("glyphs_28", digits_root).model_copy(
        update={
            "name": "patients", "classes": ["a", "b"], "sizes": Sizes(train=3, test=2), "holdout": 0,
            "source": Source(kind="folders"), "counts": None,
        }
    )  # fmt: skip
    (root / "patients").mkdir(parents=True)
    (root / "patients" / "card.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    config, card = compose({"dataset": "patients", "data_root": str(root), "eval.mode": "syn"})
    with pytest.raises(UserError, match=r"john-doe\.png"):
        run_prepare(config, card, store, source, True)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.data.tags["dpib.error"] == "UserError"
    everything = json.dumps([run.data.tags, run.data.params])
    kept = [path.read_bytes() for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert kept
    assert not any(b"john" in content for content in [everything.encode(), *kept])


def test_a_budget_that_cannot_hold_is_refused_before_anything_is_pretrained(small, store):
    with pytest.raises(UserError, match=r"over the budget of 0\.5"):
        run_main(*small(epsilon=0.5, train__noise_multiplier=0.5, public="glyphs_28"), store)
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []

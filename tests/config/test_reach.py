"""Which code decides a result: what a stage's modules import, and nothing else of the package."""

import pytest

from dpib.config import compose, reach
from dpib.config.fingerprint import fingerprint, stage_slice
from dpib.config.kinds import KINDS
from dpib.config.reach import reach_digest, reached


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the folder of a small package that stands in for this one."""
    folder = tmp_path / "made"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("from made.inner import b\n\n\ndef f():\n    import made.c\n    return made.c\n")
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "b.py").write_text('"""What b does."""\n\nX = 1\n')
    (folder / "c.py").write_text("import json\n")
    (folder / "d.py").write_text("X = 1\n")
    monkeypatch.setattr(reach, "_PACKAGE", folder)
    for cached in (reach._tree, reach._imports, reach._meaning):
        cached.cache_clear()
    yield folder
    for cached in (reach._tree, reach._imports, reach._meaning):
        cached.cache_clear()


def digest():
    for cached in (reach._tree, reach._imports, reach._meaning):
        cached.cache_clear()
    return reach_digest(["made.a"])


def test_what_is_imported_is_reached_at_any_remove_and_in_any_function(package):
    assert reached(["made.a"]) == {"made.a", "made.inner", "made.inner.b", "made.c"}


def test_code_that_is_reached_counts_and_words_about_it_do_not(package):
    before = digest()
    (package / "d.py").write_text("X = 2\n")
    (package / "inner" / "b.py").write_text('"""Told anew."""\n\n# A remark.\nX = 1  # another\n')
    assert digest() == before
    (package / "inner" / "b.py").write_text('"""Told anew."""\n\nX = 2\n')
    assert digest() != before


def test_every_kind_of_stage_has_code_of_its_own():
    for kind in KINDS.values():
        modules = reached([kind.source])
        assert kind.source in modules
        assert "dpib.config.schema" not in modules


def test_training_reaches_its_mechanisms_and_no_metric():
    modules = reached(["dpib.stages.train", "dpib.methods.diffusion"])
    assert {"dpib.privacy.vault", "dpib.privacy.rng", "dpib.training", "dpib.nn.denoiser"} <= modules
    assert not any(
        name.startswith(("dpib.sweeps", "dpib.metrics.fidelity", "dpib.stages.evaluate")) for name in modules
    )


def test_a_metric_or_a_lesson_from_outside_counts_where_it_is_asked_for(tmp_path):
    metric = tmp_path / "metric.py"
    metric.write_text("def m(synthetic, real):\n    return {'m': 1.0}\n")

    def keys():
        config, card = compose({"method": "pdp-diffusion", "public": "glyphs_28", "eval.metrics": f"['{metric}:m']"})
        return {stage: fingerprint(stage, config, card) for stage in ("pretrain", "train", "generate", "evaluate")}

    before = keys()
    metric.write_text("def m(synthetic, real):\n    return {'m': 2.0}\n")
    after = keys()
    assert {stage for stage in before if before[stage] != after[stage]} == {"evaluate"}


def test_a_method_says_which_of_its_sections_a_stage_reads(tmp_path):
    (tmp_path / "m.py").write_text(
        "from dpib.methods.kernel import MeanEmbedding\n"
        "class Other(MeanEmbedding):\n"
        "    reads = {'train': ('features', 'network', 'train'), 'generate': ('pretrain',)}\n"
    )
    config, _ = compose({"method": "dp-merf", "synthesizer": f"{tmp_path / 'm.py'}:Other"})
    assert {"features", "network", "train"} <= set(stage_slice("train", config))
    assert "pretrain" not in stage_slice("train", config)
    assert set(stage_slice("generate", config)) == {"seed", "generate", "pretrain"}


def test_how_a_lesson_is_learnt_is_no_part_of_its_query():
    config, _ = compose({"method": "dp-feta"})
    (asked,) = stage_slice("query", config)["lessons"]
    (learnt,) = stage_slice("pretrain", config)["lessons"]
    assert "fit" not in asked
    assert asked["samples"] == 3
    assert learnt["fit"] == {"steps": 600, "batch": 50, "augment": 2, "flip": False}
    assert not {"epsilon", "train", "network"} & set(stage_slice("query", config))


def test_no_module_imports_itself_at_any_remove():
    known = reach.modules()
    # A package's own __init__ is imported with every module of it, and says nothing about who needs whom.
    needs = {name: {m for m in reach._imports(name) if m in known and not name.startswith(f"{m}.")} for name in known}
    while free := {name for name, others in needs.items() if not others & needs.keys() - {name}}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert needs == {}

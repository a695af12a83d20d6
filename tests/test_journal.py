"""What a machine remembers of sensitive images, also when many processes write at once."""

import stat
from concurrent.futures import ThreadPoolExecutor

from dpib.journal import Journal


def test_everything_is_found_again_by_its_names(tmp_path):
    journal = Journal(tmp_path)
    journal.saw("run", "d1")
    journal.saw("run", "d2")
    assert journal.seen_by("run") == {"d1", "d2"}
    assert journal.seen_by("other") == set()
    journal.spend(["training", "images"], ["name:a", "images:d"], [("val/x", '{"id": 1}')])
    journal.spend(["training"], ["name:a"], [("val/y", '{"id": 2}')])
    assert journal.spent(["images"], ["name:a"]) == ['{"id": 1}']
    assert journal.spent(["training", "images"], ["name:b", "images:d", "name:a"]) == ['{"id": 1}', '{"id": 2}']
    assert journal.spent(["training"], ["name:b"]) == []
    journal.share("public", "d1", 3)
    assert (journal.shared("public", "d1"), journal.shared("public", "d2")) == (3, None)


def test_only_its_owner_can_read_it(tmp_path):
    Journal(tmp_path / "home").saw("run", "digest")
    assert stat.S_IMODE((tmp_path / "home" / "journal.db").stat().st_mode) == 0o600


def test_many_may_write_at_once_and_nothing_is_lost(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: Journal(tmp_path).saw(f"run {i}", str(i)), range(40)))
    assert [Journal(tmp_path).seen_by(f"run {i}") for i in range(40)] == [{str(i)} for i in range(40)]

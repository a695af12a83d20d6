"""The shared ledger of a sweep: concurrent charges, the cap, and scores that are released once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, BudgetError
from dpib.sweeps.book import Book


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'book.db'}"


def begin(url, epsilon=10.0):
    book = Book(url, "s")
    scopes = {"train": 1000, "val": 500}
    book.begin(Account(dataset="toy", relation="zero_out", epsilon=epsilon, delta=1e-5, scopes=scopes))
    return book


def charge(i, epsilon=0.5):
    return Charge(f"s/trial-{i:03d}/score", "pure", "", epsilon=epsilon)


def test_workers_who_charge_at_once_all_stand_in_the_ledger_once(url):
    begin(url)

    def work(i):
        Book(url, "s").reserve([charge(i % 12)], "val")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(24)))
    account = Book(url, "s").account()
    assert sorted(e.id for e in account.events) == [f"val/s/trial-{i:03d}/score" for i in range(12)]
    assert account.spent() == pytest.approx(6.0, rel=1e-3)


def test_the_cap_holds_for_all_workers_together(url):
    begin(url, epsilon=2.0)

    def work(i):
        try:
            Book(url, "s").reserve([charge(i)], "val")
        except BudgetError:
            return 0
        return 1

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(10))) == 4
    assert Book(url, "s").account().spent() <= 2.0


def test_a_score_is_what_was_published_first(url):
    book = begin(url)
    assert book.released("a") is None
    with ThreadPoolExecutor(4) as pool:
        seen = set(pool.map(lambda i: Book(url, "s").publish("a", float(i)), range(8)))
    assert len(seen) == 1
    assert book.released("a") == seen.pop()
    assert Book(url, "other").released("a") is None


def test_a_study_goes_on_with_the_account_that_it_has(url):
    begin(url).reserve([charge(0)], "val")
    again = begin(url, epsilon=99.0)
    assert again.account().epsilon == 10.0
    assert len(again.account().events) == 1

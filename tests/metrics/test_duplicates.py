"""Copies of sensitive images among public ones are counted, and near copies are not."""

import torch

from dpib.images import Images
from dpib.metrics.duplicates import count_duplicates


def some(n, seed):
    x = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Images(x, torch.zeros(n, dtype=torch.long))


def test_exact_copies_are_counted_once_each():
    sensitive, public = some(20, 0), some(30, 1)
    public.x[[3, 4, 9]] = sensitive.x[[0, 0, 7]]
    public.x[11] = sensitive.x[12]
    public.x[11, 0, 0, 0] ^= 1
    assert count_duplicates(sensitive, public) == 2
    assert count_duplicates(sensitive, some(30, 1)) == 0
    assert count_duplicates(sensitive, sensitive) == 20

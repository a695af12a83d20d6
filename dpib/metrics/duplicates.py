"""Exact copies between two sets of images: whether what is taken as public holds what is sensitive."""

from dpib.images import Images, record_digests


def count_duplicates(images: Images, others: Images) -> int:
    """Return how many of `images` equal one of `others` pixel by pixel; both uint8 of one shape.

    A copy that was compressed, cropped or resized otherwise is not found.
    """
    known = set(record_digests(others))
    return sum(digest in known for digest in record_digests(images))

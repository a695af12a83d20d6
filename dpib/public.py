"""Public images for pretraining, brought to the shape of the sensitive ones."""

import torch

from dpib.data import store
from dpib.data.catalog import Card, Sizes, Source, data_root, find_card
from dpib.data.folders import class_folders
from dpib.data.prepare import ensure
from dpib.data.sources import read_source
from dpib.images import Images
from dpib.paths import written_path

_LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def read_public(name: str, shape: tuple[int, int, int], configured_root: str | None) -> Images:
    """Return the public training images `name` (a data set, or the path of an image folder) as `shape`.

    Raises:
        UserError: when the data set is unknown or not prepared, or the folder is none of images.
    """
    folder = written_path(name)
    if folder.is_dir():
        card = Card(
            name="folder",
            title=name,
            shape=shape,
            classes=class_folders(folder),
            sizes=Sizes(train=1, test=0),
            source=Source(kind="folders"),
            citation="",
            licence="",
            homepage="",
        )
        return read_source(card, folder)["train"]
    root = data_root(configured_root)
    card = find_card(name, root)
    ensure(card, root)
    return adapt(store.read_split(root, card, "train"), shape)


def adapt(images: Images, shape: tuple[int, int, int]) -> Images:
    """Resize (bilinear, antialiased) and turn gray or RGB, a thousand images at a time."""
    from torchvision.transforms.v2 import functional as transforms  # seconds to import, and rarely needed

    c, h, w = shape
    if images.shape == shape:
        return images
    parts = []
    for chunk in images.chunks(1000):
        x = chunk.x
        if x.shape[1] == 3 and c == 1:
            # Rounded, not floored: repeating a gray image to RGB and back must give the image.
            x = (x.float() * _LUMA).sum(1, keepdim=True).round().to(torch.uint8)
        elif x.shape[1] == 1 and c == 3:
            x = x.expand(-1, 3, -1, -1)
        parts.append(transforms.resize(x, [h, w], antialias=True) if x.shape[2:] != (h, w) else x)
    return Images(torch.cat(parts), images.y)

"""Public images for pretraining, brought to the shape of the sensitive ones."""

from dpib.data import store
from dpib.data.catalog import Card, Sizes, Source, data_root, find_card
from dpib.data.folders import class_folders
from dpib.data.prepare import ensure
from dpib.data.resize import fit
from dpib.data.sources import read_source
from dpib.images import Images
from dpib.paths import written_path


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
    """Bring images to `shape` exactly as preparing a folder of them would."""
    return images if images.shape == shape else Images(fit(images.x, shape), images.y)

"""What people's folders look like: which folder names a split, what is left out and said, what is refused."""

import numpy as np
import pytest
from PIL import Image

from dpib.data.catalog import Card, Sizes, Source
from dpib.data.folders import class_folders, read_folders, read_image
from dpib.data.listing import listed
from dpib.errors import UserError
from tests.data.made import png


def put(folder, *names, raw=None):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((9, 9, 9)) if raw is None else raw)


def read(folder, test=1, say=lambda _: None):
    card = Card(
        name="own", title="own", shape=(3, 8, 8), classes=class_folders(folder), sizes=Sizes(train=1, test=test),
        source=Source(kind="folders"), citation="", licence="", homepage="",
    )  # fmt: skip
    return {split: len(images) for split, images in read_folders(card, folder, say).items()}


def numbered(folder, n):
    return [f"{folder}/{i}.png" for i in range(n)]


def test_only_the_topmost_folder_names_a_split(tmp_path):
    put(tmp_path, *numbered("train/train", 4), *numbered("train/car", 3), *numbered("test/train", 2), "test/car/0.png")
    assert class_folders(tmp_path) == ["car", "train"]
    assert read(tmp_path) == {"train": 7, "test": 3}


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path, *numbered("train", 20), *numbered("bus", 20))
    assert class_folders(tmp_path) == ["bus", "train"]
    assert read(tmp_path) == {"train": 36, "test": 4}


@pytest.mark.parametrize(
    ("train", "held_out"), [("Train", "Test"), ("TRAINING", "testing"), ("train", "val"), ("train", "Validation")]
)
def test_splits_are_known_by_their_usual_names(tmp_path, train, held_out):
    for kind in ("a", "b"):
        put(tmp_path / "wrapped" / "twice", *numbered(f"{train}/{kind}", 5), *numbered(f"{held_out}/{kind}", 2))
    lines = []
    assert read(tmp_path, say=lines.append) == {"train": 10, "test": 4}
    assert any("becomes the test set" in line for line in lines) == held_out.lower().startswith("val")


def test_official_validation_images_never_become_training_images(tmp_path):
    for split, n in (("train", 5), ("val", 3), ("test", 2)):
        put(tmp_path, *numbered(f"{split}/a", n), *numbered(f"{split}/b", n))
    lines = []
    assert read(tmp_path, say=lines.append) == {"train": 10, "test": 4}
    assert any("left out 6 images of 'val'" in line for line in lines)
    assert read(tmp_path, test=0) == {"train": 10}


@pytest.mark.parametrize(("a", "b", "test"), [(20, 20, {"a": 2, "b": 2}), (300, 6, {"a": 30, "b": 1})])
def test_the_own_split_takes_a_tenth_of_every_class(tmp_path, a, b, test):
    put(tmp_path, *numbered("a", a), *numbered("b", b))
    lines = []
    assert read(tmp_path, say=lines.append) == {"train": a + b - sum(test.values()), "test": sum(test.values())}
    assert any("a tenth of every class becomes the test set" in line for line in lines)


REFUSED = [
    (["a/0.png", "a/1.png", "b/0.png"], "class 'b' has one image"),
    (["train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png", "test/c/0.png"], "class 'c' in train, only in"),
    (["train/a/0.png", "train/b/0.png", "test/a/0.png"], "class 'b' in test, only in train"),
    (["train/a/0.png", "train/b/0.png", "test/"], "folder 'test' holds no image"),
    (["test/a/0.png", "test/b/0.png"], "none called 'train'"),
    (["train/a/0.png", "train/b/0.png", "test/a/0.png", "c/0.png"], "beside folder 'test', a split, stands 'c'"),
    (["train/0.png", "test/0.png"], "no class folders"),
    (["0.png", "1.png"], "no class folders"),
    (["a/0.png", "b/0.dcm", "b/1.dcm", "b/c"], "folder 'b' holds no image .*2 .dcm, 1 without an ending"),
]


@pytest.mark.parametrize(("names", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_a_folder_that_would_be_misread_is_refused_by_name(tmp_path, names, says):
    for name in names:
        (tmp_path / name).mkdir(parents=True) if name.endswith("/") else put(tmp_path, name)
    with pytest.raises(UserError, match=says) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_images_are_counted_and_said(tmp_path):
    put(tmp_path, *numbered("a", 3), *numbered("b", 3), "stray.png")
    put(tmp_path, "a/x.dcm", "a/y.DCM", "b/notes.txt", raw=b"text")
    lines = []
    assert read(tmp_path, say=lines.append) == {"train": 4, "test": 2}
    assert "own: left out 3 files that are no images by their names: 2 .dcm, 1 .txt" in lines
    assert "own: left out 1 images that lie in no class folder" in lines


def test_an_image_that_cannot_be_read_is_refused_by_name(tmp_path):
    put(tmp_path, *numbered("a", 3), *numbered("b", 3))
    put(tmp_path, "b/torn.jpg", raw=b"")
    with pytest.raises(UserError, match=r"b/torn.jpg cannot be read as an image"):
        read(tmp_path)


def test_hidden_files_are_passed_over(tmp_path):
    put(tmp_path, *numbered("a", 2), *numbered("b", 2))
    put(
        tmp_path, "a/._0.png", ".ipynb_checkpoints/0.png", "b/.ipynb_checkpoints/0.png", "__MACOSX/a/0.png", raw=b"junk"
    )
    lines = []
    assert read(tmp_path, say=lines.append) == {"train": 2, "test": 2}
    assert len(lines) == 1


def test_links_to_class_folders_are_followed(tmp_path):
    put(tmp_path / "elsewhere", *numbered("cats", 3), *numbered("dogs", 3))
    (tmp_path / "set" / "cat").parent.mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere" / "cats")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "elsewhere" / "dogs")
    assert read(tmp_path / "set") == {"train": 4, "test": 2}


@pytest.mark.parametrize(
    ("link", "target", "says"),
    [
        ("a/itself.png", "itself.png", "itself.png is a symbolic link that leads nowhere"),
        ("a/gone.png", "/nowhere/gone.png", "gone.png is a symbolic link that leads nowhere"),
        ("a/up", "..", "a/up is a symbolic link to a folder that holds it"),
    ],
)
def test_a_link_that_leads_nowhere_or_in_a_circle_is_named(tmp_path, link, target, says):
    put(tmp_path, *numbered("a", 2), *numbered("b", 2))
    (tmp_path / link).symlink_to(target)
    with pytest.raises(UserError, match=says):
        listed(tmp_path)


def test_images_of_every_usual_format_are_read(tmp_path):
    for suffix in ("png", "jpg", "tif", "gif", "bmp", "webp", "ppm"):
        for kind in ("a", "b"):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.new("RGB", (9, 9), (200, 0, 0)).save(tmp_path / kind / f"0.{suffix}")
    assert read(tmp_path) == {"train": 12, "test": 2}


def gray(folder, levels, suffix):
    folder.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.broadcast_to(levels, (64, 64)).copy()).save(folder / f"0.{suffix}")
    return (folder / f"0.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_gray_is_scaled_and_not_clipped(tmp_path, suffix):
    levels = np.linspace(0, 40_000, 64).astype(np.uint16)
    found = read_image(gray(tmp_path, levels, suffix), (1, 64, 64), "x")
    assert np.abs(found[0, 0].astype(float) - levels / 257).max() <= 1
    white = read_image(gray(tmp_path, np.full(64, 65_535, np.uint16), suffix), (3, 64, 64), "x")
    assert white.min() == 255


def test_what_has_no_white_or_several_pictures_is_refused(tmp_path):
    with pytest.raises(UserError, match="levels of 32 bits"):
        read_image(gray(tmp_path, np.zeros(64, np.float32), "tif"), (1, 8, 8), "x.tif")
    frames = [Image.new("L", (9, 9), level) for level in (0, 99)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"two.gif holds 2 images"):
        read_image((tmp_path / "two.gif").read_bytes(), (1, 8, 8), "two.gif")


def test_a_photograph_is_turned_upright(tmp_path):
    picture = Image.new("L", (40, 40))
    picture.paste(255, (0, 0, 40, 20))  # the top half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the top is at the right then
    picture.save(tmp_path / "x.jpg", exif=exif)
    found = read_image((tmp_path / "x.jpg").read_bytes(), (1, 8, 8), "x.jpg")[0]
    assert found[:, -2:].min() > 240
    assert found[:, :2].max() < 15

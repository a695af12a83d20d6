"""The user's own images under a name: what keeps it, what changes it, and what is refused with a cure."""

import os
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from dpib.data.catalog import find_card
from dpib.data.own import card_for
from dpib.data.prepare import prepare, require_writable
from dpib.data.store import read_split
from dpib.errors import UserError
from entrypoints.prepare import main
from tests.data.made import png


def fill(folder, kinds=("cat", "dog"), n=5, level=0):
    for k, kind in enumerate(kinds):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            (folder / kind / f"{i}.png").write_bytes(png((level, 40 * k, 9 * i)))
    return folder


@pytest.fixture
def pets(tmp_path):
    return fill(tmp_path / "pets")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def quietly(card, source, root, **how):
    return prepare(card, source, root, lambda _: None, **how)


@pytest.mark.parametrize("kinds", [("none", "1e3"), ("007", "12:30"), ("yes", "null"), ("2024-01-01", "~")])
def test_any_name_of_a_class_survives_its_card(tmp_path, root, kinds):
    card_for("own", fill(tmp_path / "odd", kinds), root, 8, None)
    assert find_card("own", root).classes == sorted(kinds)


def test_the_same_again_is_fine_and_other_images_are_refused(pets, tmp_path, root):
    for _ in range(2):
        card = card_for("own", pets, root, 8, None)
        quietly(card, pets, root)
    others = fill(tmp_path / "others", level=200)
    with pytest.raises(UserError, match=r"prepared from other images than these .* -P replace=true"):
        quietly(card_for("own", others, root, None, None), others, root)
    assert int(read_split(root, card, "train").x[:, 0].max()) == 0


@pytest.mark.parametrize(
    ("change", "how", "says"),
    [
        (lambda pets: fill(pets, n=6), {}, r"the source holds 10: .*-P replace=true"),
        (lambda pets: fill(pets, ("emu",)), {}, r"'emu' is in one of both alone.*-P replace=true"),
        (lambda pets: None, {"side": 16}, r"has 8 pixels, in colour: .*-P replace=true"),
        (lambda pets: None, {"gray": True}, r"has 8 pixels, in colour: .*-P replace=true"),
    ],
)
def test_a_change_is_refused_with_a_cure_and_made_where_it_is_wanted(pets, root, change, how, says):
    how = {"side": None, "gray": None, **how}
    before = card_for("own", pets, root, 8, None)
    quietly(before, pets, root)
    change(pets)
    with pytest.raises(UserError, match=says):
        quietly(card_for("own", pets, root, **how), pets, root)
    after = card_for("own", pets, root, **how, replace=True)
    quietly(after, pets, root)
    assert after != before
    assert after.version == 2  # no finished run of the old images is taken for one of these
    assert after.shape == ((1 if how["gray"] else 3), how["side"] or 8, how["side"] or 8)
    assert card_for("own", pets, root, **how, replace=True).version == 2


def test_a_zip_of_own_images_is_read(pets, tmp_path, root):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(pets.rglob("*")):
            archive.write(path, f"download/{path.relative_to(tmp_path)}")
    assert card_for("zipped", tmp_path / "pets.zip", root, 8, None).classes == ["cat", "dog"]


def call(*arguments):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    (line,) = result.output.strip().splitlines()
    return line


LONG = "x" * 300


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size=0"], "shape must be"),
        (["--size=-4"], "shape must be"),
        (["--size=100000"], "shape must be"),
        (["--size=big"], "size: input should be a valid integer, got 'big'"),
        (["--gray=perhaps"], "gray: input should be a valid boolean"),
        (["--dataset=my pets"], "'my pets' is no name of a data set"),
        (["--dataset=a/b"], "'a/b' is no name of a data set"),
        (["--dataset=../x"], "'../x' is no name of a data set"),
        (["--dataset=none"], "'none' is no name of a data set"),
        ([f"--dataset={LONG}"], "is no name of a data set"),
        (["--source=pets.tar"], "is not a readable zip archive"),
        (["--source=gone/pets"], "/gone/pets does not exist: give the whole path"),
        ([f"--source={LONG}"], "is no path"),
        (["--data_root=pets.tar"], "pets.tar is none: give -P data_root=<folder>"),
        (["--data_root=pets.tar/inside"], "pets.tar is none: give -P data_root=<folder>"),
        (["--data_root=/proc/here"], "/proc/here cannot be written"),
        (["--dataset=digits_28"], "comes with dpib and takes no source"),
        (["--dataset=mnist_28", "--size=32"], "has 28 pixels, gray: take another name"),
    ],
)
def test_what_cannot_be_prepared_is_refused_in_one_line(pets, tmp_path, arguments, says, tracking_uri):
    (tmp_path / "pets.tar").write_bytes(b"no zip")
    given = dict(argument.split("=", 1) for argument in arguments)
    line = call(*(f"{k}={v}" for k, v in {"--dataset": "own", "--source": str(pets), **given}.items()))
    assert line.startswith("Error: ")
    assert says in line
    assert len(line) < 400


def test_a_refused_name_leaves_nothing_that_is_listed(pets, tmp_path, root):
    with pytest.raises(UserError):
        card_for("own", pets, root, 0, None)
    with pytest.raises(UserError) as error:
        find_card("ownn", root)
    assert not root.exists()
    assert "own," not in str(error.value)


def test_a_card_given_by_its_path_is_prepared_by_the_command_that_its_absence_names(tmp_path, root):
    (tmp_path / "h.yaml").write_text(
        "{name: h, title: H, shape: [1, 8, 8], classes: [a, b], sizes: {train: 4, test: 2}, "
        "source: {kind: folders}, citation: c, licence: l, homepage: h}"
    )
    card = find_card(str(tmp_path / "h.yaml"), root)
    with pytest.raises(UserError, match=f"-P dataset={tmp_path}/h.yaml -P source=<folder"):
        read_split(root, card, "train")


def test_black_and_white_as_0_and_1_is_refused(tmp_path, root):
    (tmp_path / "h.yaml").write_text(
        "{name: h, title: H, shape: [1, 8, 8], classes: [a, b], sizes: {train: 4, test: 0}, "
        "source: {kind: folders}, citation: c, licence: l, homepage: h}"
    )
    (tmp_path / "made").mkdir()
    np.savez(tmp_path / "made" / "train.npz", images=np.ones((4, 8, 8), np.uint8), labels=np.arange(4) % 2)
    with pytest.raises(UserError, match="only 0 and 1"):
        quietly(find_card(str(tmp_path / "h.yaml"), root), tmp_path / "made", root)


def test_a_root_that_can_be_made_is_not_made_yet(tmp_path):
    require_writable(tmp_path / "not" / "yet")
    assert os.listdir(tmp_path) == []  # noqa: PTH208

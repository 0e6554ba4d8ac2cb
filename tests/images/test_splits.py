"""Which folder or file is which split, in every reader; linked folders are followed; what is skipped over is counted and said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from scenes import ade20k, nyu
from sets import CLASSES, as_folders, as_parquet, as_saved, as_shards, content, images, members_of, write_shard

from svgbench.config.schema import Data
from svgbench.errors import BadData
from svgbench.images import dense_sets, hub_datasets, shards, sources
from svgbench.images.listing import SUFFIXES
from svgbench.images.scan import Skipped, walk
from svgbench.images.splits import choose_splits, split_of
from svgbench.metrics.image_sets import ImageFiles

WHOLE = {"train": 18, "val": 6}


def asked(root):
    return Data(source=str(root), resolution=16)


def listed(root):
    listing = sources.list_images(asked(root))
    return {"train": len(listing.train), "val": len(listing.val)}, listing.classes


def put(root: Path, *names: str, each: int = 3) -> Path:
    """A few images in each of some folders."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            (root / name / f"{i}.jpg").write_bytes(content(number, i))
    return root


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("TRAIN", "train"), ("Training", "train"), ("ILSVRC2012_img_train", "train"),
        ("imagenet-train-000012.tar", "train"), ("train2017", "train"), ("imagenetTrain", "train"), ("00_train", "train"),
        ("train-00000-of-00002.parquet", "train"),
        ("Val", "val"), ("valid", "val"), ("VALIDATION", "val"), ("val_256", "val"), ("dev", "val"), ("ILSVRC2012_img_val", "val"),
        ("TEST", "test"), ("testing", "test"), ("c-test-0.tar", "test"), ("eval", "test"),
        ("portrait-000.tar", None), ("strain-01.tar", None), ("medieval-0.tar", None), ("validated", None), ("trainval", None),
        ("train_val", None), ("contest", None), ("latest", None), ("interval", None), ("n01440764", None), ("", None),
    ],
)  # fmt: skip
def test_names_are_split_into_words_before_they_are_understood(name, split):
    assert split_of(name) == split


def test_a_name_that_says_its_split_twice_is_of_that_split(tmp_path):
    assert choose_splits(tmp_path, ["train_training-0", "train_training-1", "my-val"], Skipped()) == (
        ["train_training-0", "train_training-1"],
        ["my-val"],
    )


# --- class folders ---


@pytest.mark.parametrize(
    ("train", "val"),
    [("training_set", "validation_set"), ("Train", "valid"), ("train", "Dev"), ("imagenet_TRAINING", "VAL"), ("tRain", "testset")],
)
def test_split_folders_of_any_name_are_splits(tmp_path, train, val):
    root = as_folders(tmp_path, images())
    (root / "train").rename(root / train)
    (root / "val").rename(root / val)
    assert listed(root) == (WHOLE, CLASSES)


def test_a_test_folder_stands_in_for_validation_and_that_is_said(tmp_path, capsys):
    root = as_folders(tmp_path, images())
    (root / "val").rename(root / "test")
    sources.identity(asked(root))
    assert "there is no validation split, so the test split (test) is used for validation" in capsys.readouterr().err
    assert listed(root) == (WHOLE, CLASSES)


def test_what_is_left_out_beside_the_splits_is_said_once(tmp_path, capsys):
    root = as_folders(tmp_path, images())
    put(root, "test/ant", "unsorted")
    (root / "train" / "ant" / "list.txt").write_text("x")
    (root / "train" / "ant" / "film.gif").write_bytes(b"GIF89a")
    (root / "train" / "bee" / ".hidden.jpg").write_bytes(b"x")
    (root / "train" / "sheet.jpg").write_bytes(content(0, 50))
    for _ in range(2):
        sources.identity(asked(root))
    said = capsys.readouterr().err
    assert "2 files with other suffixes (1 .txt, 1 .gif)" in said or "2 files with other suffixes (1 .gif, 1 .txt)" in said
    assert "1 hidden" in said and "1 image outside class folders" in said
    assert "2 folders or files of neither split (test, unsorted)" in said
    assert len(said.splitlines()) == 1
    assert listed(root) == (WHOLE, CLASSES)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "bus", "car"), ("bullet_train", "freight-train", "tram"), ("valid", "invalid"), ("test", "control"),
        ("train_station/outdoor", "train_station/platform", "abbey", "bus"), ("train/steam", "train/diesel", "bus/red", "bus/blue"),
    ],
)  # fmt: skip
def test_classes_named_like_splits_stay_classes(tmp_path, names):
    assert listed(put(tmp_path, *names))[1] == tuple(sorted({name.split("/")[0] for name in names}))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train/a", "train/b", "val/a", "valid/a"), "'val' and 'valid' are both named like the val split; remove or rename one"),
        (("train/a", "train/b", "training/a", "val/a"), "'train' and 'training' are both named like the train split"),
        (("train", "val"), r"train, val named like a split, without class folders"),
        (("train", "val/a", "val/b"), "train named like a split, without class folders"),
        (("val/a", "val/b", "test/a"), r"has validation or test images \(val\), but no name contains 'train'"),
        (("train/a", "train/b", "extra/a", "extra/b"), r"'train' looks like a split, but there are also folders of images .* \(extra\)"),
        (("train/a", "train/b", "unlabelled"), r"'train' looks like a split, but there are also .* \(unlabelled\)"),
        (
            ("train/a", "train/b", "val/a", "val/c"),
            r"val: has classes without training images \(c\); the training images have 2 classes \(a, b\)",
        ),
    ],
)
def test_splits_that_cannot_be_told_are_one_sentence(tmp_path, names, words):
    with pytest.raises(BadData, match=words) as raised:
        sources.list_images(asked(put(tmp_path, *names)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("mini/train/a", "mini/train/b", "mini/val/a"), r"its only folder, 'mini', would be the only class; give .*/mini\."),
        (("images/a", "images/b"), r"its only folder, 'images', .* give .*/images\."),
        (("x/y/train/a", "x/y/test/a"), r"give .*/x/y\."),
        (("photos",), "has only one class, 'photos', and needs two; sort the images into a folder for each class"),
        (("images/cat_1", "images/cat_2", "annotations/cat_1"), "contains 'images' and 'annotations', which are not classes"),
        (("leftImg8bit/train/a", "gtFine/train/a"), "contains 'leftImg8bit' and 'gtFine', which are not classes"),
        (("JPEGImages", "SegmentationClass", "ImageSets/Main"), "contains 'JPEGImages' and 'SegmentationClass', which are not classes"),
        (("cat/train", "cat/val", "dog/train", "dog/val"), r"the folders cat, dog contain splits \(train, val\)"),
        (("cat/Training", "cat/Test", "dog/Training", "dog/Test", "owl"), "the folders cat, dog contain splits"),
        (("data_256/abbey", "data_256/barn", "val_256"), "'val_256' looks like a split, but there are also folders of images .*data_256"),
        (("bedroom_train", "bedroom_val"), "sort the images into folders like train/CLASS/image.jpg"),
    ],
)
def test_folders_that_are_no_classes_are_one_sentence_with_the_right_folder(tmp_path, names, words):
    """Also before a byte of an image is read: a user with a million files hears of it at once."""
    root = put(tmp_path, *names)
    for use in (sources.list_images, sources.identity):
        with pytest.raises(BadData, match=words) as raised:
            use(asked(root))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("train", "val"), [("train/train", "test/test"), ("s_train/s_train", "s_test/s_test"), ("train", "val/Val")])
def test_a_split_that_holds_itself_alone_is_looked_into(tmp_path, train, val):
    put(tmp_path, *(f"{split}/{name}" for split in (train, val) for name in ("forest", "sea")))
    assert listed(tmp_path) == ({"train": 6, "val": 6}, ("forest", "sea"))
    assert listed(tmp_path / train.split("/")[0])[1] == ("forest", "sea")


@pytest.mark.parametrize("name", ["train", "photos"])
def test_a_folder_that_holds_nothing_but_a_link_to_itself_is_one_sentence(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / name).symlink_to(tmp_path / name)
    with pytest.raises(BadData, match=f"contains no images|its only folder, '{name}'"):
        sources.list_images(asked(tmp_path))


def test_classes_of_folders_alone_are_taken_and_that_is_said(tmp_path, capsys):
    put(tmp_path, "a/abbey", "a/airport", "b/barn")
    sources.identity(asked(tmp_path))
    assert "each folder in it is a class, with all images below it (a/abbey is of the class a)" in capsys.readouterr().err
    put(tmp_path, "b")
    sources.identity(asked(tmp_path))
    assert "each folder in it" not in capsys.readouterr().err
    assert listed(tmp_path)[1] == ("a", "b")


def test_without_a_validation_split_it_is_said_that_images_are_held_out(tmp_path, capsys):
    put(tmp_path, "train/a", "train/b", "extra")
    shutil.rmtree(tmp_path / "extra")
    sources.identity(asked(tmp_path))
    assert "there is no validation split, so a share of each class of the training images is held out" in capsys.readouterr().err


def test_folders_that_systems_leave_are_hidden(tmp_path, capsys):
    put(tmp_path, "train/a", "train/b", "val/a")
    put(tmp_path, "train/a/@eaDir/0.jpg", "train/__MACOSX/a", "train/lost+found", "val/@eaDir", "__MACOSX/val")
    assert listed(tmp_path) == ({"train": 6, "val": 3}, ("a", "b"))
    sources.identity(asked(tmp_path))
    assert "hidden" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["photographs.zip", "train.tar.gz", "set.tgz"])
def test_archives_alone_are_to_be_unpacked(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadData, match=f"but archives .{name}.; unpack them"):
        sources.list_images(asked(tmp_path))


# --- shards and datasets ---


@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_files_that_are_absent_of_their_stated_number_are_said(tmp_path, capsys, form):
    if form == "parquet":
        root = as_parquet(tmp_path, images())
        (root / "data" / "train-00001-of-00002.parquet").unlink()
    else:
        held = images()
        write_shard(tmp_path / "train-000-of-002.tar", members_of(held["train"]))
        write_shard(tmp_path / "val-0-of-1.tar", members_of(held["val"]))
        root = tmp_path
    sources.identity(asked(root))
    said = capsys.readouterr().err
    assert "1 of the 2 files train-*-of-00" in said and "val" not in said.split(";")[0].replace(str(root), "")


@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_pipes_named_like_data_files_are_said(tmp_path, capsys, form):
    root = {"shards": as_shards, "parquet": as_parquet}[form](tmp_path, images())
    os.mkfifo(root / ("set-train-2.tar" if form == "shards" else "data/train-extra.parquet"))
    sources.identity(asked(root))
    assert "skipped 1 pipe or device (" in capsys.readouterr().err
    assert listed(root) == (WHOLE, CLASSES)


def test_a_table_beside_class_folders_is_no_dataset(tmp_path):
    as_parquet(tmp_path / "other", images())
    as_folders(tmp_path / "set", images())
    shutil.copy(tmp_path / "other" / "data" / "train-00000-of-00002.parquet", tmp_path / "set" / "metadata.parquet")
    assert not hub_datasets.holds(tmp_path / "set")
    assert listed(tmp_path / "set") == (WHOLE, CLASSES)


def test_names_of_classes_beside_shards_are_read_and_not_passed_over(tmp_path, capsys):
    held = images()
    for split, names in (("train", CLASSES), ("val", CLASSES[::-1])):
        rows = [(name, names.index(CLASSES[label]), data) for name, label, data in held[split]]
        write_shard(tmp_path / split / "0.tar", members_of(rows))
        (tmp_path / split / "classes.txt").write_text("\r\n".join(names), "utf-8-sig")
    assert listed(tmp_path) == (WHOLE, CLASSES)
    sources.identity(asked(tmp_path))
    assert capsys.readouterr().err == ""


def test_imagenet_s_archive_of_archives_is_to_be_unpacked(tmp_path):
    for split in ("train", "val"):
        write_shard(tmp_path / f"ILSVRC2012_img_{split}.tar", [("n01440764.tar", b"x" * 512), ("n01443537.tar", b"x" * 512)])
    with pytest.raises(BadData, match=r"contains archives \(n01440764\.tar\) and no images; unpack all of them"):
        sources.list_images(asked(tmp_path))


@pytest.mark.parametrize("form", ["shards", "saved", "parquet"])
def test_a_test_split_without_labels_is_to_be_moved_away(tmp_path, form):
    held = images()
    held["val"] = [(name, -1, data) for name, _, data in held["val"]]
    root = {"shards": as_shards, "saved": as_saved, "parquet": as_parquet}[form](tmp_path, held)
    for path in sorted(tmp_path.rglob("*val*")):
        path.rename(path.with_name(path.name.replace("validation", "test").replace("val", "test")))
    if form == "saved":
        about = root / "dataset_dict.json"
        about.write_text(about.read_text().replace("validation", "test"))
    with pytest.raises(BadData, match=r"has no label \(-1\); correct .*or move the files of a split without labels"):
        sources.list_images(asked(root))


def test_shards_are_split_by_words_and_the_rest_is_said(tmp_path, capsys):
    for name, rows in (("A-TRAIN-0", images()["train"]), ("a-Validation-0", images()["val"]), ("portrait-0", images()["val"])):
        write_shard(tmp_path / f"{name}.tar", members_of(rows))
    sources.identity(asked(tmp_path))
    assert "1 folder or file of neither split (portrait-0.tar)" in capsys.readouterr().err
    assert listed(tmp_path)[0] == WHOLE


def test_shards_whose_names_only_look_like_splits_are_all_taken(tmp_path):
    for number, name in enumerate(("portrait-000", "strain-01", "medieval-0")):
        write_shard(tmp_path / f"{name}.tar", members_of([(f"{number}{n}", c, d) for n, c, d in images()["train"][number::3]]))
    counts, _ = listed(tmp_path)
    assert sum(counts.values()) == 18
    write_shard(tmp_path / "more" / "0.tar", members_of(images()["val"]))
    skipped = Skipped()
    assert len(shards.files(tmp_path, skipped)[1]) == 3 and skipped.others == ["more"]


def test_shards_in_split_folders_of_any_name_and_behind_links(tmp_path):
    write_shard(tmp_path / "disk" / "0.tar", members_of(images()["train"]))
    write_shard(tmp_path / "in" / "Testing" / "0.tar", members_of(images()["val"]))
    (tmp_path / "in" / "Training").mkdir()
    (tmp_path / "in" / "Training" / "more").symlink_to(tmp_path / "disk")
    assert listed(tmp_path / "in")[0] == WHOLE


def test_parquet_splits_are_found_by_words_and_folders(tmp_path):
    root = as_parquet(tmp_path / "in", images())
    for file in sorted((root / "data").iterdir()):
        file.rename(file.with_name(file.name.replace("train-", "animals-TRAIN-").replace("validation-", "animals-dev-")))
    assert listed(root)[0] == WHOLE
    for split, place in (("TRAIN", "Training"), ("dev", "VAL")):
        (root / "data" / place).mkdir()
        for file in sorted((root / "data").glob(f"*{split}*.parquet")):
            file.rename(root / "data" / place / file.name.replace(split, "x"))
    assert listed(root)[0] == WHOLE


def test_parquet_without_a_training_split_is_refused(tmp_path):
    root = as_parquet(tmp_path, images())
    for file in (root / "data").glob("train*"):
        file.unlink()
    with pytest.raises(BadData, match=r"has validation or test images .* no name contains 'train'"):
        sources.list_images(asked(root))


def test_saved_datasets_with_other_names_of_splits(tmp_path):
    import json

    root = as_saved(tmp_path, images())
    (root / "train").rename(root / "training")
    (root / "validation").rename(root / "test")
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["training", "test"]}))
    assert listed(root)[0] == WHOLE


def test_splits_that_were_saved_apart_are_one_dataset(tmp_path):
    root = as_saved(tmp_path, images())
    (root / "dataset_dict.json").unlink()
    (root / "train").rename(root / "Train")
    assert listed(root) == (WHOLE, CLASSES)


def test_training_files_beside_a_folder_of_validation_files_are_splits(tmp_path):
    write_shard(tmp_path / "tar" / "set-train-0.tar", members_of(images()["train"]))
    write_shard(tmp_path / "tar" / "val" / "0.tar", members_of(images()["val"]))
    root = as_parquet(tmp_path / "parquet", images())
    (root / "data" / "Validation").mkdir()
    (root / "data" / "other").mkdir()
    for file in sorted((root / "data").glob("val*.parquet")):
        shutil.copy(file, root / "data" / "other")
        file.rename(root / "data" / "Validation" / "0000.parquet")
    for place in ("tar", "parquet"):
        assert listed(tmp_path / place)[0] == WHOLE
    skipped = Skipped()
    hub_datasets.files(root, skipped)
    assert skipped.others == ["other"]
    (tmp_path / "tar" / "set-train-0.tar").rename(tmp_path / "tar" / "set-0.tar")
    with pytest.raises(BadData, match=r"has validation or test images \(val\), but no name contains 'train'"):
        sources.list_images(asked(tmp_path / "tar"))


# --- links ---


def test_linked_folders_are_followed_wherever_they_are(tmp_path):
    root = as_folders(tmp_path / "disk", images())
    (tmp_path / "in" / "val").mkdir(parents=True)
    (tmp_path / "in" / "train").symlink_to(root / "train")
    for name in CLASSES:
        (tmp_path / "in" / "val" / name).symlink_to(root / "val" / name)
    assert listed(tmp_path / "in") == (WHOLE, CLASSES)
    assert sources.identity(asked(tmp_path / "in")) == sources.identity(asked(root))
    assert len(ImageFiles(tmp_path / "in")) == 24


def test_loops_and_links_that_lead_nowhere_are_passed_over_and_named(tmp_path, capsys):
    root = as_folders(tmp_path / "in", images())
    ant = root / "train" / "ant"
    (ant / "up").symlink_to("..")
    (ant / "self").symlink_to(ant / "self")
    (ant / "above").symlink_to(tmp_path)
    (ant / "again").symlink_to(ant)
    (ant / "missing").symlink_to(tmp_path / "disk2")
    assert listed(root) == (WHOLE, CLASSES)
    sources.identity(asked(root))
    said = capsys.readouterr().err
    assert "3 links to folders that are listed already (train/ant/above, train/ant/again, train/ant/up)" in said
    assert "2 broken links (train/ant/missing, train/ant/self)" in said


def test_links_to_a_disk_that_is_absent_are_said_or_refused(tmp_path, capsys):
    root = as_folders(tmp_path / "folders", images())
    (root / "train" / "dog").symlink_to(tmp_path / "disk2")
    sources.identity(asked(root))
    assert "1 broken link (dog)" in capsys.readouterr().err
    for form, name in ((as_shards, "set-train-9.tar"), (as_parquet, "data/train-9.parquet")):
        root = form(tmp_path / form.__name__, images())
        (root / name).symlink_to(tmp_path / "disk2")
        with pytest.raises(BadData, match=rf"{name}: is a broken symbolic link; mount what it points to, or remove it"):
            sources.list_images(asked(root))
    root = as_folders(tmp_path / "more", images())
    shutil.rmtree(root / "val")
    (root / "validation").symlink_to(tmp_path / "disk2")
    with pytest.raises(BadData, match="validation: is a broken symbolic link"):
        sources.list_images(asked(root))


def test_a_folder_behind_two_links_is_listed_once_and_the_order_does_not_depend_on_the_disk(tmp_path):
    put(tmp_path, "disk")
    (tmp_path / "in").mkdir()
    for name in ("z", "a"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "disk")
    skipped = Skipped()
    assert [file.path for file in walk(tmp_path / "in", "", SUFFIXES, skipped)] == ["a/0.jpg", "a/1.jpg", "a/2.jpg"]
    assert skipped.loops == ["z"]


def test_images_of_every_suffix_are_listed(tmp_path):
    for number, suffix in enumerate((".JPEG", ".Jpe", ".jfif", ".PNG", ".pgm", ".pnm", ".TIFF", ".webp")):
        for name in ("ant", "bee"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}{suffix}").write_bytes(content(0, number))
    assert sum(listed(tmp_path)[0].values()) == 16


# --- dense sets ---


@pytest.mark.parametrize(("kind", "make", "targets"), [("segmentation", ade20k, "annotations"), ("depth", nyu, "depth")])
def test_dense_splits_of_any_name_and_behind_links(tmp_path, kind, make, targets):
    root = make(tmp_path / "disk")
    wanted = dense_sets.open_set(kind, str(root))
    other = tmp_path / "in"
    for part, name in (("images", "Images"), (targets, targets.upper())):
        (other / name).mkdir(parents=True)
        (other / name / "Train").symlink_to(root / part / "training")
        shutil.copytree(root / part / "validation", other / name / "val")
    found = dense_sets.open_set(kind, str(other))
    assert [Path(pair.image).name for pair in found.training] == [Path(pair.image).name for pair in wanted.training]
    assert len(found.validation) == 4 and found.training[0].image.startswith("Images/Train/")


def test_twins_other_suffixes_and_other_splits_of_a_dense_set_are_said(tmp_path, capsys):
    root = ade20k(tmp_path)
    pair = dense_sets.open_set("segmentation", str(root)).training[0]
    capsys.readouterr()
    shutil.copy(root / pair.image, (root / pair.image).with_suffix(".png"))
    (root / pair.target).with_suffix(".json").write_text("{}")
    (root / "images" / "test").mkdir()
    found = dense_sets.open_set("segmentation", str(root))
    said = capsys.readouterr().err
    assert found.training[0] == pair and len(found.training) == 6
    assert "1 file with the name of another and a different suffix (images/training/ADE_training_00000000.png)" in said
    assert "1 file with other suffixes (1 .json)" in said and "(images/test)" in said


def test_dense_splits_that_do_not_fit_are_one_sentence(tmp_path):
    root = ade20k(tmp_path)
    (root / "annotations" / "validation").rename(root / "annotations" / "test")
    with pytest.raises(BadData, match="images/validation and annotations/test are different splits"):
        dense_sets.open_set("segmentation", str(root))
    shutil.copytree(root / "images" / "validation", root / "images" / "val")
    with pytest.raises(BadData, match="'val' and 'validation' are both named like the val split"):
        dense_sets.open_set("segmentation", str(root))


def test_eval_lists_linked_folders_and_says_what_it_passes_over(tmp_path, capsys):
    from PIL import Image

    for name in ("in/a.png", "disk/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "in" / "c.gif").write_bytes(b"GIF89a")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert [path.relative_to(tmp_path / "in").as_posix() for path in ImageFiles(tmp_path / "in").paths] == ["a.png", "more/b.png"]
    said = capsys.readouterr().err
    assert "1 file with other suffixes (1 .gif)" in said and "1 link to a folder that is listed already (loop)" in said


# --- classes by name ---


def labels_by_name(root):
    """Of each validation image: the class its name indicates, and the class it is listed under."""
    listing = sources.list_images(asked(root))
    return [(CLASSES[int(entry.path.rsplit("-", 2)[1])], listing.classes[entry.label]) for entry in (*listing.train, *listing.val)]


def parquet(path, rows, names, *, texts=False):
    """A parquet file whose labels are numbers into ``names``, or the names themselves."""
    import datasets

    kind = datasets.Value("string") if texts else datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    table = {"image": [{"bytes": data, "path": name} for name, _, data in rows]}
    table["label"] = [CLASSES[c] if texts else names.index(CLASSES[c]) if names else c for _, c, _ in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(table, features=datasets.Features({"image": datasets.Image(), "label": kind})).to_parquet(str(path))


@pytest.mark.parametrize(
    ("first", "second", "val"),
    [
        (CLASSES, ("cat", "bee", "ant"), ("bee", "cat", "ant")),  # each file has an order of its own
        (CLASSES, CLASSES, ("ant", "aphid", "bee", "cat")),  # validation declares a class more, which none of its images is of
        (CLASSES, CLASSES, "texts"),
        ("texts", "texts", ("cat", "ant", "bee")),
        ("texts", CLASSES, "texts"),
    ],
)
def test_labels_of_parquet_files_are_compared_by_name(tmp_path, first, second, val):
    held = images()
    parts = {"train-0": (held["train"][::2], first), "train-1": (held["train"][1::2], second), "val-0": (held["val"], val)}
    for place, (rows, names) in parts.items():
        parquet(tmp_path / f"{place}.parquet", rows, names, texts=names == "texts")
    found = labels_by_name(tmp_path)
    assert len(found) == 24 and all(said == listed for said, listed in found)


def test_saved_splits_with_other_orders_of_classes_are_compared_by_name(tmp_path):
    import datasets
    from sets import as_datasets

    made, order = as_datasets(images()), ["cat", "ant", "bee"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=order)})
    files = made["validation"].cast_column("image", datasets.Image(decode=False))["image"]
    rows = {"image": list(files), "label": [order.index(CLASSES[c]) for c in made["validation"]["label"]]}
    made["validation"] = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(str(tmp_path))
    found = labels_by_name(tmp_path)
    assert len(found) == 24 and all(said == listed for said, listed in found)


def test_names_that_training_does_not_have_are_refused_with_both_lists(tmp_path):
    held = images()
    parquet(tmp_path / "train-0.parquet", held["train"], CLASSES)
    parquet(tmp_path / "val-0.parquet", held["val"], ("ant", "bee", "cat"))
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "val-0.parquet")
    words = table.schema.metadata[b"huggingface"].replace(b'"bee"', b'"elk"')
    pq.write_table(table.replace_schema_metadata({"huggingface": words}), tmp_path / "val-0.parquet")
    with pytest.raises(
        BadData, match=r"val-0\.parquet: has classes without .* \(elk\); the training images have 3 classes \(ant, bee, cat\)"
    ):
        sources.list_images(asked(tmp_path))


def test_numbers_beside_names_are_taken_as_the_training_s_and_that_is_said(tmp_path, capsys):
    held = images()
    parquet(tmp_path / "train-0.parquet", held["train"], CLASSES)
    parquet(tmp_path / "val-0.parquet", held["val"], None)
    assert all(said == listed for said, listed in labels_by_name(tmp_path))
    assert "val-0.parquet: has no class names; its labels are assumed to number the classes" in capsys.readouterr().err
    parquet(tmp_path / "train-0.parquet", held["train"], CLASSES, texts=True)
    with pytest.raises(BadData, match=r"has classes without training images \(0, 1, 2\)"):
        sources.list_images(asked(tmp_path))


def shards_by_name(root, order, *, folders=False, names=True):
    """Shards whose validation labels count another order of the classes."""
    for split, rows in images().items():
        own = order if split == "val" else CLASSES
        rows = [(f"{CLASSES[c]}/{name}" if folders else name, own.index(CLASSES[c]), data) for name, c, data in rows]
        write_shard(root / split / "0.tar", members_of(rows))
        if names:
            (root / split / "classes.txt").write_text("\n".join(own))
    return root


@pytest.mark.parametrize("how", [{"folders": False}, {"folders": True}, {"folders": True, "names": False}])
def test_labels_of_shards_are_compared_by_name(tmp_path, how):
    found = labels_by_name(shards_by_name(tmp_path, ("cat", "ant", "bee"), **how))
    assert len(found) == 24 and all(said == listed for said, listed in found)


def test_classes_of_shards_that_training_does_not_have_are_refused_with_both_lists(tmp_path):
    root = shards_by_name(tmp_path / "a", ("cat", "ant", "bee"))
    (root / "val" / "classes.txt").write_text("cat\nant\nelk\n")
    with pytest.raises(
        BadData, match=r"val/classes\.txt: has classes without .* \(elk\); the training images have 3 classes \(ant, bee, cat\)"
    ):
        sources.list_images(asked(root))
    (root / "train" / "classes.txt").unlink()
    with pytest.raises(BadData, match=r"\(ant, cat, elk\); the training images have 3 classes \(0, 1, 2\)"):
        sources.list_images(asked(root))
    assert listed(as_shards(tmp_path / "b", images()))[1] == CLASSES

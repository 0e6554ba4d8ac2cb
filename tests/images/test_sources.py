"""Class folders, webdataset shards and Hugging Face datasets: one set of images in any form makes one store; bad ones are one sentence."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest
from sets import CLASSES, FORMS, as_datasets, as_folders, as_parquet, as_saved, as_shards, content, images, members_of, write_shard

from svgbench.config.schema import Data
from svgbench.errors import BadData
from svgbench.images.packing import pack
from svgbench.images.sources import identity, list_images
from svgbench.images.store import open_images
from svgbench.machine.runtime import Runtime

QUIET = Runtime(device="cpu", quiet=True)


def asked(root, **fields):
    return Data(source=str(root), resolution=16, **fields)


def arrays(out):
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.npy"))}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same images packed from every form, and what packing said."""
    place = tmp_path_factory.mktemp("forms")
    outs = {form: place / f"{form}.out" for form in FORMS}
    return {form: (pack(asked(make(place / form, images())), outs[form], QUIET), outs[form]) for form, make in FORMS.items()}


@pytest.mark.parametrize("form", [form for form in FORMS if form != "folders"])
def test_the_same_images_in_another_form_make_the_same_store(stores, form):
    (about, out), (wanted, folders) = stores[form], stores["folders"]
    assert arrays(out) == arrays(folders) and len(arrays(out)) == 4
    assert about["listing"] == wanted["listing"] and about["classes"] == list(CLASSES)
    assert about["counts"] == {"train": 18, "val": 6} and not about["skipped"]
    assert {path.name for path in out.iterdir()} == {path.name for path in folders.iterdir()}


@pytest.mark.parametrize("form", FORMS)
def test_without_a_validation_split_every_form_holds_out_the_same_images(tmp_path, form):
    held = {"train": images()["train"]}
    listing = list_images(asked(FORMS[form](tmp_path / form, held), val_share=0.34))
    assert [len(listing.train), len(listing.val)] == [12, 6]
    assert listing.digest() == list_images(asked(as_folders(tmp_path / "plain", held), val_share=0.34)).digest()
    assert not {e.path for e in listing.train} & {e.path for e in listing.val}


@pytest.mark.parametrize("form", FORMS)
def test_the_identity_of_a_source_does_not_depend_on_its_place_and_follows_its_files(tmp_path, form):
    first = FORMS[form](tmp_path / "a", images())
    known = identity(asked(first))
    shutil.copytree(first, tmp_path / "b")
    assert identity(asked(tmp_path / "b")) == known and len(known) == 64
    suffix = {"folders": "jpg", "shards": "tar", "saved": "arrow", "parquet": "parquet"}[form]
    with next(path for path in sorted((tmp_path / "b").rglob(f"*.{suffix}"))).open("ab") as file:
        file.write(b"\0")
    assert identity(asked(tmp_path / "b")) != known


def test_imagenet_s_own_layout_is_found_below_the_folder_that_holds_it(tmp_path):
    as_folders(tmp_path / "ILSVRC" / "Data" / "CLS-LOC", images())
    (tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "test").mkdir()
    (tmp_path / "ILSVRC" / "Annotations").mkdir()
    listing = list_images(asked(tmp_path))
    assert listing.classes == CLASSES and (len(listing.train), len(listing.val)) == (18, 6)
    assert identity(asked(tmp_path)) == identity(asked(tmp_path / "ILSVRC" / "Data" / "CLS-LOC"))


def test_archives_beside_class_folders_are_not_taken_for_shards(tmp_path):
    as_folders(tmp_path, images())
    write_shard(tmp_path / "ILSVRC2012_img_train.tar", [("n01440764.tar", b"x")])
    assert len(list_images(asked(tmp_path)).train) == 18


def test_a_validation_folder_without_class_folders_is_a_sentence(tmp_path):
    as_folders(tmp_path, images())
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(content(0, 0))
    with pytest.raises(BadData, match="val: contains no images in class folders; sort them"):
        list_images(asked(tmp_path))


# --- shards ---


def test_shards_in_split_folders_with_json_labels_and_folders_in_their_keys(tmp_path):
    for split, rows in images().items():
        members = [(f"./{split}/{CLASSES[label]}/{name}", data) for name, label, data in rows]
        members += [(f"./{split}/{CLASSES[label]}/{name[:-4]}.json", b'{"label": %d}' % label) for name, label, _ in rows]
        members += [(f"./{split}/{CLASSES[label]}/{name[:-4]}.seg.png", b"a mask") for name, label, _ in rows]
        write_shard(tmp_path / split / "000.tar", members)
    listing = list_images(asked(tmp_path))
    assert listing.classes == CLASSES
    assert listing.digest() == list_images(asked(as_folders(tmp_path / "folders", images()))).digest()


def test_without_names_the_classes_of_shards_are_numbers(tmp_path):
    listing = list_images(asked(as_shards(tmp_path, images(), kind="json", names=False)))
    assert listing.classes == ("0", "1", "2") and listing.train[0].path.startswith("train/0/")


def rows_with(label):
    rows = images()["train"]
    return [*rows, ("odd.jpg", label, content(0, 99))]


def shards_cut(root):
    as_shards(root, images())
    path = root / "set-train-1.tar"
    path.write_bytes(path.read_bytes()[:9000])


def shards_damaged(root):
    as_shards(root, images())
    path = root / "set-train-1.tar"
    data = bytearray(path.read_bytes())
    data[1024:1076] = b"\xff" * 52  # the second member's header
    path.write_bytes(bytes(data))


def shards_text(root):
    as_shards(root, images())
    (root / "set-train-1.tar").write_bytes(b"words " * 400)


def shards_without_labels(root):
    write_shard(root / "train.tar", [member for member in members_of(images()["train"]) if member[0].endswith("jpg")])


def shards_one_unlabelled(root):
    write_shard(root / "train.tar", [*members_of(images()["train"]), ("lost.jpg", content(0, 99))])


def shards_strange_label(root):
    write_shard(root / "train.tar", [*members_of(images()["train"]), ("odd.jpg", content(0, 99)), ("odd.cls", b"tench")])


def shards_empty_label(root):
    write_shard(root / "train.tar", [*members_of(images()["train"]), ("odd.jpg", content(0, 99)), ("odd.cls", b"")])


def shards_negative_label(root):
    write_shard(root / "train.tar", members_of(rows_with(-1)))


def shards_gap(root):
    write_shard(root / "train.tar", members_of(rows_with(7)))


def shards_huge_label(root):
    write_shard(root / "train.tar", members_of(rows_with(10**12)))


def shards_too_few_names(root):
    as_shards(root, images())
    (root / "classes.txt").write_text("ant\nbee\n")


def shards_one_class(root):
    write_shard(root / "train.tar", members_of([row for row in images()["train"] if row[1] == 0]))


def shards_without_images(root):
    write_shard(root / "train.tar", [("a.txt", b"x")])


def shards_only_validation(root):
    write_shard(root / "set-val-0.tar", members_of(images()["val"]))


def shards_strange_validation(root):
    write_shard(root / "a-train.tar", members_of(images()["train"]))
    write_shard(root / "a-val.tar", members_of([("odd.jpg", 3, content(0, 99))]))


def shards_two_images(root):
    write_shard(root / "train.tar", [*members_of(images()["train"]), ("train-0-000.png", content(0, 99))])


def shards_with_a_link(root):
    import tarfile

    write_shard(root / "train.tar", members_of(images()["train"]))
    with tarfile.open(root / "train.tar", "a") as tar:
        info = tarfile.TarInfo("../../secret.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (shards_cut, r"set-train-1\.tar: cannot be read as a plain tar file"),
        (shards_damaged, r"set-train-1\.tar: is damaged at byte 1,024"),
        (shards_text, r"set-train-1\.tar: cannot be read as a plain tar file"),
        (shards_without_labels, r"train\.tar: the image 'train-0-000' has no label; add"),
        (shards_one_unlabelled, r"train\.tar: the image 'lost' has no label; add 'lost\.cls'"),
        (shards_strange_label, r"the label of 'odd' is 'tench'; labels are whole numbers"),
        (shards_empty_label, r"the label of 'odd' is ''; labels are whole numbers"),
        (shards_negative_label, r"the image 'odd' has no label \(-1\); correct it, or move the files of a split without labels"),
        (shards_gap, r"has no training images of class 3 \('3'\) of 8; labels must count from 0 without gaps"),
        (shards_huge_label, r"has label 1000000000000 but only 19 training images"),
        (shards_too_few_names, r"classes\.txt: names 2 classes, but there is a label 2"),
        (shards_one_class, r"has only one class, '0', and needs two"),
        (shards_without_images, r"its training shards have no images"),
        (shards_only_validation, r"no name contains 'train'"),
        (shards_strange_validation, r"the validation image val/3/odd\.jpg has label 3, but the training labels are 0 to 2"),
        (shards_two_images, r"has two images with the key 'train-0-000'"),
        (shards_with_a_link, r"'\.\./\.\./secret\.jpg' is a link or a sparse file"),
    ],
)
def test_shards_that_cannot_be_used_are_one_sentence(tmp_path, make, words):
    make(tmp_path / "in")
    with pytest.raises(BadData, match=words) as raised:
        list_images(asked(tmp_path / "in"))
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# --- Hugging Face datasets ---


def test_a_plain_dataset_with_text_labels_and_without_names_of_files(tmp_path):
    import datasets

    rows = images()["train"]
    features = datasets.Features({"label": datasets.Value("string"), "image": datasets.Image()})
    table = {"image": [{"bytes": data, "path": None} for *_, data in rows], "label": [CLASSES[label] for _, label, _ in rows]}
    datasets.Dataset.from_dict(table, features=features).save_to_disk(str(tmp_path / "in"))
    pack(asked(tmp_path / "in"), tmp_path / "out", QUIET)
    stored = open_images(tmp_path / "out")
    assert stored.classes == CLASSES and (len(stored.train), len(stored.val)) == (15, 3)
    assert len({row.tobytes() for row in stored.train.images.numpy()}) == 15


def test_images_that_a_dataset_names_and_does_not_hold_are_read_from_their_files(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    rows = []
    (tmp_path / "in" / "pictures").mkdir(parents=True)
    for place, (name, label, data) in enumerate(images()["train"]):
        (tmp_path / "in" / "pictures" / name).write_bytes(data)
        path = f"pictures/{name}" if place % 2 else str(tmp_path / "in" / "pictures" / name)
        rows.append({"image": {"bytes": None, "path": path}, "label": label})
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "train.parquet")
    pack(asked(tmp_path / "in"), tmp_path / "out", QUIET)
    pack(asked(as_shards(tmp_path / "shards", {"train": images()["train"]}, names=False)), tmp_path / "other", QUIET)
    assert arrays(tmp_path / "out") == arrays(tmp_path / "other")


def elsewhere(tmp_path, name):
    """A picture outside of the data set: by its own path, by a way up, by a link in the data set's folder."""
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(content(0, 99))
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / "link.jpg").symlink_to(secret)
    (tmp_path / "in" / "linked").symlink_to(tmp_path)
    return {"absolute": str(secret), "up": "../secret.jpg", "link": "link.jpg", "folder": "linked/secret.jpg", "null": "a\0b"}[name]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("name", ["absolute", "up", "link", "folder", "null"])
def test_a_dataset_names_files_in_its_own_folder_only(tmp_path, form, name):
    import pyarrow as pa
    import pyarrow.parquet

    path = elsewhere(tmp_path, name)
    rows = [{"image": {"bytes": data, "path": name}, "label": label} for name, label, data in images()["train"]]
    rows[4]["image"] = {"bytes": None, "path": path}
    table = pa.Table.from_pylist(rows)
    if form == "parquet":
        pa.parquet.write_table(table, tmp_path / "in" / "train.parquet")
    else:
        with pa.ipc.new_stream(str(tmp_path / "in" / "data.arrow"), table.schema) as file:
            file.write_table(table)
        (tmp_path / "in" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    with pytest.raises(BadData, match=r"row 4 refers to the file .*, which is outside") as raised:
        pack(asked(tmp_path / "in"), tmp_path / "out", QUIET)
    assert "only files in the dataset's folder are read" in str(raised.value)
    assert not (tmp_path / "out" / "images.json").exists()


def test_a_linked_dataset_names_its_own_files(tmp_path):
    """Only what leads out of the folder is refused, not a folder that is itself a link."""
    parquet_rows(tmp_path / "real", lambda rows: rows[3]["image"].update(bytes=None, path="x.jpg"))
    (tmp_path / "real" / "x.jpg").write_bytes(content(0, 3))
    (tmp_path / "in").symlink_to(tmp_path / "real")
    assert pack(asked(tmp_path / "in"), tmp_path / "out", QUIET)["skipped"] == []


def test_rows_without_an_image_are_unreadable_by_their_own_reasons(tmp_path):
    def change(rows):
        rows[:] = [dict(row) for row in rows * 40]
        rows[1]["image"] = {"bytes": None, "path": None}
        rows[2]["image"] = {"bytes": b"", "path": "/etc/hostname"}
        rows[3]["image"] = {"bytes": None, "path": "gone.jpg"}
        rows[4]["image"] = {"bytes": None, "path": "pipe.jpg"}

    parquet_rows(tmp_path / "in", change)
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    reasons = [entry["reason"] for entry in pack(asked(tmp_path / "in"), tmp_path / "out", QUIET)["skipped"]]
    assert sorted(reasons) == ["is empty", "is empty", "is not a regular file", "no longer exists"]


@pytest.mark.parametrize("column", ["strings", "structs of numbers", "numbers"])
def test_a_column_without_pictures_is_refused(tmp_path, column):
    import pyarrow as pa
    import pyarrow.parquet

    image = {"strings": "/etc/hostname", "structs of numbers": {"bytes": 3, "path": 4}, "numbers": 5}[column]
    (tmp_path / "in").mkdir()
    table = pa.Table.from_pylist([{"image": image, "label": place % 2} for place in range(9)])
    pa.parquet.write_table(table, tmp_path / "in" / "train.parquet")
    with pytest.raises(BadData, match=r"the column 'image' has the type .*; images must be bytes, or structs of bytes and a path"):
        list_images(asked(tmp_path / "in"))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"splits": ["train"]'])
def test_a_damaged_description_of_a_dataset_is_one_sentence(tmp_path, text):
    as_saved(tmp_path / "in", images())
    (tmp_path / "in" / "dataset_dict.json").write_text(text)
    with pytest.raises(BadData, match=r"dataset_dict\.json: cannot be read \(.*save the dataset again"):
        list_images(asked(tmp_path / "in"))


def parquet_rows(root, change):
    import pyarrow as pa
    import pyarrow.parquet

    rows = [{"image": {"bytes": data, "path": name}, "label": label} for name, label, data in images()["train"]]
    change(rows)
    root.mkdir()
    pa.parquet.write_table(pa.Table.from_pylist(rows), root / "train-0.parquet")


def parquet_cut(root):
    as_parquet(root, images())
    path = root / "data" / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-200])


def arrow_cut(root):
    as_saved(root, images())
    path = root / "train" / "data-00001-of-00002.arrow"
    path.write_bytes(path.read_bytes()[:-2000])


def arrow_missing(root):
    as_saved(root, images())
    (root / "train" / "data-00001-of-00002.arrow").unlink()


def arrow_words(root):
    as_saved(root, images())
    (root / "train" / "state.json").write_text("{")


def arrow_selection(root):
    as_saved(root, images())
    state = json.loads((root / "train" / "state.json").read_text())
    (root / "train" / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "indices.arrow"}]}))


def saved_without_train(root):
    as_datasets({"test": images()["val"]}).save_to_disk(str(root))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (parquet_cut, r"train-00001-of-00002\.parquet: cannot be read \("),
        (arrow_cut, r"data-00001-of-00002\.arrow: cannot be read \("),
        (arrow_missing, r"data-00001-of-00002\.arrow: is missing"),
        (arrow_words, r"state\.json: cannot be read"),
        (arrow_selection, r"selection of rows that was not flattened; call flatten_indices"),
        (saved_without_train, r"has the splits test; a split 'train' is needed"),
        (lambda root: parquet_rows(root, lambda rows: rows[4].update(label=None)), r"train-0\.parquet: row 4 has no label"),
        (lambda root: parquet_rows(root, lambda rows: rows[4].update(label=-1)), r"train-0\.parquet: row 4 has no label"),
        (lambda root: parquet_rows(root, lambda rows: rows[4].update(label=9)), r"has no training images of class 3"),
        (lambda root: parquet_rows(root, lambda rows: [row.pop("label") for row in rows]), r"has no column 'label' among image"),
        (lambda root: parquet_rows(root, lambda rows: [row.pop("image") for row in rows]), r"has no column 'image' among label"),
        (lambda root: parquet_rows(root, lambda rows: [row.update(label=0) for row in rows]), r"has only one class, '0', and needs two"),
    ],
)
def test_datasets_that_cannot_be_used_are_one_sentence(tmp_path, make, words):
    make(tmp_path / "in")
    with pytest.raises(BadData, match=words) as raised:
        list_images(asked(tmp_path / "in"))
    assert "\n" not in str(raised.value)


def test_without_pyarrow_the_sentence_says_which_extra(tmp_path, monkeypatch):
    as_parquet(tmp_path / "in", images())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadData, match=r"needs pyarrow: pip install 'svgbench\[data\]'"):
        list_images(asked(tmp_path / "in"))


# --- unreadable images, of every form ---


@pytest.mark.parametrize("form", FORMS)
def test_an_unreadable_image_is_named_counted_and_left_out_of_every_form(tmp_path, form, capsys):
    held = images(each=40)
    name, label, data = held["train"][7]
    held["train"][7] = (name, label, data[:300])
    about = pack(asked(FORMS[form](tmp_path / "in", held)), tmp_path / "out", QUIET)
    assert about["counts"] == {"train": 119, "val": 6} and len(about["skipped"]) == 1
    assert about["skipped"][0]["path"].endswith(name) and about["skipped"][0]["reason"]
    assert name in capsys.readouterr().err
    labels = np.load(tmp_path / "out" / "train.labels.npy")
    assert np.bincount(labels).tolist() == [39, 40, 40]


@pytest.mark.parametrize("form", FORMS)
def test_more_than_one_in_a_hundred_is_an_error_and_mended_images_are_packed_afterwards(tmp_path, form):
    broken = images(each=6)
    for place in (3, 4):
        name, label, data = broken["train"][place]
        broken["train"][place] = (name, label, b"x" * len(data))
    with pytest.raises(BadData, match=r"1 of 24 images cannot be read, more than 1 %|2 of 24 images cannot be read, more than 1 %"):
        pack(asked(FORMS[form](tmp_path / "in", broken)), tmp_path / "out", QUIET)
    assert not (tmp_path / "out" / "images.json").exists()
    shutil.rmtree(tmp_path / "in")
    about = pack(asked(FORMS[form](tmp_path / "in", images(each=6))), tmp_path / "out", QUIET)
    assert about["counts"]["train"] == 18 and not about["skipped"]

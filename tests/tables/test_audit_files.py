"""The items of an audit about files: sets of images, statistics, published numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from audited import ask, pictures
from PIL import Image

from svgbench.errors import BadData, BadInput, UnknownName
from svgbench.shelf import folder
from svgbench.tables.audit.items import audit
from svgbench.tables.audit.subjects import AuditedRun, subject_of
from svgbench.tables.published import COLUMNS


@pytest.fixture
def opened(tmp_path):
    """A subject of a file with these arrays."""

    def made(name="a.npz", reference=None, extractor="shapes-cnn", **arrays):
        np.savez(tmp_path / name, **arrays)
        return subject_of(str(tmp_path / name), tmp_path, reference=reference and tmp_path / reference, extractor=extractor)

    return made


def rows(count=200, side=8):
    """Images [N, H, W, 3]."""
    return pictures(count, side).transpose(0, 2, 3, 1)


def statistics(images, width=16, kind=np.float64):
    """Moments of random features of some images."""
    features = np.random.default_rng(0).normal(size=(images, width))
    return {"mu": features.mean(0).astype(kind), "sigma": np.cov(features, rowvar=False).astype(kind)}


@pytest.mark.parametrize(
    ("labels", "verdict"),
    [
        (np.arange(200) % 10, "pass"),
        (np.random.default_rng(0).integers(0, 10, 200), "pass"),
        (np.arange(200) % 10 // 5 * 9, "fail"),
        (np.arange(199), "fail"),
        (None, "cannot tell"),
        (np.linspace(0, 1, 200), "cannot tell"),
    ],
)
def test_labels_in_a_file(opened, labels, verdict):
    given = {} if labels is None else {"arr_1": labels}
    assert ask("labels", opened(arr_0=rows(), **given)).verdict == verdict


def test_labels_of_a_folder_are_its_classes(tmp_path):
    for number, image in enumerate(rows(12)):
        place = tmp_path / "set" / f"class-{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    subject = subject_of(str(tmp_path / "set"), tmp_path)
    assert ask("labels", subject).evidence == "Balanced: 4 of each of 3 classes"
    assert ask("duplicates", subject).verdict == "pass"


def test_bytes_of_the_reference_s_size_pass(opened, tmp_path):
    opened("reference.npz", arr_0=rows())
    assert ask("rounding", opened(arr_0=rows(), reference="reference.npz")).verdict == "pass"
    (tmp_path / "store" / "images").mkdir(parents=True)
    about = {"counts": {}, "resolution": 16, "classes": [], "masks": False, "skipped": [], "format": 1}
    (tmp_path / "store" / "images" / "images.json").write_text(json.dumps(about))
    found = ask("rounding", opened(arr_0=rows(), reference="store/images"))
    assert found.evidence == "Images have 8x8 px, the references 16x16 px"
    (tmp_path / "store" / "reference.json").write_text(json.dumps({"side": [8, 8]}))
    assert ask("rounding", opened(arr_0=rows(), reference="store")).verdict == "pass"


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (rows().astype(np.float32) / 255, "Images are stored as float32, not as bytes"),
        ((rows() > 127).astype(np.uint8), "All bytes are 0 or 1"),
        (rows(side=16), "Images have 16x16 px, the references 8x8 px"),
    ],
)
def test_floats_unscaled_bytes_and_another_size_fail(opened, images, text):
    opened("reference.npz", arr_0=rows())
    found = ask("rounding", opened(arr_0=images, reference="reference.npz"))
    assert found.verdict == "fail" and text in found.evidence and found.advice


def test_without_the_size_of_the_references_rounding_cannot_be_told(opened):
    found = ask("rounding", opened(arr_0=rows()))
    assert found.verdict == "cannot tell" and "--reference" in found.evidence
    opened("reference.npz", **statistics(200))
    assert ask("rounding", opened(arr_0=rows(), reference="reference.npz")).verdict == "cannot tell"


def test_duplicates_in_a_file_are_counted(opened, tmp_path):
    images = rows(10)
    assert ask("duplicates", opened(arr_0=images)).verdict == "pass"
    found = ask("duplicates", opened(arr_0=np.concatenate([images, images[4:6]])))
    assert found.evidence == "The file: 2 of 12 images are duplicates; the last 2 repeat earlier ones" and found.verdict == "fail"
    np.save(tmp_path / "a.npy", np.concatenate([images, images[:1]]).transpose(0, 3, 1, 2))
    assert "1 of 11" in ask("duplicates", subject_of(str(tmp_path / "a.npy"), tmp_path)).evidence


def test_enough_images_for_the_features_of_the_extractor(opened):
    assert ask("counts", opened(arr_0=rows())).verdict == "pass"
    found = ask("counts", opened(arr_0=rows(), extractor="inception"))
    assert found.verdict == "fail" and "200 images for 2,048 features of inception" in found.evidence


@pytest.mark.parametrize(
    ("images", "kind", "verdict"),
    [(200, np.float64, "pass"), (200, np.float32, "pass"), (10, np.float64, "fail"), (10, np.float32, "cannot tell")],
)
def test_a_covariance_from_too_few_images_is_singular(opened, images, kind, verdict):
    found = ask("counts", opened(**statistics(images, kind=kind)))
    assert found.verdict == verdict and (verdict != "fail" or "16 features has rank 9" in found.evidence)


def test_statistics_alone_have_no_images_to_look_at(opened):
    found = {one.item.name: one.finding for one in audit(opened(**statistics(200)))}
    assert set(found) == {"labels", "rounding", "duplicates", "counts"}
    assert {name for name, finding in found.items() if finding.verdict == "cannot tell"} == {"labels", "rounding", "duplicates"}


# --- published numbers ---


def numbers(tmp_path, *lines):
    (tmp_path / "numbers.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return subject_of(str(tmp_path / "numbers.csv"), tmp_path)


def test_rows_that_contradict_each_other_fail_with_their_lines(tmp_path):
    start = "Mine,VAE,ImageNet-1K,256,M-XL,,80,,250,none,gFID,"
    assert ask("contradictions", numbers(tmp_path, start + "5.1,a", start + "5.10,b")).verdict == "pass"
    found = ask("contradictions", numbers(tmp_path, start + "5.1,a", start + "6.2,b", start + "5.9,c"))
    assert found.verdict == "fail" and "about 1 thing, 1 without a remark" in found.evidence
    assert found.evidence.endswith("gFID of Mine: 5.1 (line 2), 6.2 (line 3), 5.9 (line 4)")


def test_a_contradiction_with_a_remark_passes(tmp_path):
    start = "SiT,SD-VAE,ImageNet-1K,256,SiT-XL,,1400,,,none,gFID,"
    found = ask("contradictions", numbers(tmp_path, start + "9.35,a", start + "8.61,b"))
    assert found.verdict == "pass" and "each with a remark" in found.evidence


def test_the_shelf_has_contradictions_without_a_remark(tmp_path):
    found = ask("contradictions", subject_of(str(folder("reports") / "published.csv"), tmp_path))
    assert found.verdict == "fail" and "line" in found.evidence


# --- what a word names ---


def test_a_word_that_names_nothing_is_one_sentence(tmp_path):
    with pytest.raises(UnknownName, match=r"no run or file named 'rum'"):
        subject_of("rum", tmp_path)
    with pytest.raises(BadInput, match=r"no file 'rum', and .* does not exist"):
        subject_of("rum", tmp_path / "absent")


@pytest.mark.parametrize(("name", "content"), [("a.npz", b"no zip"), ("a.npy", b"no array"), ("a.csv", b"a,b\n"), ("a.txt", b"text")])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=name):
        subject_of(str(tmp_path / name), tmp_path)


def test_arrays_that_are_no_images_are_refused(opened):
    with pytest.raises(BadData, match="which are no images"):
        opened(arr_0=np.zeros((3, 4)))
    with pytest.raises(BadData, match="has no array 'arr_0'"):
        opened(other=np.zeros(3))


def test_a_directory_of_a_run_is_the_run(tmp_path):
    from audited import MadeRun

    MadeRun(tmp_path / "runs", "mine")
    subject = subject_of(str(tmp_path / "runs" / "mine"), tmp_path / "elsewhere")
    assert isinstance(subject, AuditedRun) and subject.title == "run mine"

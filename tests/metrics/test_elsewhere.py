"""Images made elsewhere: the same pixels give the same numbers from a folder or an ``.npz``; what cannot be scored is refused."""

from __future__ import annotations

import errno
import json
import signal
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import svgbench
from PIL import Image
from toys import in_child
from typer.testing import CliRunner

from svgbench.cli.main import app
from svgbench.config.schema import Data
from svgbench.errors import BadData, BadInput, BadWeights, NumericalError, StorageError
from svgbench.images import shapes
from svgbench.images.packing import pack
from svgbench.images.store import open_images
from svgbench.machine.runtime import Runtime
from svgbench.metrics.elsewhere import elsewhere_scores
from svgbench.metrics.features import Tap, extract, load_extractor
from svgbench.metrics.frechet import frechet_distance, united
from svgbench.metrics.image_sets import ImageArray, ImageFiles, even_places, open_set
from svgbench.metrics.npz import save_npz, statistics_in, stored
from svgbench.metrics.protocol import ImageGroup
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import Resampling

QUICK = Resampling(resamples=3, seed=0)


@pytest.fixture(scope="module")
def extractor():
    return load_extractor("shapes-cnn")


@pytest.fixture(scope="module")
def images():
    """40 images to judge and 60 to judge them against, uint8 [N, 3, 32, 32]."""
    return tuple(shapes.draw(range(count), seed=0, resolution=32, split=split).images for count, split in ((40, "val"), (60, "train")))


def folder(place, images):
    place.mkdir()
    for number, image in enumerate(images):
        (place / f"{number // 20}").mkdir(exist_ok=True)
        Image.fromarray(np.moveaxis(image, 0, -1)).save(place / f"{number // 20}" / f"{number:03d}.png")
    return place


def npz(place, images, **more):
    np.savez(place, arr_0=np.ascontiguousarray(np.moveaxis(images, 1, -1)), **more)
    return place


def values(scores):
    return {s.metric: s.value for s in scores}


def test_a_folder_and_an_npz_of_the_same_images_score_the_same(tmp_path, extractor, images):
    given, real = images
    one = elsewhere_scores(folder(tmp_path / "a", given), folder(tmp_path / "b", real), extractor, resampling=QUICK)
    two = elsewhere_scores(npz(tmp_path / "a.npz", given), npz(tmp_path / "b.npz", real), extractor, resampling=QUICK)
    assert set(values(one)) == {"gfid", "is", "kid", "precision", "recall"}
    assert values(one) == pytest.approx(values(two), rel=1e-6)
    assert all("given-40" in s.protocol.text and s.count == 40 for s in one)


def test_an_adm_file_gives_statistics_for_the_distance_and_images_for_precision_and_recall(tmp_path, extractor, images):
    given, real = images
    gaussian = extract(extractor, real).moments.gaussian()
    statistics = {"mu": gaussian.mean.numpy(), "sigma": gaussian.covariance.numpy()}
    np.savez(tmp_path / "bare.npz", **statistics)
    files = {"adm": npz(tmp_path / "adm.npz", real[:10], **statistics), "part": npz(tmp_path / "part.npz", real[:10])}
    files |= {"whole": npz(tmp_path / "b.npz", real), "bare": tmp_path / "bare.npz"}
    npz(tmp_path / "a.npz", given)
    found = {name: elsewhere_scores(tmp_path / "a.npz", file, extractor, resampling=QUICK) for name, file in files.items()}
    assert set(values(found["bare"])) == {"gfid", "is"} and set(values(found["adm"])) == {"gfid", "is", "kid", "precision", "recall"}
    assert values(found["adm"])["gfid"] == values(found["bare"])["gfid"] == pytest.approx(values(found["whole"])["gfid"], rel=1e-9)
    texts = {score.metric: score.protocol.text for score in found["adm"]}
    assert "/statistics@" in texts["gfid"] and all("/images-10@" in texts[name] for name in ("kid", "precision", "recall"))
    assert "/k3-40x10/" in texts["precision"]
    for metric in ("kid", "precision", "recall"):  # the statistics take no part in them
        assert values(found["adm"])[metric] == values(found["part"])[metric]
    with pytest.raises(BadInput, match=r"adm\.npz: images of 32 x 32 px, those to be scored are 64 x 64"):
        elsewhere_scores(npz(tmp_path / "l.npz", given.repeat(2, 2).repeat(2, 3)), files["adm"], extractor, resampling=QUICK)
    with pytest.raises(BadData, match=r"few\.npz: holds 3 images, and a reference needs 4 or more"):
        elsewhere_scores(tmp_path / "a.npz", npz(tmp_path / "few.npz", real[:3], **statistics), extractor, resampling=QUICK)


def test_what_is_exported_is_read_back_where_it_lies(tmp_path, images):
    save_npz(tmp_path / "out.npz", images[0])
    with np.load(tmp_path / "out.npz", allow_pickle=False) as content:
        assert np.array_equal(content["arr_0"], np.moveaxis(images[0], 1, -1))
    again = ImageArray(tmp_path / "out.npz")
    assert isinstance(again._images, np.memmap) and np.array_equal(again.batch(range(40)).numpy(), images[0])
    np.savez_compressed(tmp_path / "small.npz", arr_0=np.moveaxis(images[0], 1, -1))
    assert np.array_equal(ImageArray(tmp_path / "small.npz").batch(range(40)).numpy(), images[0])


def test_a_trial_scores_evenly_drawn_images_alone_and_its_protocol_records_it(tmp_path, extractor, images):
    given, real = images
    against = npz(tmp_path / "real.npz", real)
    trial = elsewhere_scores(npz(tmp_path / "all.npz", given), against, extractor, limit=30, resampling=QUICK)
    few = elsewhere_scores(npz(tmp_path / "few.npz", given[even_places(30, 40, None)]), against, extractor, resampling=QUICK)
    assert [(s.metric, s.value, s.count) for s in trial] == [(s.metric, s.value, s.count) for s in few]
    assert all(s.protocol.limit == 30 and "/limit-30/" in s.protocol.text for s in trial)
    assert all(one.protocol.differs(other.protocol) == ["limit (30, none)"] for one, other in zip(trial, few, strict=True))


def test_resized_images_are_scored_and_their_protocol_records_it(tmp_path, extractor, images):
    given, real = (part.repeat(2, 2).repeat(2, 3) for part in images)
    large = npz(tmp_path / "large.npz", given)
    found = elsewhere_scores(large, npz(tmp_path / "real.npz", real), extractor, resize=32, resampling=QUICK)
    plain = elsewhere_scores(npz(tmp_path / "a.npz", images[0]), npz(tmp_path / "b.npz", images[1]), extractor, resampling=QUICK)
    assert all("/resized-32/" in score.protocol.text for score in found)
    assert values(found) == pytest.approx(values(plain), rel=1e-6)  # each pixel was written four times
    assert any("details" in difference for difference in found[0].protocol.differs(plain[0].protocol))


def test_the_command_reads_archives_and_resizes(tmp_path, images):
    root = folder(tmp_path / "f", images[0])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in root.rglob("*.png"):
            archive.write(path, path.relative_to(root))
    words = ["eval", str(tmp_path / "a.zip"), "--reference", str(npz(tmp_path / "b.npz", images[1])), "--extractor", "shapes-cnn"]
    done = CliRunner().invoke(app, [*words, "--format", "json", "--resize", "16", "--limit", "30", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert all(row["protocol"]["limit"] == row["count"] == 30 and "resized-16" in row["protocol"]["details"] for row in found)


def test_the_command_prints_scores_as_json(tmp_path, images):
    words = ["eval", npz(tmp_path / "a.npz", images[0]), "--reference", npz(tmp_path / "b.npz", images[1]), "--extractor", "shapes-cnn"]
    done = svgbench(*words, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = {row["metric"]: row for row in json.loads(done.stdout)}
    assert found["gfid"]["low"] <= found["gfid"]["value"] <= found["gfid"]["high"] and found["gfid"]["detail"]["singular"]


def test_artifacts_of_our_store_are_references_too(tmp_path, extractor, images):
    given, _ = images
    store = tmp_path / "images"
    data = Data(source="shapes", resolution=32, train_images=60, val_images=12)
    pack(data, store, Runtime(device="cpu", quiet=True))
    taken = Reference.of(extract(extractor, open_images(store).train), ImageGroup(name="train", count=60, digest="ab" * 32), (32, 32))
    (tmp_path / "taken").mkdir()
    taken.save(tmp_path / "taken", extractor.judge)
    found = [elsewhere_scores(npz(tmp_path / "a.npz", given), place, extractor, resampling=QUICK) for place in (store, tmp_path / "taken")]
    assert values(found[0]) == pytest.approx(values(found[1]), rel=1e-9)
    assert "/train-60@" in found[0][0].protocol.text


def test_published_spatial_statistics_give_sfid_and_those_of_another_layer_are_refused(tmp_path, images):
    given, real = images
    extractor = _tapped()
    found = extract(extractor, real, groups=10)
    pooled, spatial = found.moments.gaussian(), united(found.spatial).gaussian()
    arrays = {"mu": pooled.mean, "sigma": pooled.covariance, "mu_s": spatial.mean, "sigma_s": spatial.covariance}
    np.savez(tmp_path / "adm.npz", **{name: part.numpy() for name, part in arrays.items()})
    bare, whole = (
        elsewhere_scores(npz(tmp_path / "a.npz", given), reference, extractor, resampling=QUICK)
        for reference in (tmp_path / "adm.npz", npz(tmp_path / "b.npz", real))
    )
    assert [s.metric for s in bare] == ["gfid", "sfid", "is"]
    assert values(bare)["sfid"] == pytest.approx(values(whole)["sfid"], rel=1e-6) and values(bare)["sfid"] > 0.1
    sfid = bare[1]
    assert sfid.low <= sfid.value <= sfid.high and "jackknife over 10 random groups" in sfid.detail["interval"]
    np.savez(tmp_path / "odd.npz", **{n: p.numpy() for n, p in {**arrays, "mu_s": pooled.mean, "sigma_s": pooled.covariance}.items()})
    with pytest.raises(BadInput, match="spatial statistics of 128 numbers, but 'shapes-cnn' gives"):
        elsewhere_scores(tmp_path / "a.npz", tmp_path / "odd.npz", extractor, resampling=QUICK)


def rewritten(path, shape, descr="|u1", data=b"\0" * 96, compression=zipfile.ZIP_STORED):
    """An ``.npz`` whose header says this of the bytes that it holds."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("arr_0.npy", b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text.encode() + data)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "shape, descr",
    [("(2, -4, 4, 3)", "|u1"), ("(-1,)", "|u1"), ("(10000000000000, 4, 4, 3)", "|u1"), ("(2, 4, 4, 3)", "<f8"), ("(2, 4, 4)", "|u1"),
     ("(" + "9" * 400 + ",)", "|u1"), ("(18446744073709551615, 2)", "<u8"), ("(2, 4.5)", "|u1"), ("(2, 4, 4, 3)", "|S99999999999")],
)  # fmt: skip
def test_a_header_that_its_bytes_contradict_is_refused_at_once(tmp_path, shape, descr, compression):
    path, started = rewritten(tmp_path / "odd.npz", shape, descr, compression=compression), time.monotonic()
    with pytest.raises(BadInput, match=r"odd\.npz: .*; fetch (it|the file) again\.$"):
        stored(path, "arr_0")
    assert time.monotonic() - started < 5


def test_an_array_compressed_a_thousand_times_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("svgbench.config.archives.LARGE", 16 << 20)
    size = 32 << 20
    path = rewritten(tmp_path / "bomb.npz", f"({size // 48}, 4, 4, 3)", data=bytes(size // 48 * 48), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BadInput, match=r"would unpack to 33,.* more than 50 times as many"):
        stored(path, "arr_0")
    assert stored(rewritten(tmp_path / "none.npz", "(0, 4, 4, 3)", data=b""), "arr_0").shape == (0, 4, 4, 3)


def _tapped():
    """The small classifier with an inner layer listened to, as Inception's is for sFID."""
    plain = load_extractor("shapes-cnn")
    layer = next(module for module in plain.network.modules() if isinstance(module, torch.nn.Conv2d))
    shape = []
    handle = layer.register_forward_hook(lambda module, inputs, output: shape.append(output.shape))
    plain(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    handle.remove()
    return replace(plain, tap=Tap(layer, 2, 2 * shape[0][2] * shape[0][3]))


def test_a_second_extractor_adds_its_distance(tmp_path, extractor, images):
    given, real = (npz(tmp_path / f"{name}.npz", part) for name, part in zip("ab", images, strict=True))
    second = replace(extractor, name="other", frechet="fd_other")
    scores = elsewhere_scores(given, real, extractor, further=[second], resampling=QUICK)
    assert [s.metric for s in scores][-1] == "fd_other" and values(scores)["fd_other"] == values(scores)["gfid"]
    assert scores[-1].protocol.text.startswith("fd-other@") and len(scores) == 6


def test_fewer_images_than_a_metric_needs_are_refused_before_any_is_looked_at(tmp_path, extractor, images):
    given, real = images
    with pytest.raises(BadData, match="there are 9 samples, and an Inception score over 10 parts needs 10 or more"):
        elsewhere_scores(npz(tmp_path / "a.npz", given[:9]), npz(tmp_path / "b.npz", real), extractor, resampling=QUICK)
    with pytest.raises(BadData, match="holds 3 images, and a reference needs 4 or more"):
        elsewhere_scores(npz(tmp_path / "c.npz", given), npz(tmp_path / "d.npz", real[:3]), extractor, resampling=QUICK)


def test_the_command_asks_for_the_second_extractors_file_before_anything_runs(tmp_path):
    words = ["eval", "a", "--reference", "b", "--extractor", "shapes-cnn", "--second-extractor", "dinov2-vit-l-14"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, BadWeights) or done.exit_code == 2
    assert "set --second-extractor-weights to it" in str(done.exception) + done.output


def _sizes(place):
    folder(place / "f", shapes.draw(range(3), seed=0, resolution=32, split="val").images)
    Image.new("RGB", (16, 16)).save(place / "f" / "z.png")
    return place / "f"


def _pickled(place):
    np.savez(place / "p.npz", arr_0=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return place / "p.npz"


def _truncated(place):
    file = npz(place / "t.npz", shapes.draw(range(3), seed=0, resolution=32, split="val").images)
    file.write_bytes(file.read_bytes()[:-3000])
    return file


def _floats(place):
    np.savez(place / "x.npz", arr_0=np.zeros((2, 8, 8, 3)))
    return place / "x.npz"


def _nan(place):
    np.savez(place / "n.npz", arr_0=np.full((2, 8, 8, 3), np.nan))
    return place / "n.npz"


def _scalar(place):
    np.savez(place / "0.npz", arr_0=np.uint8(3))
    return place / "0.npz"


def _other(place):
    np.savez(place / "o.npz", images=np.zeros(3))
    return place / "o.npz"


def _broken(place):
    (place / "d").mkdir()
    (place / "d" / "a.png").write_bytes(b"no image")
    return place / "d"


def _empty(place):
    (place / "e").mkdir()
    return place / "e"


@pytest.mark.parametrize(
    "make, sentence",
    [(_sizes, "images of 2 sizes"), (_pickled, "pickled objects"), (_truncated, "neither a folder nor an .npz"),
     (_floats, "uint8"), (_scalar, "arr_0 is uint8"), (_other, "has no array 'arr_0', but images"),
     (_broken, "cannot be read as an image"), (_empty, "holds no images"),
     (lambda place: place / "no", "does not exist")],
)  # fmt: skip
def test_what_is_no_set_of_images_is_refused_in_a_sentence(tmp_path, make, sentence):
    with pytest.raises(BadData, match=sentence):
        open_set(make(tmp_path))


def test_nan_in_images_is_said_as_such(tmp_path):
    with pytest.raises(NumericalError, match="holds NaN or infinity"):
        open_set(_nan(tmp_path))


def test_statistics_of_another_extractor_doubled_images_and_another_size_are_refused(tmp_path, extractor, images):
    given, real = images
    wrong = tmp_path / "w.npz"
    np.savez(wrong, mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(BadInput, match="statistics of 2048 numbers, but 'shapes-cnn' gives 128"):
        elsewhere_scores(npz(tmp_path / "a.npz", given), wrong, extractor, resampling=QUICK)
    with pytest.raises(BadData, match="doubled"):
        elsewhere_scores(npz(tmp_path / "d.npz", given[[*range(12), 0]]), npz(tmp_path / "b.npz", real), extractor, resampling=QUICK)
    large = npz(tmp_path / "l.npz", given.repeat(2, 2).repeat(2, 3))
    with pytest.raises(BadInput, match="images of 32 x 32 px, those to be scored are 64 x 64"):
        elsewhere_scores(large, tmp_path / "b.npz", extractor, resampling=QUICK)
    wide = npz(tmp_path / "wide.npz", np.concatenate([real, real[..., :8]], axis=3))
    with pytest.raises(BadInput, match="images of 32 x 40 px, those to be scored are 32 x 32"):
        elsewhere_scores(tmp_path / "a.npz", wide, extractor, resampling=QUICK)


def test_doubled_images_are_scored_when_that_is_asked_for_and_the_protocol_says_so(tmp_path, extractor, images):
    given, real = images
    twice = given[[*range(39), 3, 3]]
    folder(tmp_path / "twice", twice)
    folder(tmp_path / "real", real[[*range(59), 0]])
    reference = tmp_path / "real"  # may hold an image twice: its digest is in the protocol
    with pytest.raises(BadData, match=r"2 of 41 images are doubled .first: 39 equals 3.*are scored with --allow-doubles\.$"):
        elsewhere_scores(tmp_path / "twice", reference, extractor, resampling=QUICK)
    allowed = elsewhere_scores(
        tmp_path / "twice", reference, extractor, further=[replace(extractor, name="other")], resampling=QUICK, allow_doubles=True
    )
    assert all("/with-doubles/" in score.protocol.text and score.detail["doubles"] == 2 for score in allowed)
    plain = elsewhere_scores(npz(tmp_path / "a.npz", given), reference, extractor, resampling=QUICK)
    asked = elsewhere_scores(tmp_path / "a.npz", reference, extractor, resampling=QUICK, allow_doubles=True)
    assert plain == asked and not any("doubles" in score.model_dump_json() for score in plain)
    assert allowed[0].protocol != plain[0].protocol and "details" in " ".join(allowed[0].protocol.differs(plain[0].protocol))
    mine = extract(extractor, torch.from_numpy(twice)).moments.gaussian()
    theirs = extract(extractor, torch.from_numpy(real[[*range(59), 0]])).moments.gaussian()
    assert values(allowed)["gfid"] == pytest.approx(frechet_distance(mine, theirs), rel=1e-6)  # every copy counts


def test_large_images_come_in_small_batches(tmp_path, extractor, images, monkeypatch):
    given, sizes = ImageFiles(folder(tmp_path / "f", images[0])), []
    whole = extract(extractor, given, done=sizes.append)
    monkeypatch.setattr("svgbench.metrics.features.BATCH_BYTES", 7 * 3 * 32 * 32)
    parts = extract(extractor, given, done=sizes.append)
    assert sizes == [40, 7, 7, 7, 7, 7, 5]
    assert torch.allclose(whole.kept, parts.kept, atol=1e-5)


def test_doubles_on_the_command_line(tmp_path, images):
    given, real = images
    npz(tmp_path / "twice.npz", given[[*range(39), 7]])
    words = ["eval", tmp_path / "twice.npz", "--reference", npz(tmp_path / "b.npz", real), "--extractor", "shapes-cnn", "--device", "cpu"]
    refused = svgbench(*words)
    assert refused.returncode == 2 and "--allow-doubles" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
    done = svgbench(*words, "--allow-doubles")
    assert done.returncode == 0 and "with-doubles" in done.stdout and "1 of 40 images equal an earlier one in every byte" in done.stdout


def test_an_export_leaves_the_old_file_when_it_is_killed(tmp_path, images):
    path = npz(tmp_path / "out.npz", images[0][:3])
    before = path.read_bytes()

    class Broken(np.ndarray):
        """Images of which the disk loses the third."""

        def __iter__(self):
            yield from np.asarray(self)[:2]
            raise OSError(errno.EIO, "input/output error")

    with pytest.raises(StorageError, match="input/output error"):
        save_npz(path, images[0].view(Broken))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["out.npz"]
    for failpoint, left in (("file.before_rename", before), ("file.renamed", None)):
        assert in_child(lambda: save_npz(path, images[0]), failpoint=failpoint) == -signal.SIGKILL
        assert left is None or path.read_bytes() == left
    assert np.array_equal(ImageArray(path).batch(range(40)), images[0])


@pytest.mark.parametrize("sigma", [-np.eye(3), np.diag([1.0, 1.0, -0.1]), np.eye(3) + np.eye(3, k=1), np.zeros((3, 3))])
def test_statistics_that_no_images_have_are_refused(tmp_path, sigma):
    np.savez(tmp_path / "s.npz", mu=np.zeros(3), sigma=sigma)
    with pytest.raises(BadData, match="sigma is not a covariance"):
        statistics_in(tmp_path / "s.npz")


def test_a_covariance_of_few_images_in_single_precision_is_one(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 64)) * np.logspace(0, 3, 64)
    np.savez(tmp_path / "s.npz", mu=rows.mean(0).astype(np.float32), sigma=np.cov(rows.T).astype(np.float32))
    assert statistics_in(tmp_path / "s.npz")["sigma"].dtype == np.float64


def test_sixteen_bit_grey_is_read_by_its_upper_byte(tmp_path):
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(tmp_path / "g.png")
    assert (ImageFiles(tmp_path)[0] == 0x80).all()


@pytest.mark.parametrize("compressed", [False, True])
def test_whatever_is_damaged_in_an_npz_is_one_sentence(tmp_path, images, compressed):
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "whole.npz", arr_0=np.moveaxis(images[0][:3], 1, -1))
    whole = (tmp_path / "whole.npz").read_bytes()
    generator = np.random.default_rng(0)
    places = [*range(0, 160), *generator.integers(0, len(whole), 60), *range(len(whole) - 120, len(whole))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= int(generator.integers(1, 256))
        (tmp_path / "d.npz").write_bytes(bytes(damaged))
        try:
            found = open_set(tmp_path / "d.npz")
            found.batch(range(len(found)))
        except BadInput as error:
            assert "d.npz" in str(error)

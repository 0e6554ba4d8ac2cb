"""Extractors: whose weights, what they refuse, what features depend on; ``tests/agreement`` holds their scores to torch-fidelity's."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from svgbench.errors import BadData, BadInput, BadWeights, NumericalError, UnknownName
from svgbench.images import scenes, shapes
from svgbench.machine.files import sha256_of
from svgbench.metrics.features import Extractor, ImageFeatures, _Pass, extract, full_precision, load_extractor
from svgbench.metrics.frechet import frechet_distance
from svgbench.metrics.generation import generation_scores
from svgbench.metrics.judges import row
from svgbench.metrics.perceptual import load_perceptual
from svgbench.metrics.protocol import ImageGroup, Judge
from svgbench.metrics.reconstruction import reconstruction_scores
from svgbench.metrics.reference import Reference
from svgbench.metrics.resampling import chosen
from svgbench.nets.classifier import ShapesCNN, ShapesVGG


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_file(ShapesCNN(classes=4, words=6).state_dict(), tmp_path / "cnn.safetensors")
    save_file(ShapesVGG(classes=4, words=6).state_dict(), tmp_path / "vgg.safetensors")
    return tmp_path


def images(count: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return coarse.repeat(4, 2).repeat(4, 3)


def test_features_do_not_depend_on_the_batch_or_on_what_holds_the_images(weights):
    extractor = load_extractor("shapes-cnn", weights / "cnn.safetensors")
    x = images(50)
    whole, parts = extract(extractor, x), extract(extractor, torch.from_numpy(x), batch=7)
    torch.testing.assert_close(whole.kept, parts.kept, rtol=1e-4, atol=1e-5)
    assert frechet_distance(whole.moments.gaussian(), parts.moments.gaussian()) < 1e-8


def test_kept_features_are_a_fixed_choice_and_moments_of_all(weights):
    extractor = load_extractor("shapes-cnn", weights / "cnn.safetensors")
    heard = []
    whole, some = extract(extractor, images(40)), extract(extractor, images(40), keep=10, batch=16, done=heard.append)
    torch.testing.assert_close(some.kept, whole.kept[chosen(10, 40)], rtol=1e-4, atol=1e-5)
    assert some.moments.count == 40 and heard == [16, 16, 8] and len(some.logits) == 10


def test_a_reference_that_was_saved_comes_back_the_same_and_not_for_another_extractor(weights):
    extractor = load_extractor("shapes-cnn", weights / "cnn.safetensors")
    found = Reference.of(extract(extractor, images(40), keep=10), ImageGroup(name="train", count=40, digest="ab" * 32), (32, 32))
    found.save(weights, extractor.judge)
    again = Reference.load(weights, extractor.judge)
    assert again.group == found.group and again.size == (32, 32) and again.kept.equal(found.kept) and again.spatial is None
    assert again.gaussian.covariance.equal(found.gaussian.covariance) and again.gaussian.mean.equal(found.gaussian.mean)
    with pytest.raises(BadInput, match=r"features of 'shapes-cnn@.*, but the images are scored by 'shapes-cnn@cdcdcdcd'"):
        Reference.load(weights, Judge(name="shapes-cnn", digest="cd" * 32))
    (weights / "reference.safetensors").write_bytes(b"cut")
    with pytest.raises(BadData, match="is damaged or incomplete"):
        Reference.load(weights, extractor.judge)


def test_features_that_are_not_numbers_are_refused(weights):
    extractor = load_extractor("shapes-cnn", weights / "cnn.safetensors")
    extractor.network.network.logits.bias.data.fill_(float("nan"))
    assert extract(extractor, images(12)).count == 12  # a bias of the logits is in no feature
    next(extractor.network.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="features of 'shapes-cnn' hold NaN"):
        extract(extractor, images(12))


def test_channel_order_and_range_change_the_distance(weights):
    extractor = load_extractor("shapes-cnn", weights / "cnn.safetensors")
    x = images(60)
    x[:, 0] //= 2
    right = extract(extractor, x).moments.gaussian()
    assert frechet_distance(extract(extractor, np.ascontiguousarray(x[:, ::-1])).moments.gaussian(), right) > 1e-3
    with pytest.raises(BadData, match="uint8"):
        extractor(torch.from_numpy(x).float() / 255)


def test_reconstruction_scores_of_copies_are_perfect_and_of_noise_are_worse(weights):
    extractor, perceptual = (
        load_extractor("shapes-cnn", weights / "cnn.safetensors"),
        load_perceptual("shapes-lpips", weights / "vgg.safetensors"),
    )
    x = images(40)
    group = ImageGroup(name="val", count=40, digest="ab" * 32)
    settings = {"originals_group": group, "extractor": extractor, "perceptual": perceptual}
    copies = {s.metric: s for s in reconstruction_scores(x, x, **settings)}
    noisy = {s.metric: s for s in reconstruction_scores(x ^ 7, torch.from_numpy(x), **settings)}
    assert list(copies) == ["rfid", "psnr", "ssim", "ssim_signed", "lpips"]
    assert copies["rfid"].value < 1e-6 and copies["lpips"].value == 0 and copies["ssim"].value == pytest.approx(1)
    assert noisy["rfid"].value > copies["rfid"].value and noisy["lpips"].value > 0 and noisy["psnr"].value < 50
    assert noisy["lpips"].protocol.text.startswith(f"distance-shapes-lpips@{perceptual.digest[:8]}/val-40@abababab/reconstructed-40")
    assert noisy["rfid"].low <= noisy["rfid"].value <= noisy["rfid"].high
    known = Reference.of(extract(extractor, x), group)
    again = reconstruction_scores(x ^ 7, x, **settings, original_features=known)
    assert again[0].value == pytest.approx(noisy["rfid"].value)
    with pytest.raises(BadData, match="do not pair"):
        reconstruction_scores(x[:5], x, **settings)


def test_inception_without_its_file_says_which_from_where_and_under_which_licence():
    with pytest.raises(BadWeights, match=r"weights-inception-2015-12-05-6726825d.pth \(from https://github.com/toshas.*Apache-2.0\)"):
        load_extractor("inception")
    with pytest.raises(BadWeights, match="does not exist"):
        load_extractor("inception", "nowhere.pth")


def test_an_unknown_extractor_offers_its_neighbours():
    with pytest.raises(UnknownName, match="Did you mean 'inception'"):
        load_extractor("inceptoin")


def test_inception_opens_a_given_file_and_takes_logits_without_bias(tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    state = _random_inception(FeatureExtractorInceptionV3)
    torch.save(state, tmp_path / "inception.pth")
    extractor = load_extractor("inception", tmp_path / "inception.pth")
    seen = extractor(torch.from_numpy(images(2)))
    assert seen.features.shape == (2, 2048) and seen.logits.shape == (2, 1008) and extractor.dim == 2048
    torch.testing.assert_close(seen.logits, seen.features @ state["fc.weight"].T, rtol=1e-3, atol=1e-4)
    block = {}
    extractor.network.Mixed_6d.register_forward_hook(lambda module, inputs, output: block.update(output=output))
    again = extractor(torch.from_numpy(images(2)))
    assert block["output"].shape == (2, 768, 17, 17) and again.spatial.shape == (2, 2023)
    assert again.spatial.equal(block["output"].permute(0, 2, 3, 1)[..., :7].reshape(2, -1))  # TensorFlow's mixed_6/conv[..., :7]
    assert again.spatial.min() == 0 and again.spatial.max() > 0  # behind the ReLU


def _random_inception(kind: type) -> dict[str, torch.Tensor]:
    """A random state of Inception's shape; its constructor insists on a file, so it is stopped before it loads one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        patch.setattr(kind, "load_state_dict", lambda self, state: None)
        return kind("inception-v3-compat", ["2048"], feature_extractor_weights_path="none").state_dict()


def test_dinov2_takes_metas_file_and_is_torch_fidelitys_up_to_the_network(tmp_path):
    state = _random_dinov2()
    torch.save(state, tmp_path / "dinov2.pth")
    extractor = load_extractor("dinov2-vit-s-14", tmp_path / "dinov2.pth")
    x = torch.from_numpy(images(2))
    seen = extractor(x)
    assert seen.features.shape == (2, 384) and seen.logits is None and seen.spatial is None and extractor.frechet == "fd_dinov2"
    pixels = interpolate_bilinear_2d_like_tensorflow1x(x.float(), size=(224, 224), align_corners=False) / 255
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    torch.testing.assert_close(seen.features, _by_transformers(state, (pixels - mean) / deviation), rtol=1e-4, atol=1e-4)
    torch.save({name: value for name, value in state.items() if "ls2" not in name}, tmp_path / "cut.pth")
    with pytest.raises(BadWeights, match="12 missing"):
        load_extractor("dinov2-vit-s-14", tmp_path / "cut.pth")


def _random_dinov2() -> dict[str, torch.Tensor]:
    """A random state with the names and shapes of Meta's file."""
    with torch.device("meta"):
        network = timm.create_model("vit_small_patch14_dinov2", img_size=518, num_classes=0)
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(value.shape, generator=generator) * 0.05 for name, value in network.state_dict().items()}
    state |= {name: value + 1 for name, value in state.items() if name.endswith(("gamma", "norm1.weight", "norm2.weight", "norm.weight"))}
    return {**state, "mask_token": torch.zeros(1, 384)}


def _by_transformers(state: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """The class token by transformers' DINOv2, its positions brought to 16 x 16 by where Meta's scale puts each of them."""
    from transformers import Dinov2Config, Dinov2Model

    model = Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, patch_size=14, image_size=224)).eval()
    named = {"embeddings.cls_token": state["cls_token"], "embeddings.mask_token": state["mask_token"]}
    grid = state["pos_embed"][:, 1:].reshape(37, 37, 384).permute(2, 0, 1)[None]
    at = (torch.arange(16) + 0.5) / 16.1 * 2 - 1  # pixel centres of the output in the input's -1..1
    places = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)[None]
    grid = torch.nn.functional.grid_sample(grid, places, mode="bicubic", padding_mode="border", align_corners=False)
    named["embeddings.position_embeddings"] = torch.cat([state["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], 1)
    words = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
    inner = {"attn.proj": "attention.o_proj", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        if stem in words:
            named[f"{words[stem]}.{kind}"] = value
        elif name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            start = f"encoder.layer.{number}."
            if rest.startswith("attn.qkv"):
                parts = zip("qkv", value.chunk(3), strict=True)
                named |= {f"{start}attention.{part}_proj.{kind}": v for part, v in parts}
            else:
                named[start + next((rest.replace(a, b) for a, b in inner.items() if rest.startswith(a)), rest)] = value
    model.load_state_dict(named)
    with torch.no_grad():
        return model(pixel_values=pixels).last_hidden_state[:, 0]


def test_the_large_dinov2_has_the_published_size():
    from svgbench.metrics.dinov2_extractor import MEMBERS

    with torch.device("meta"):
        network = timm.create_model(MEMBERS[row("features", "dinov2-vit-l-14")["registry"]], img_size=224, num_classes=0)
    assert network.embed_dim == row("features", "dinov2-vit-l-14")["dim"]
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(304.4e6, rel=0.005)


def test_a_file_with_code_inside_is_refused_and_does_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"fc.weight": Payload()}, tmp_path / "hostile.pth")
    for open_judge, name in ((load_extractor, "inception"), (load_perceptual, "lpips"), (load_extractor, "shapes-cnn")):
        with pytest.raises(BadWeights, match="that could run code, and is not read"):
            open_judge(name, tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_or_cut_short_are_refused(weights):
    with pytest.raises(BadWeights, match="does not match"):
        load_extractor("shapes-cnn", weights / "vgg.safetensors")
    torch.save({"a": torch.zeros(2)}, weights / "other.pth")
    with pytest.raises(BadWeights, match="does not fit"):
        load_extractor("inception", weights / "other.pth")
    whole = (weights / "cnn.safetensors").read_bytes()
    (weights / "cut.safetensors").write_bytes(whole[:-100])
    with pytest.raises(BadWeights, match="truncated"):
        load_extractor("shapes-cnn", weights / "cut.safetensors")


def test_extractor_of_other_weights_has_another_protocol(weights):
    torch.manual_seed(1)
    save_file(ShapesCNN(classes=4, words=6).state_dict(), weights / "again.safetensors")
    first, second = (load_extractor("shapes-cnn", weights / f"{name}.safetensors") for name in ("cnn", "again"))
    assert isinstance(first, Extractor) and str(first.judge) != str(second.judge)


def test_a_plan_learns_the_identity_of_a_judge_without_torch(weights):
    code = (
        "import sys; from svgbench.metrics.judges import identity; "
        f"print(identity('features', 'inception', {str(weights / 'cnn.safetensors')!r}), 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == [sha256_of(weights / "cnn.safetensors"), "False"]


def test_no_images_are_refused(weights):
    with pytest.raises(BadData, match="no images"):
        extract(load_extractor("shapes-cnn", weights / "cnn.safetensors"), images(0))


@pytest.mark.parametrize("source", ["shapes", "scenes"])
def test_shipped_judges_open_with_the_pinned_digest(source):
    extractor, perceptual = load_extractor(f"{source}-cnn"), load_perceptual(f"{source}-lpips")
    assert extractor.digest == row("features", f"{source}-cnn")["sha256"]
    assert perceptual.digest == row("pairs", f"{source}-lpips")["sha256"]
    found = extract(extractor, images(20))
    assert isinstance(found, ImageFeatures) and found.kept.shape == (20, extractor.dim)


def test_on_embedded_images_unseen_ones_are_near_blurred_ones_far_and_one_class_alone_has_less_recall():
    extractor = load_extractor("shapes-cnn")
    train, val = (shapes.draw(np.arange(count), seed=0, resolution=32, split=split) for count, split in ((2400, "train"), (600, "val")))
    reference = extract(extractor, train.images)
    alone = shapes.draw(np.arange(0, 6000, 10), seed=0, resolution=32, split="val").images
    found = [_by_metric(extractor, extract(extractor, x), reference) for x in (val.images, _blurred(val.images, 2), alone)]
    assert (torch.from_numpy(val.labels) == extract(extractor, val.images).logits.argmax(1)).double().mean() > 0.85
    assert found[0]["gfid"] < 3 < 10 < found[1]["gfid"] < found[2]["gfid"]
    assert abs(found[0]["kid"]) < 0.05 < found[1]["kid"]
    assert found[0]["recall"] > 0.8 > 0.6 > found[2]["recall"]
    assert found[0]["is"] > found[1]["is"] > found[2]["is"]


def test_on_scenes_unseen_images_are_near_and_blurred_ones_far():
    extractor = load_extractor("scenes-cnn")
    train, val = (scenes.draw(np.arange(count), seed=0, resolution=64, split=split) for count, split in ((1200, "train"), (480, "val")))
    reference = extract(extractor, train.images)
    found = [_by_metric(extractor, extract(extractor, x), reference) for x in (val.images, _blurred(val.images, 4))]
    assert (torch.from_numpy(val.labels) == extract(extractor, val.images).logits.argmax(1)).double().mean() > 0.95
    assert found[0]["gfid"] < 3 < 15 < found[1]["gfid"]
    assert found[0]["recall"] > found[1]["recall"] and found[0]["is"] > found[1]["is"]


def test_a_judge_without_labels_finds_unseen_scenes_near_blurred_ones_farther_and_grey_ones_far():
    extractor = load_extractor("scenes-simclr")
    train, val = (scenes.draw(np.arange(count), seed=0, resolution=64, split=split) for count, split in ((1200, "train"), (480, "val")))
    reference = extract(extractor, train.images)
    grey = torch.from_numpy(val.images).float().mean(1, keepdim=True).expand(-1, 3, -1, -1).round().byte()
    moments = [extract(extractor, images).moments.gaussian() for images in (val.images, _blurred(val.images, 4), grey)]
    near, blurred, colourless = (frechet_distance(one, reference.moments.gaussian()) for one in moments)
    assert 4 * near < blurred and 20 * near < colourless and reference.logits is None and extractor.frechet == "fd_simclr"


def _blurred(images, factor):
    pixels = torch.from_numpy(images).float()
    small = torch.nn.functional.avg_pool2d(pixels, factor)
    return torch.nn.functional.interpolate(small, scale_factor=factor, mode="bilinear").round().byte()


def _by_metric(extractor: Extractor, samples: ImageFeatures, reference: ImageFeatures) -> dict[str, float]:
    group = ImageGroup(name="train", count=reference.count, digest="ab" * 32)
    return {s.metric: s.value for s in generation_scores(samples, Reference.of(reference, group), judge=extractor.judge)}


def test_what_is_held_of_images_does_not_grow_with_their_features(weights):
    """Beside a fixed number of kept features, 24 bytes an image at most: its row, its group, its class."""
    extractor = load_extractor("shapes-cnn", weights / "cnn.safetensors")
    held = []
    for count in (400, 40_400):
        walk = _Pass(extractor, count, 100, 4)
        parts = (walk, walk._classes, walk._moments, *walk._spatial)
        owned = [value for part in parts for value in vars(part).values()]
        held.append(sum(value.nbytes for value in owned if isinstance(value, torch.Tensor)))
    assert 0 < held[1] - held[0] <= 24 * 40_000 < 4 * extractor.dim * 40_000


TF32 = {
    "nothing": "",
    "old": "torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cudnn.allow_tf32 = True",
    "old off": "torch.backends.cuda.matmul.allow_tf32 = False; torch.backends.cudnn.allow_tf32 = False",
    "call": "torch.set_float32_matmul_precision('high')",
    "new": "torch.backends.cuda.matmul.fp32_precision = 'tf32'; torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "new for all": "torch.backends.fp32_precision = 'tf32'",
}
"""How a caller may have allowed TF32."""


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="PyTorch before 2.9 has one way to allow TF32")
def test_judges_use_no_tf32_however_the_caller_allowed_it_and_restore_it():
    """In processes of their own, because some settings cannot be taken back."""
    script = """
import sys, torch
from svgbench.metrics.features import full_precision
places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
state = lambda: [place.fp32_precision for place in places]
def old():
    try:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        return "mixed"
for setting in sys.argv[1:]:
    exec(setting)
    before = state(), old()
    try:
        with full_precision():
            assert state() == ["ieee", "ieee"], state()
            raise KeyError
    except KeyError:
        pass
    assert (state(), old()) == before, (setting, before, state(), old())
    print(before[0])
"""
    for settings in (TF32.values(), reversed(TF32.values())):
        done = subprocess.run([sys.executable, "-c", script, *settings], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("['tf32', 'tf32']") >= 3  # TF32 had been allowed


def test_full_precision_leaves_this_process_as_it_was():
    with full_precision():
        pass
    assert torch.backends.cuda.matmul.allow_tf32 is False and torch.get_float32_matmul_precision() == "highest"

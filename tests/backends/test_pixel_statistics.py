"""An encoder sees pixels as its own files state them; weights of other statistics than the card's are refused."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from small_cards import TINY

from svgbench.backends.conformance import examine
from svgbench.backends.open import open_encoder, open_network
from svgbench.config.cards import find, identity
from svgbench.config.preprocessing import SATELLITE, of_processor
from svgbench.errors import BadConfig, BadWeights

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 16}
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


@pytest.fixture
def directory(tmp_path):
    """A ViT as transformers writes it, and a writer of its preprocessor's file."""
    transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=False).save_pretrained(tmp_path / "vit")

    def write(content, name="preprocessor_config.json"):
        for old in ("preprocessor_config.json", "processor_config.json"):
            (tmp_path / "vit" / old).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "vit" / name).write_text(json.dumps(content))
        return f"transformers:{tmp_path / 'vit'}"

    return write


def statistics(encoder):
    return encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()


PROCESSORS = [
    ({"image_mean": MEAN, "image_std": STD}, MEAN, STD),
    ({"image_mean": MEAN, "image_std": STD, "do_normalize": False}, [0, 0, 0], [1, 1, 1]),
    ({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}, [0, 0, 0], [1, 1, 1]),
    ({"image_mean": [127.5] * 3, "image_std": [127.5] * 3, "do_rescale": False}, [0.5] * 3, [0.5] * 3),
    ({"image_mean": [1, 1, 1], "image_std": [1, 1, 1], "rescale_factor": 1 / 127.5}, [0.5] * 3, [0.5] * 3),
    ({"image_mean": [0, 0, 0], "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5, "rescale_offset": True}, [0.5] * 3, [0.25] * 3),
    ({"image_mean": 0.5, "image_std": [0.25], "rescale_factor": 0.00392156862745098}, [0.5] * 3, [0.25] * 3),
]


@pytest.mark.parametrize("content, mean, std", PROCESSORS)
def test_a_directory_s_own_preprocessor_is_followed(directory, content, mean, std):
    """Held against what transformers' own arithmetic makes of bytes."""
    encoder = open_encoder(find(directory(content), "paper"))
    assert statistics(encoder) == (pytest.approx(mean), pytest.approx(std))
    image = torch.tensor([0.0, 51.0, 255.0]).view(1, 3, 1, 1)
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1
    theirs = image * factor - float(content.get("rescale_offset", 0))
    if content.get("do_normalize", True):
        one, other = (
            torch.tensor(content[name], dtype=torch.float32).expand(3)
            if isinstance(content[name], list) and len(content[name]) == 1
            else torch.tensor(content[name], dtype=torch.float32)
            for name in ("image_mean", "image_std")
        )
        theirs = (theirs - one.view(-1, 1, 1)) / other.view(-1, 1, 1)
    torch.testing.assert_close((image / 255 - encoder.mean) / encoder.std, theirs)


def test_a_processor_of_several_parts_is_understood(directory):
    name = directory({"image_processor": {"image_mean": MEAN, "image_std": STD}, "processor_class": "X"}, "processor_config.json")
    assert statistics(open_encoder(find(name, "paper"))) == (pytest.approx(MEAN), pytest.approx(STD))


def test_without_a_preprocessor_the_default_is_taken_and_said(directory, capsys):
    encoder = open_encoder(find(directory(None), "paper"))
    assert statistics(encoder) == ([0.5] * 3, [0.5] * 3)
    assert "using its library's default, mean [0.5, 0.5, 0.5]" in capsys.readouterr().err


@pytest.mark.parametrize("content", [{"image_mean": [0.5, 0.5], "image_std": [1, 1]}, {"image_mean": "x", "image_std": [1, 1, 1]},
                                     {"image_mean": [0, 0, 0], "image_std": [0, 1, 1]}, {"rescale_factor": "1/255", "do_normalize": False},
                                     {"rescale_factor": -1, "do_normalize": False}])  # fmt: skip
def test_a_preprocessor_that_says_nonsense_is_refused(directory, content):
    with pytest.raises(BadConfig, match=r"must be (three numbers|a number above 0)"):
        find(directory(content), "paper")
    assert of_processor({"size": 224}, "x") is None


def test_a_preprocessor_of_other_colours_is_refused(directory):
    with pytest.raises(BadConfig, match=r"states do_flip_channel_order: blue, green, red"):
        find(directory({"image_mean": MEAN, "image_std": STD, "do_flip_channel_order": True}), "paper")


def test_the_statistics_are_part_of_the_encoder_s_identity(directory):
    one, other = (identity(find(directory({"image_mean": mean, "image_std": STD}), "paper")) for mean in (MEAN, [0.5] * 3))
    assert one != other


def test_a_stated_statistic_passes_the_conformance_test(directory):
    encoder = open_encoder(find(directory({"image_mean": MEAN, "image_std": STD}), "paper"))
    encoder.card = encoder.card.model_copy(update={"pixels": encoder.card.pixels.model_copy(update={"size": 32})})
    assert {finding.name: finding.ok for finding in examine(encoder, seconds=0)}["pixel statistics"]


def test_a_directory_of_timm_states_its_own(tmp_path, capsys):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, img_size=32)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": {"depth": 1, "img_size": 32},
              "pretrained_cfg": {"mean": MEAN, "std": STD}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = open_encoder(find(f"timm:{tmp_path}", "paper"))
    assert statistics(encoder) == (pytest.approx(MEAN), pytest.approx(STD)) and encoder.channels == 192
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {}}))
    assert statistics(open_encoder(find(f"timm:{tmp_path}", "paper")))[0] == pytest.approx([0.485, 0.456, 0.406])
    assert "using its library's default, mean [0.485, 0.456, 0.406]" in capsys.readouterr().err


@pytest.fixture
def tiny_file(tmp_path):
    """TINY's weights under a path."""

    def write(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(open_network(TINY, seed=1).model.state_dict(), path)
        return path

    return write


@pytest.mark.parametrize(
    "name",
    ["dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth", "vit_large_patch16_dinov3.sat493m.safetensors",
     "models--facebook--dinov3-vitl16-pretrain-sat493m/snapshots/0f/model.safetensors"],
)  # fmt: skip
def test_satellite_weights_are_refused_under_a_card_of_photographs(tiny_file, name):
    with pytest.raises(BadWeights, match=r"satellite images \(sat493m\), with mean \[0\.43, 0\.411, 0\.296\].*'small'|does not match"):
        open_encoder(TINY, weights=tiny_file(name))
    own = TINY.model_copy(update={"pixels": TINY.pixels.model_copy(update={"mean": SATELLITE.mean, "std": SATELLITE.std})})
    open_encoder(own, weights=tiny_file(name))


@pytest.mark.parametrize("file, content", [
    ("preprocessor_config.json", {"image_mean": SATELLITE.mean, "image_std": SATELLITE.std}),
    ("config.json", {"architecture": "vit", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}),
    ("open_clip_config.json", {"preprocess_cfg": {"mean": [0.48, 0.45, 0.40], "std": [0.26, 0.26, 0.27]}}),
])  # fmt: skip
def test_the_file_beside_library_weights_tells_other_statistics(tiny_file, file, content):
    path = tiny_file("model.safetensors")
    open_encoder(TINY, weights=path)
    (path.parent / file).write_text(json.dumps(content))
    for place in (path, path.parent):
        with pytest.raises(BadWeights, match=rf"does not match the card 'small': .*{file} states mean .*, the card has mean"):
            open_encoder(TINY, weights=place)
    open_encoder(TINY, weights=tiny_file("renamed.safetensors"))  # of a file by another name the neighbour tells nothing

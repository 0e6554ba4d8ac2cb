import pytest
import torch

from svgbench.nets import ldm
from svgbench.nets.ldm import AttentionBlock, LdmDecoder, LdmEncoder

SMALL = dict(base=16, multipliers=(1, 2, 2), blocks=1, attention=(8,), resolution=32)


def test_encoder_and_decoder_change_the_grid_by_their_stride():
    encoder = LdmEncoder(**SMALL, z_channels=4)
    decoder = LdmDecoder(**SMALL, z_channels=4)
    latents = encoder(torch.rand(2, 3, 32, 32))
    assert latents.shape == (2, 8, 8, 8)
    assert decoder.stride == 4
    assert decoder(latents[:, :4]).shape == (2, 3, 32, 32)


def test_parameters_of_va_vae_f16d32_carry_ldms_names_and_shapes():
    size = dict(base=128, multipliers=(1, 1, 2, 2, 4), blocks=2, attention=(16,), resolution=256)
    with torch.device("meta"):
        encoder = {n: tuple(p.shape) for n, p in LdmEncoder(**size, z_channels=32).named_parameters()}
        decoder = {n: tuple(p.shape) for n, p in LdmDecoder(**size, z_channels=32).named_parameters()}
    assert encoder["down.2.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert encoder["down.3.downsample.conv.weight"] == (256, 256, 3, 3)
    assert encoder["down.4.attn.1.proj_out.weight"] == (512, 512, 1, 1)
    assert encoder["conv_out.weight"] == (64, 512, 3, 3)
    assert "down.4.downsample.conv.weight" not in encoder and "up.0.upsample.conv.weight" not in decoder
    assert decoder["conv_in.weight"] == (512, 32, 3, 3)
    assert decoder["up.3.block.0.nin_shortcut.weight"] == (256, 512, 1, 1)
    assert decoder["up.4.attn.2.q.weight"] == (512, 512, 1, 1)
    assert decoder["mid.block_1.conv1.weight"] == (512, 512, 3, 3)
    assert decoder["conv_out.weight"] == (3, 128, 3, 3)


def test_attention_is_the_softmax_of_scaled_products_over_positions():
    block = AttentionBlock(8)
    x = torch.randn(2, 8, 3, 3)
    normed = block.norm(x)
    q, k, v = (layer(normed).flatten(2) for layer in (block.q, block.k, block.v))
    weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * 8**-0.5, dim=-1)
    mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape)
    torch.testing.assert_close(block(x), x + block.proj_out(mixed))


@pytest.mark.parametrize("base", [12, 20, 48])
def test_narrow_and_odd_widths_find_their_groups(base):
    decoder = LdmDecoder(base=base, multipliers=(1, 2), blocks=1, attention=(), z_channels=3, resolution=16)
    assert decoder(torch.randn(1, 3, 8, 8)).shape == (1, 3, 16, 16)


def test_channels_last_changes_no_more_than_rounding():
    decoder = LdmDecoder(**SMALL, z_channels=4)
    latents = torch.randn(2, 4, 8, 8)
    plain = decoder(latents)
    torch.testing.assert_close(decoder.to(memory_format=torch.channels_last)(latents), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels, groups", [(128, 32), (256, 32), (512, 32), (64, 16), (16, 4), (12, 3), (60, 15), (3, 1)])
def test_norm_groups_are_ldms_and_hold_four_channels_at_least(channels, groups):
    assert ldm._norm(channels).num_groups == groups


def test_a_narrow_decoder_can_say_how_bright_an_image_is():
    """Latents that differ by a constant give images of other means: not so where each channel is normalised by itself."""
    torch.manual_seed(0)
    norm = ldm._norm(16)
    x = torch.randn(1, 16, 4, 4)
    other = x + torch.linspace(-1, 1, 16)[:, None, None]
    assert (norm(other).mean((2, 3)) - norm(x).mean((2, 3))).abs().max() > 0.2

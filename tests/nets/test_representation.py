import pytest
import torch

from svgbench.nets.representation import Projector, misalignment


def test_features_in_the_same_direction_give_minus_one_whatever_their_length():
    features = torch.randn(2, 8, 4, 4)
    tokens = features.flatten(2).transpose(1, 2) * torch.rand(2, 16, 1).add(0.1)
    assert misalignment(tokens, features).tolist() == pytest.approx([-1.0, -1.0], abs=1e-5)
    assert misalignment(-tokens, features).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_each_image_answers_for_itself():
    features, tokens = torch.randn(3, 8, 2, 2), torch.randn(3, 4, 8)
    alone = torch.cat([misalignment(tokens[i : i + 1], features[i : i + 1]) for i in range(3)])
    assert torch.allclose(misalignment(tokens, features), alone, atol=1e-6)


def test_features_of_a_finer_grid_are_brought_to_the_tokens():
    coarse = torch.randn(1, 8, 2, 2)
    fine = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    tokens = torch.randn(1, 4, 8)
    assert torch.allclose(misalignment(tokens, fine), misalignment(tokens, coarse), atol=1e-5)


def test_a_projector_ends_at_the_features_width():
    assert Projector(16, 32, 8)(torch.randn(2, 4, 16)).shape == (2, 4, 8)

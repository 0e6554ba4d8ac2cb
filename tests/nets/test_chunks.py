"""Chunks of constant size."""

from __future__ import annotations

import torch
from pytest import mark

from svgbench.nets.chunks import chunk_size, in_chunks


@mark.parametrize("count", [0, 1, 3, 4, 5, 8, 11])
def test_the_function_sees_one_shape_only_and_rows_come_back_in_order(count: int) -> None:
    seen = []

    def double(rows: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(rows.shape))
        return 2 * rows[:, :1]

    rows = torch.rand(count, 3, 2)
    assert torch.equal(in_chunks(double, rows, 4), 2 * rows[:, :1])
    assert set(seen) == {(4, 3, 2)} and len(seen) == max(1, -(-count // 4))


def test_a_chunk_s_size_follows_the_image_and_the_kind_of_device_only() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [chunk_size(cpu, side, side) for side in (32, 256, 512, 4096)] == [32, 2, 1, 1]
    assert [chunk_size(gpu, side, side) for side in (32, 256, 512)] == [256, 64, 16]

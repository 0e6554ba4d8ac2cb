"""Folders of images made elsewhere: what is taken for one of them."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from svgbench.errors import BadData
from svgbench.metrics.image_sets import ImageFiles, open_set


def test_hidden_files_and_folders_are_left_out(tmp_path):
    folder = tmp_path / ".cache" / "set"  # a hidden folder above the set hides nothing
    for name in ("a.png", "b/c.png", ".checkpoints/d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "._a.png").write_bytes(b"what macOS leaves beside a file")
    assert [path.relative_to(folder).as_posix() for path in ImageFiles(folder).paths] == ["a.png", "b/c.png"]
    for path in ("a.png", "b/c.png"):
        (folder / path).unlink()
    with pytest.raises(BadData, match="holds no images"):
        ImageFiles(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Unix")
def test_a_pipe_is_no_set_of_images_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    (tmp_path / "b.npz").symlink_to("/dev/zero")
    for name in ("a.npz", "b.npz"):
        with pytest.raises(BadData, match=r"is not a regular file; give a folder of images or an \.npz"):
            open_set(tmp_path / name)

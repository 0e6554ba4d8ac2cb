"""Files are whole or absent, and the disk's errors are sentences."""

from __future__ import annotations

import errno
import os
import signal

import pytest
from safetensors import SafetensorError
from toys import in_child

from svgbench.errors import StorageError
from svgbench.world.files import guarded, need_space, remove_tree, sha256_of, sweep, write_atomic


@pytest.mark.parametrize("point", ["file.before_rename", "file.renamed"])
def test_a_file_killed_while_written_is_the_old_one_or_the_new_one(tmp_path, point):
    path = tmp_path / "scores.json"
    write_atomic(path, b"old")
    assert in_child(lambda: write_atomic(path, b"new"), failpoint=point) == -signal.SIGKILL
    assert path.read_bytes() == (b"old" if point == "file.before_rename" else b"new")
    sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.json"]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_rest(tmp_path):
    path = tmp_path / "scores.json"
    write_atomic(path, b"old")

    def cramped():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        write_atomic(path, b"n" * 100)

    assert in_child(cramped) == StorageError.exit_status
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(("number", "words"), [("ENOSPC", "the disk is full"), ("EROFS", "read-only"), ("EIO", "input/output error")])
def test_errors_of_the_disk_say_what_to_do(tmp_path, number, words):
    code = getattr(errno, number)
    with pytest.raises(StorageError, match=words), guarded(tmp_path):
        raise OSError(code, os.strerror(code), str(tmp_path / "x"))
    with pytest.raises(StorageError, match=words), guarded(tmp_path):
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})")


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), guarded(tmp_path):
        (tmp_path / "nothing").read_bytes()
    with pytest.raises(ValueError, match="plain"), guarded(tmp_path):
        raise ValueError("plain")


def test_a_path_through_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a part of that path is a file"):
        write_atomic(tmp_path / "file" / "scores.json", b"x")


def test_a_tree_killed_while_removed_never_looks_whole(tmp_path):
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    assert in_child(lambda: remove_tree(tmp_path / "tree"), failpoint="tree.renamed") == -signal.SIGKILL
    assert not (tmp_path / "tree").exists()
    assert sweep(tmp_path) == 1 and list(tmp_path.iterdir()) == []
    remove_tree(tmp_path / "tree")


def test_the_digest_is_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_space_that_is_not_there_is_told_in_figures(tmp_path):
    need_space(tmp_path, 1)
    with pytest.raises(StorageError, match=r"1,000,000,000,000\.0 MB are needed"):
        need_space(tmp_path, 10**18)

"""Files are whole or absent, and the disk's errors are sentences."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import signal
import socket

import pytest
from safetensors import SafetensorError
from toys import in_child

from svgbench.errors import BadInput, StorageError
from svgbench.machine.files import guarded, need_space, regular, remove_tree, sha256_of, sweep, write_atomic


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


ANSWERS = ["ESTALE", "ETIMEDOUT", "ENXIO", "EREMOTEIO", "ENODEV", "EMFILE", "ENFILE", "ENOLCK", "EINVAL", "ENOSYS", "ENOTCONN", "EBUSY"]


@pytest.mark.parametrize("number", ANSWERS)
def test_whatever_a_file_system_answers_is_its_sentence(tmp_path, number):
    """Of calls that write, rename, flush and look: no error of the storage is left to the fallback that calls it a fault of svgbench."""
    code = getattr(errno, number)

    def fail(*_, **__):
        raise OSError(code, os.strerror(code), str(tmp_path / "scores.json"))

    for owner, call in ((os, "fsync"), (os, "replace"), (os, "stat"), (pathlib.Path, "open"), (pathlib.Path, "mkdir")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, call, fail)
            with pytest.raises(StorageError, match=r"scores\.json: .*; (check|give|mount|raise|close) "):
                write_atomic(tmp_path / "scores.json", b"new")


@pytest.mark.parametrize("number", ["EACCES", "EPERM", "EROFS"])
def test_what_may_not_be_written_is_named_as_the_user_named_it(tmp_path, monkeypatch, number):
    def refuse(path, *_, **__):
        raise OSError(getattr(errno, number), "x", str(path))

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(StorageError) as raised:
        write_atomic(tmp_path / "table.md", b"x")
    assert str(raised.value).startswith(f"{tmp_path / 'table.md'}: ") and "--out" not in str(raised.value)


def test_a_directory_removed_under_a_writer_is_the_storage_s(tmp_path):
    with pytest.raises(StorageError, match="was removed by another program during the work"), guarded(tmp_path, vanished=True):
        (tmp_path / "gone" / "part").rename(tmp_path / "other")


@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "device", "link to a pipe", "link to a directory"])
def test_only_files_are_replaced(tmp_path, kind):
    path, thing = tmp_path / "out.md", tmp_path / "thing"
    with contextlib.ExitStack() as stack:
        if kind == "directory":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        elif kind == "device":
            path = pathlib.Path("/dev/null")
        else:
            thing.mkdir() if kind.endswith("directory") else os.mkfifo(thing)
            path.symlink_to(thing)
        before = os.lstat(path).st_ino
        with pytest.raises(BadInput, match=rf"is a (named )?{kind.split()[-1]}, not a file"):
            write_atomic(path, b"x")
        assert os.lstat(path).st_ino == before


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/svgbench-report.md"])
def test_names_of_the_kernel_are_no_files(path):
    with pytest.raises(BadInput, match=f"{path} is a device"):
        regular(pathlib.Path(path))


def test_a_link_is_replaced_and_what_it_leads_to_is_left(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("precious")
    for target in (kept, tmp_path / "nowhere"):
        path = tmp_path / f"to-{target.name}"
        path.symlink_to(target)
        write_atomic(path, b"new")
        assert path.read_bytes() == b"new" and not path.is_symlink()
    assert kept.read_text() == "precious" and not (tmp_path / "nowhere").exists()


def test_a_name_as_long_as_a_file_system_takes_is_written(tmp_path):
    path = tmp_path / ("ä" * 125 + ".md")
    write_atomic(path, b"x")
    assert path.read_bytes() == b"x"
    with pytest.raises(BadInput, match="longer than the file system allows"):
        write_atomic(tmp_path / ("a" * 300), b"x")


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

"""The commit a clone is at, read without git: a branch, a detached head, a work tree, packed references."""

from __future__ import annotations

from svgbench.machine.source import commit_at

COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_the_commit_of_a_branch_a_detached_head_and_packed_references(tmp_path):
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert commit_at(tmp_path) is None  # no commit yet
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{COMMIT} refs/heads/main\n")
    assert commit_at(tmp_path) == COMMIT
    (git / "refs" / "heads" / "main").write_text("f" * 40 + "\n")
    assert commit_at(tmp_path) == "f" * 40
    (git / "HEAD").write_text(COMMIT + "\n")
    assert commit_at(tmp_path) == COMMIT


def test_the_commit_of_a_work_tree(tmp_path):
    main, tree = tmp_path / "main" / ".git", tmp_path / "tree"
    (main / "worktrees" / "tree").mkdir(parents=True)
    (main / "refs" / "heads").mkdir(parents=True)
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {main / 'worktrees' / 'tree'}\n")
    (main / "worktrees" / "tree" / "HEAD").write_text("ref: refs/heads/side\n")
    (main / "worktrees" / "tree" / "commondir").write_text("../..\n")
    (main / "refs" / "heads" / "side").write_text(COMMIT + "\n")
    assert commit_at(tree) == COMMIT


def test_no_clone_and_a_damaged_one_have_no_commit(tmp_path):
    assert commit_at(tmp_path) is None
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert commit_at(tmp_path) is None

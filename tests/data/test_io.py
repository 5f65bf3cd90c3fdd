from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fastalign import io
from fastalign.errors import (
    ArtifactError,
    BackendError,
    ConfigError,
    FastalignError,
    InputError,
    ProcessError,
)
from fastalign.io import atomic_write, check_writable


def write(path, content=b"new"):
    with atomic_write(path) as file:
        file.write(content)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_exit_codes_are_distinct_and_documented():
    classes = [FastalignError, ConfigError, InputError, ArtifactError, BackendError, ProcessError]
    assert [kind.exit_code for kind in classes] == [1, 2, 3, 4, 5, 6]
    assert issubclass(ConfigError, ValueError)


def test_it_makes_folders_and_leaves_only_the_file(tmp_path):
    write(tmp_path / "a" / "b" / "c.json")
    assert names(tmp_path / "a" / "b") == ["c.json"]
    assert (tmp_path / "a" / "b" / "c.json").read_bytes() == b"new"


def test_the_old_file_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_everything_as_it_was(tmp_path, error):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"new")
        raise error
    assert names(tmp_path) == ["x"]
    assert path.read_bytes() == b"old"


def test_a_replaced_file_keeps_its_permissions_and_a_new_one_follows_the_umask(tmp_path):
    old, new, plain = tmp_path / "old", tmp_path / "new", tmp_path / "plain"
    old.write_bytes(b"")
    old.chmod(0o640)
    plain.write_bytes(b"")
    write(old)
    write(new)
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert new.stat().st_mode == plain.stat().st_mode


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere" / "real")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "real").read_bytes() == b"new"


@pytest.mark.parametrize("writer", [write, check_writable])
def test_a_folder_or_a_device_is_refused(tmp_path, writer):
    with pytest.raises(InputError, match=rf"{tmp_path}: this is a folder"):
        writer(tmp_path)
    with pytest.raises(InputError, match="/dev/null: this is a device"):
        writer("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("writer", [write, check_writable])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, writer):
    (tmp_path / "file").write_bytes(b"")
    message = rf"file/x: cannot be written: {tmp_path / 'file'} is a file where a folder is needed"
    for name in ("x", "x/y"):
        with pytest.raises(InputError, match=message.replace("/x:", f"/{name}:")):
            writer(tmp_path / "file" / name)


CAUSES = [
    (errno.EACCES, "permission denied"),
    (errno.EROFS, "the file system is read-only"),
    (errno.ENOSPC, "no space left"),
    (errno.EBADMSG, os.strerror(errno.EBADMSG)),
]


@pytest.mark.parametrize(("number", "message"), CAUSES)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_every_failing_step_names_path_and_remedy(tmp_path, monkeypatch, call, number, message):
    path = tmp_path / "out.json"
    path.write_bytes(b"old")

    def failing(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(io.os, call, failing)
        with pytest.raises(InputError, match=rf"out\.json: cannot be written: {message}.*choose"):
            write(path)
    assert names(tmp_path) == ["out.json"]
    assert path.read_bytes() == b"old"


def test_an_error_of_another_file_is_not_taken_for_ours(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "x"):
        (tmp_path / "missing").read_bytes()
    assert names(tmp_path) == []


def run_there(code, folder):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(io.__file__).parent.parent)},
    )


def test_a_disk_that_really_takes_no_more(tmp_path):
    """The size limit of a process is the one full disk that a test can have anywhere."""
    (tmp_path / "x").write_bytes(b"old")
    done = run_there(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        from fastalign.errors import InputError
        from fastalign.io import atomic_write
        try:
            with atomic_write("x") as file:
                file.write(b"n" * 100_000)
        except InputError as error:
            print(error)
        """,
        tmp_path,
    )
    assert done.stdout.startswith("x: cannot be written: the file grew beyond"), done.stderr
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    killed = run_there(
        """
        import os, signal
        from fastalign.io import atomic_write
        with atomic_write("x") as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert killed.returncode < 0
    assert len(names(tmp_path)) == 2
    assert (tmp_path / "x").read_bytes() == b"old"
    write(tmp_path / "x")
    assert names(tmp_path) == ["x"]


def test_two_writers_do_not_disturb_each_other(tmp_path):
    with atomic_write(tmp_path / "x") as first:
        write(tmp_path / "x", b"second")
        first.write(b"first")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert names(tmp_path) == ["x"]


def test_what_several_killed_writers_left_is_removed_by_the_next(tmp_path):
    killed = run_there(
        """
        import os, signal
        from fastalign.io import atomic_write
        with atomic_write("x"), atomic_write("x"), atomic_write("x"):
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert killed.returncode < 0
    assert len(names(tmp_path)) == 3
    write(tmp_path / "x")
    assert names(tmp_path) == ["x"]


def test_a_folder_is_never_listed_for_a_file_in_it(tmp_path, monkeypatch):
    """The time for one file does not grow with the number of files beside it."""
    for name in ("listdir", "scandir", "walk"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("the folder was listed"))
    write(tmp_path / "x")
    write(tmp_path / "x")
    check_writable(tmp_path / "y")


def test_names_that_begin_alike_have_temporary_files_of_their_own(tmp_path):
    long = "n" * 60
    with atomic_write(tmp_path / f"{long}1") as first, atomic_write(tmp_path / f"{long}2") as other:
        first.write(b"1")
        other.write(b"2")
    assert names(tmp_path) == [f"{long}1", f"{long}2"]
    assert (tmp_path / f"{long}1").read_bytes() == b"1"


def test_a_file_of_others_under_a_temporary_name_stays(tmp_path):
    with atomic_write(tmp_path / "x"):
        (taken,) = names(tmp_path)
    (tmp_path / taken).symlink_to(tmp_path / "x")
    write(tmp_path / "x", b"again")
    assert names(tmp_path) == [taken, "x"]
    assert (tmp_path / "x").read_bytes() == b"again"


def test_checking_leaves_nothing(tmp_path):
    check_writable(tmp_path / "x")
    check_writable(tmp_path / "new" / "newer" / "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "message"), CAUSES)
def test_checking_finds_an_unwritable_place(tmp_path, monkeypatch, number, message):
    def failing(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(io.os, "open", failing)
        with pytest.raises(InputError, match=message):
            check_writable(tmp_path / "new" / "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        for writer in (write, check_writable):
            with pytest.raises(InputError, match="permission denied"):
                writer(tmp_path / "x")
    finally:
        tmp_path.chmod(0o700)

"""Files that are written whole or not at all."""

import os
import subprocess
import sys

import pytest

from fastgdml import files
from fastgdml.errors import FileFormatError
from fastgdml.files import remove_leftovers, require_writable, written_whole


@pytest.fixture(params=["without a name", "with a name", "linked by a copy"])
def way(request, monkeypatch):
    """The ways of writing: what a system can do differs."""
    if request.param == "with a name":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif request.param == "linked by a copy":

        def refused(*_, **__):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
    return request.param


def write(path, data):
    with written_whole(path) as file:
        file.write(data)


@pytest.mark.usefixtures("way")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither modes nor, for everybody, symbolic links")
def test_mode_and_links_stay(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to("target")
    write(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    (tmp_path / "to nothing").symlink_to("later")
    write(tmp_path / "to nothing", b"there")
    assert (tmp_path / "later").read_bytes() == b"there"
    assert sorted(os.listdir(tmp_path)) == ["later", "link", "target", "to nothing"]


@pytest.mark.usefixtures("way")
def test_an_exception_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write(path, b"old")
    with pytest.raises(TypeError), written_whole(path) as file:
        file.writelines([b"half", None])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without names")
def test_a_kill_leaves_nothing(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from fastgdml.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as file: file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], cwd=tmp_path, check=False)
    assert done.returncode == -9
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(files.fcntl is None, reason="this system has no locks")
def test_what_kills_left_is_removed_and_what_is_being_written_is_not(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    left = tmp_path / ".fastgdml.0123456789abcdef.tmp"
    left.write_bytes(b"half")
    with written_whole(tmp_path / "a") as file:
        file.write(b"all")
        assert not left.exists()
        remove_leftovers(tmp_path)
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["a"]
    require_writable(tmp_path)


@pytest.mark.usefixtures("way")
@pytest.mark.skipif(files.fcntl is None, reason="this system has no locks")
def test_nobody_takes_a_file_away_before_it_is_in_place(tmp_path, monkeypatch):
    """It has a name for a moment; whoever tidies up the folder then must leave it alone."""
    replace = os.replace

    def tidied_before(*paths):
        remove_leftovers(tmp_path)
        replace(*paths)

    monkeypatch.setattr(os, "replace", tidied_before)
    write(tmp_path / "a", b"all")
    assert (tmp_path / "a").read_bytes() == b"all"
    assert os.listdir(tmp_path) == ["a"]


def test_errors_are_told_in_a_line(tmp_path):
    with pytest.raises(FileFormatError, match="could not be written: No such file or directory"):
        write(tmp_path / "no" / "a", b"")
    with pytest.raises(FileFormatError, match=r"300 characters|could not be written: File name too long"):
        write(tmp_path / ("x" * 300), b"")

"""Commands that are killed at any moment, cannot write, or have no memory: files stay whole, and are finished later."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastgdml.cli import main
from fastgdml.dataset import create_dataset, save_dataset
from fastgdml.model import load_model
from fastgdml.npz import load_npz

resource = pytest.importorskip("resource", reason="Windows has no limits of processes")

PROGRAM = "import sys; from fastgdml.cli import main; sys.exit(main(sys.argv[1:]))"
COMMANDS = {
    "create": "create ds.npz 12 10 -s 10 20 --seed 1 --task_dir new",
    "train": "train tasks ds.npz -p 1",
    "validate": "validate -o model.npz ds.npz -p 1",
    "select": "select trained --model_file final.npz",
    "all": "all ds.npz 12 10 10 -s 10 20 --seed 1 -p 1 --task_dir whole --model_file best",
    "export": "export model.npz model.fgdml -o",
}
# What must be there in the end, with the same content whatever happened on the way.
RESULTS = {
    "create": "new/task-train12-sym2-sig0020.npz",
    "train": "tasks/model-train12-sym2-sig0020.npz",
    "validate": "model.npz",
    "select": "final.npz",
    "all": "best.npz",
    "export": "model.fgdml",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, ethanol):
    """A folder with a dataset, tasks, trained models and a model."""
    folder = tmp_path_factory.mktemp("faults")
    n = 50
    save_dataset(
        folder / "ds.npz",
        create_dataset("e", "t", ethanol["z"], ethanol["R"][:n], ethanol["F"][:n], ethanol["E"][:n], None, "Ang", "eV"),
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["create", "ds.npz", "12", "10", "-s", "10", "20", "--seed", "1", "--task_dir", "tasks"]) == 0
        shutil.copytree("tasks", "trained")
        assert main(["train", "trained", "ds.npz", "-p", "1"]) == 0
        shutil.copy("trained/model-train12-sym2-sig0010.npz", "model.npz")
        assert main(["export", "model.npz", "model.fgdml"]) == 0
    finally:
        os.chdir(before)
    return folder


def start(command, folder, **options):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command.split()],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def finish(command, folder, **options):
    process = start(command, folder, **options)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def what_counts(path):
    """The content of a result without what tells when it was made."""
    return (
        path.read_bytes()
        if path.suffix == ".fgdml"
        else {k: v for k, v in load_npz(path).items() if k != "code_version"}
    )


def require_whole(folder, before):
    """Every file is as before, or can be read to its end."""
    for path, data in contents(folder).items():
        if path.suffix == ".npz" and data != before.get(path):
            load_npz(folder / path)
    assert not list(folder.rglob(".fastgdml.*.tmp"))


@pytest.fixture(scope="module")
def expected(prepared, tmp_path_factory):
    """The results of the commands that nothing disturbs, and how long they take."""
    found = {}
    for name, command in COMMANDS.items():
        folder = tmp_path_factory.mktemp(name) / "work"
        shutil.copytree(prepared, folder)
        begun = time.monotonic()
        status, output = finish(command, folder)
        assert status == 0, output
        found[name] = what_counts(folder / RESULTS[name]), time.monotonic() - begun
    return found


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no signals")
@pytest.mark.parametrize("sent", ["SIGKILL", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_commands_are_finished_by_the_same_command(tmp_path, prepared, expected, name, sent):
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    before = contents(folder)
    wanted, duration = expected[name]
    moment = random.Random(f"{name} {sent}").uniform(0.4, 1.0) * duration  # before, Python starts
    process = start(COMMANDS[name], folder)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(getattr(signal, sent))
    output, _ = process.communicate(timeout=60)
    assert "Traceback" not in output or sent == "SIGINT"  # Python itself may not be up when it is interrupted
    require_whole(folder, before)
    result = folder / RESULTS[name]
    done = (
        name in ("select", "all")
        and result.exists()
        and not (folder / {"select": "trained"}.get(name, "whole")).exists()
    )
    if process.returncode != 0 and not done:
        status, output = finish(COMMANDS[name], folder)
        assert status == 0, output
    require_whole(folder, before)
    np.testing.assert_equal(what_counts(result), wanted)
    untouched = {path for path in before if path.parts[0] not in ("trained", "tasks", "model.npz", "model.fgdml")}
    assert all((folder / path).read_bytes() == before[path] for path in untouched)


def limited(which, n_bytes):
    return lambda: resource.setrlimit(which, (n_bytes, n_bytes))


@pytest.mark.parametrize("name", COMMANDS)
def test_files_that_cannot_be_written_whole_leave_the_old_ones(tmp_path, prepared, name):
    """As on a full disk: no file may become larger than a kilobyte."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    before = contents(folder)
    status, output = finish(COMMANDS[name], folder, preexec_fn=limited(resource.RLIMIT_FSIZE, 1024))
    assert status == 1, output
    assert "could not be written: File too large" in output
    assert "Traceback" not in output
    assert "should not happen" not in output
    after = contents(folder)
    assert {path: data for path, data in after.items() if path in before and data != before[path]} == {}
    assert not [path for path in after if path not in before and path.suffix in (".npz", ".fgdml")]


@pytest.mark.skipif(
    os.name != "posix" or (os.geteuid() == 0 and not shutil.which("setpriv")), reason="no setpriv for root"
)
@pytest.mark.parametrize("name", COMMANDS)
def test_folders_that_cannot_be_written_to(tmp_path, prepared, name):
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    before = contents(folder)
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for each in folders:
        each.chmod(0o555)
    command = [sys.executable, "-c", PROGRAM, *COMMANDS[name].split()]
    if os.geteuid() == 0:  # whom permissions do not bind
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    finally:
        for each in folders:
            each.chmod(0o755)
    if done.returncode == 127 or "setpriv:" in done.stderr:
        pytest.skip(f"setpriv does not work here: {done.stderr.strip()[:80]}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "[FAIL]" in done.stderr
    assert "should not happen" not in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize("megabytes", [200, 300, 1000])
def test_a_limited_address_space_is_an_error_or_enough(tmp_path, prepared, megabytes):
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    before = contents(folder)
    status, output = finish(COMMANDS["all"], folder, preexec_fn=limited(resource.RLIMIT_AS, megabytes * 2**20))
    require_whole(folder, before)
    if status == 0:
        assert np.isfinite(load_model(folder / "best.npz")["f_err_mae"])
    else:
        assert "memory" in output.lower(), output


@pytest.mark.parametrize(
    "command",
    [
        "show PIPE",
        "test PIPE ds.npz",
        "test model.npz PIPE",
        "export PIPE x.fgdml",
        "predict model.npz PIPE -o x.xyz",
    ],
)
@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path, prepared, monkeypatch, capsys, command, what):
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    if what == "pipe":
        os.mkfifo("pipe")
    elif what == "folder":
        os.mkdir("folder")
    assert main(command.replace("PIPE", what).split()) == 1
    assert "should not happen" not in capsys.readouterr().err

"""Commands that are killed at any moment, cannot write, or have no memory: files stay whole, and are finished later."""

import contextlib
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
from fastgdml.formats.npz import Spool
from fastgdml.model import load_model, save_model
from fastgdml.npz import load_npz
from fastgdml.task import load_task
from fastgdml.train import GDMLTrain

resource = pytest.importorskip("resource", reason="Windows has no limits of processes")

PROGRAM = "import sys; from fastgdml.cli import main; sys.exit(main(sys.argv[1:]))"
COMMANDS = {
    "create": "create ds.npz 12 10 -s 10 20 --seed 1 --task_dir new",
    "train": "train tasks ds.npz -p 1",
    "validate": "validate -o model.npz ds.npz -p 1",
    "select": "select trained --model_file final.npz",
    "all": "all ds.npz 12 10 10 -s 10 20 --seed 1 -p 1 --task_dir whole --model_file best",
    "export": "export model.npz model.fgdml -o",
    "resume": "resume iterated/_unconv_model-train12-sym2-sig0020.npz ds.npz ds.npz -p 1 --solver cg",
    "predict": "predict model.npz ds.npz -o predicted.npz -p 1",
    "convert": "dataset convert ds.npz -o converted.npz --to kcal/mol",
}
# What must be there in the end, with the same content whatever happened on the way.
RESULTS = {
    "create": "new/task-train12-sym2-sig0020.npz",
    "train": "tasks/model-train12-sym2-sig0020.npz",
    "validate": "model.npz",
    "select": "final.npz",
    "all": "best.npz",
    "export": "model.fgdml",
    "resume": "iterated/model-train12-sym2-sig0020.npz",
    "predict": "predicted.npz",
    "convert": "converted.npz",
}
# What is no more when a command is done, which then refuses to do it again: nothing, or a file or folder.
GONE = {
    "select": "trained",
    "all": "whole",
    "resume": "iterated/_unconv_model-train12-sym2-sig0020.npz",
    "predict": "",
    "convert": "",
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
        Path("iterated").mkdir()
        task = load_task("tasks/task-train12-sym2-sig0020.npz")
        checkpoint = GDMLTrain(max_processes=1).train(task, solver="cg", tol=1e-12, max_iter=3)
        save_model("iterated/_unconv_model-train12-sym2-sig0020.npz", checkpoint)
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
    if path.suffix == ".fgdml":
        return path.read_bytes()
    entries = {k: v for k, v in load_npz(path).items() if k != "code_version"}
    if entries.get("solver_name") == "cg":  # where it was killed, it went on from another step
        return bool(entries["solver_resid"] <= 1e-4 * entries["norm_y_train"]), bool(np.isfinite(entries["f_err_rmse"]))
    return entries


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
    done = name in GONE and result.exists() and not (GONE[name] and (folder / GONE[name]).exists())
    if process.returncode != 0 and not done:
        again = " --resume" if (folder / "converted.npz.part" / "state.json").exists() else ""
        status, output = finish(COMMANDS[name] + again, folder)
        assert status == 0, output
    require_whole(folder, before)
    np.testing.assert_equal(what_counts(result), wanted)
    changed = ("trained", "tasks", "iterated", "model.npz", "model.fgdml")
    untouched = {path for path in before if path.parts[0] not in changed}
    assert all((folder / path).read_bytes() == before[path] for path in untouched)


def limited(which, n_bytes):
    return lambda: resource.setrlimit(which, (n_bytes, n_bytes))


@pytest.mark.parametrize("name", COMMANDS)
def test_files_that_cannot_be_written_whole_leave_the_old_ones(tmp_path, prepared, name):
    """As on a full disk: no file may become larger than a kilobyte."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    before = contents(folder)
    # What counts the lines that are run could not write its file, either.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    status, output = finish(COMMANDS[name], folder, preexec_fn=limited(resource.RLIMIT_FSIZE, 1024), env=environment)
    assert status == 1, output
    assert "could not be written: File too large" in output
    assert "Traceback" not in output
    assert "should not happen" not in output
    after = contents(folder)
    assert {path: data for path, data in after.items() if path in before and data != before[path]} == {}
    assert not [path for path in after if path not in before and path.suffix in (".npz", ".fgdml")]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of a few megabytes."""
    folder = tmp_path_factory.mktemp("disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[:80]}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(file, spare):
    """Fill the disk that a file is on, but for so many bytes."""
    file.write_bytes(bytes(shutil.disk_usage(file.parent).free - spare))


@pytest.mark.parametrize("spare", [0, 8192])
@pytest.mark.parametrize("name", COMMANDS)
def test_full_disks_leave_the_old_files_and_space_finishes_the_work(
    small_disk, prepared, expected, name, spare, monkeypatch, capsys
):
    folder = small_disk / "work"
    try:
        shutil.copytree(prepared, folder)
        before = contents(folder)
        monkeypatch.chdir(folder)
        fill(small_disk / "filler", spare)
        status = main(COMMANDS[name].split())
        output = "".join(capsys.readouterr())
        assert status == 1, output
        assert "No space left on device" in output
        assert "should not happen" not in output
        require_whole(folder, before)
        after = contents(folder)
        assert {path for path in before if after.get(path) != before[path] and path.parts[0] != "tasks"} == set()
        (small_disk / "filler").unlink()
        again = " --resume" if (folder / "converted.npz.part" / "state.json").exists() else ""
        assert main((COMMANDS[name] + again).split()) == 0, capsys.readouterr().err
        np.testing.assert_equal(what_counts(folder / RESULTS[name]), expected[name][0])
    finally:
        os.chdir(small_disk.parent)
        shutil.rmtree(folder, ignore_errors=True)
        (small_disk / "filler").unlink(missing_ok=True)


@pytest.fixture
def memory_group():
    """A control group of 300 MB of memory: its folder."""
    name = f"fastgdml-test-{os.getpid()}"
    for top, limits in (
        (Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")),
        (Path("/sys/fs/cgroup"), ("memory.max", "memory.swap.max")),
    ):
        folder = top / name
        try:
            folder.mkdir()
            (folder / limits[0]).write_text(str(300 * 2**20))
        except OSError as error:
            problem = error
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        with contextlib.suppress(OSError):  # where there is no accounting of swap
            (folder / limits[1]).write_text(str(300 * 2**20) if "memsw" in limits[1] else "0")
        yield folder
        folder.rmdir()
        return
    pytest.skip(f"no control group can be made here: {problem}")


def test_a_limit_of_the_control_group_is_seen(tmp_path, prepared, memory_group):
    """The closed form of this task needs more than the limit: refused if it is asked for, solved iteratively if not."""

    def enter():
        (memory_group / "cgroup.procs").write_text(str(os.getpid()))

    assert finish("create ethanol 560 50 -s 20 --seed 1 --task_dir large --gdml", tmp_path)[0] == 0
    status, output = finish("train large ethanol -p 1 --solver closed", tmp_path, preexec_fn=enter)
    assert status == 1, (status, output)
    assert "memory" in output, output
    assert not list((tmp_path / "large").glob("model*"))
    status, output = finish("train large ethanol -p 1 --tol 1e-2", tmp_path, preexec_fn=enter)
    assert status == 0, (status, output)
    (model,) = (tmp_path / "large").glob("model*")
    assert load_model(model)["solver_name"] == "cg"


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


# ---- two at once -------------------------------------------------------------------------------------------------


def stopped_at_work(command, cwd, folder, reset=None):
    """A command that holds its folder, and has been stopped there.

    On a busy machine it may have ended before that is seen: then `reset` takes back what it did, and it starts again.
    """
    process = start(command, cwd)
    until = time.monotonic() + 60
    while not is_held(folder / ".fastgdml-lock"):
        assert time.monotonic() < until
        if process.poll() is not None:
            output = process.communicate()[0]
            assert process.returncode == 0, output
            assert reset is not None, output
            reset()
            process = start(command, cwd)
    process.send_signal(signal.SIGSTOP)
    assert is_held(folder / ".fastgdml-lock")
    return process


def is_held(path):
    """Whether a process has locked a file; to try it would be in that process's way."""
    try:
        return f":{path.stat().st_ino} " in Path("/proc/locks").read_text()
    except FileNotFoundError:
        return False


def let_go_on(process):
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


sees_locks = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="this system does not tell who locks what")


@sees_locks
@pytest.mark.parametrize("other", ["select tasks", "create ds.npz 12 10 -s 10 20 --seed 2 --task_dir tasks -o"])
def test_nothing_is_taken_away_from_a_training(tmp_path, prepared, expected, monkeypatch, capsys, other):
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    shutil.copy(folder / "trained" / "model-train12-sym2-sig0010.npz", folder / "tasks")
    monkeypatch.chdir(folder)
    training = stopped_at_work(COMMANDS["train"], folder, folder / "tasks")
    try:
        before = contents(folder)
        assert main(other.split()) == 1
        assert "Another fastgdml is working in 'tasks'" in capsys.readouterr().err
        assert contents(folder) == before
    finally:
        status, output = let_go_on(training)
    assert status == 0, output
    np.testing.assert_equal(what_counts(folder / RESULTS["train"]), expected["train"][0])


@sees_locks
def test_two_searches_created_at_once_do_not_mix(tmp_path, prepared, monkeypatch, capsys):
    command = "create {}/ds.npz 12 10 -s 10 20 40 80 --task_dir both --seed {}"
    monkeypatch.chdir(tmp_path)
    both = tmp_path / "both"
    first = stopped_at_work(command.format(prepared, 1), tmp_path, both, lambda: shutil.rmtree(both))
    try:
        assert main(command.format(prepared, 2).split()) == 1
        assert "Another fastgdml is working in 'both'" in capsys.readouterr().err
    finally:
        status, output = let_go_on(first)
    assert status == 0, output
    racing = [start(command.format(prepared, seed).replace("both", "race"), tmp_path) for seed in (1, 2)]
    outputs = [process.communicate(timeout=60)[0] for process in racing]
    assert 0 in [process.returncode for process in racing], outputs
    for folder in ("both", "race"):
        seeds = {int(load_task(path)["seed"]) for path in (tmp_path / folder).glob("task*")}
        assert len(seeds) == 1
        assert len(list((tmp_path / folder).glob("*"))) == 4


@pytest.mark.parametrize("command", [COMMANDS["convert"], COMMANDS["predict"]])
def test_two_do_not_write_one_file(tmp_path, prepared, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    for name in ("ds.npz", "model.npz"):
        shutil.copy(prepared / name, tmp_path)
    target = command.split()[command.split().index("-o") + 1]
    spool = Spool(target, {})
    assert main(command.split()) == 1
    assert f"Another fastgdml is writing '{target}' now" in capsys.readouterr().err
    spool.close()
    assert main(command.split()) == 0
    assert not list(tmp_path.glob("*.part"))


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

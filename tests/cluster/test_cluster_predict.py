"""Bulk prediction on a cluster: the serial command's files bit for bit, whatever is killed on the way."""

from pathlib import Path

import numpy as np
import pytest
from support.cluster import pids, wait_for

from fastgdml.cli import main
from fastgdml.cluster import Chunks
from fastgdml.errors import UsageError
from fastgdml.labelling import PredictOptions, predict
from fastgdml.model import save_model
from fastgdml.train import GDMLTrain
from fastgdml.writing import WriteOptions

OVER = WriteOptions(overwrite=True)
SOURCES = ["ethanol"] * 7  # 14 chunks


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(ethanol_model):
    save_model("model.npz", ethanol_model)
    return "model.npz"


class At(Chunks):
    """Predicts, and does something once after some chunks."""

    def __init__(self, cluster, target, number=None, work=None):
        super().__init__(cluster, target)
        self.number, self.work = number, work

    def __call__(self, predictor, wanted, asked):
        for n, each in enumerate(super().__call__(predictor, wanted, asked), start=1):
            yield each
            if n == self.number:
                self.work()


def spread(model, target, cluster, number=None, work=None, virial=False):
    chunks = At(cluster, target, number, work)
    result = predict(model, SOURCES, target, PredictOptions(virial, elsewhere=chunks))
    return chunks, result


@pytest.mark.parametrize("kind", ["npz", "xyz"])
def test_the_same_file(cluster, model, kind):
    one = predict(model, SOURCES, f"one.{kind}", PredictOptions(virial=True))
    chunks, other = spread(model, f"other.{kind}", cluster, virial=True)
    assert chunks.n_predicted == 14
    assert Path(f"one.{kind}").read_bytes() == Path(f"other.{kind}").read_bytes()
    assert one.errors == other.errors  # sums in the same order
    assert one.report.files[0].n_frames == other.report.files[0].n_frames == 14000
    assert Path(f"other.{kind}.chunks").is_dir()
    chunks.finished()
    assert not Path(f"other.{kind}.chunks").exists()


@pytest.mark.parametrize("virial", [False, True])
def test_standard_deviations(cluster, ethanol, virial):
    task = GDMLTrain().create_task(ethanol, 30, ethanol, 40, sig=20, seed=3)
    save_model("std.npz", GDMLTrain().train(task, n_std=4))
    options = ["--std", *(["--virial"] if virial else [])]
    for kind in ("npz", "xyz"):
        one = predict("std.npz", SOURCES[:2], f"one.{kind}", PredictOptions(virial, std=True))
        chunks = Chunks(cluster, f"other.{kind}")
        other = predict("std.npz", SOURCES[:2], f"other.{kind}", PredictOptions(virial, std=True, elsewhere=chunks))
        assert chunks.n_predicted == 4
        assert Path(f"one.{kind}").read_bytes() == Path(f"other.{kind}").read_bytes()
        assert one.std == other.std
        assert one.std["force"] > 0
        again = Chunks(cluster, f"other.{kind}")
        predict("std.npz", SOURCES[:2], f"other.{kind}", PredictOptions(virial, std=True, elsewhere=again), write=OVER)
        assert again.n_found == 4
        assert Path(f"one.{kind}").read_bytes() == Path(f"other.{kind}").read_bytes()
    with pytest.raises(UsageError, match="with other options"):
        predict("std.npz", SOURCES[:2], "other.npz", PredictOptions(virial, elsewhere=again), write=OVER)
    address = cluster.client.scheduler.address
    assert main(["predict", "std.npz", "ethanol", "-o", "third.npz", "--scheduler", address, *options]) == 0
    assert main(["predict", "std.npz", "ethanol", "-o", "fourth.npz", *options]) == 0
    assert Path("third.npz").read_bytes() == Path("fourth.npz").read_bytes()


def test_a_killed_worker(cluster, processes, model):
    predict(model, SOURCES, "one.npz")
    spread(model, "other.npz", cluster, 3, lambda: processes.kill_worker(next(iter(pids(cluster).values()))))
    assert len(processes.workers) == 1
    assert Path("one.npz").read_bytes() == Path("other.npz").read_bytes()


def test_a_scheduler_that_is_started_anew(cluster, processes, model):
    predict(model, SOURCES, "one.npz")

    chunks, _ = spread(model, "other.npz", cluster, 3, lambda: processes.restart(pids(cluster).values()))
    assert cluster.generation == 1
    assert chunks.n_predicted == 14  # those that had arrived were not predicted again
    wait_for(cluster, 2)
    assert Path("one.npz").read_bytes() == Path("other.npz").read_bytes()


def test_the_same_command_predicts_the_rest(cluster, model):
    predict(model, SOURCES, "one.xyz")

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spread(model, "other.xyz", cluster, 5, interrupt)
    kept = list(Path("other.xyz.chunks").glob("*-*.npz"))
    assert len(kept) >= 5
    damaged = sorted(kept)[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    chunks, _ = spread(model, "other.xyz", cluster)
    assert chunks.n_found == len(kept) - 1
    assert chunks.n_found + chunks.n_predicted == 14
    assert Path("one.xyz").read_bytes() == Path("other.xyz").read_bytes()


def test_chunks_of_another_model_are_not_taken(cluster, model, ethanol_model):
    spread(model, "other.xyz", cluster)
    save_model("second.npz", {**ethanol_model, "sig": 21})
    with pytest.raises(UsageError, match="chunks of a prediction by another model"):
        predict("second.npz", SOURCES, "other2.xyz", PredictOptions(elsewhere=Chunks(cluster, "other.xyz")))
    Path("mine.xyz.chunks").mkdir()
    Path("mine.xyz.chunks/notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="is something else"):
        spread(model, "mine.xyz", cluster)
    assert Path("mine.xyz.chunks/notes.txt").read_text() == "keep"


def test_few_chunks_are_held(cluster, model):
    """However fast they are read: what is read and not yet written is bounded."""
    held = []

    class Watched(Chunks):
        def __call__(self, predictor, wanted, asked):
            read = [0]

            def counted():
                for one in asked:
                    read[0] += 1
                    yield one

            for written, each in enumerate(super().__call__(predictor, wanted, counted())):
                held.append(read[0] - written)
                yield each

    predict(model, SOURCES, "other.xyz", PredictOptions(elsewhere=Watched(cluster)))
    assert max(held) <= 6
    assert not Path("other.xyz.chunks").exists()


def test_the_command_line(cluster, processes, model, capsys):
    assert main(["predict", model, *SOURCES[:2], "-o", "one.npz"]) == 0
    assert main(["predict", model, *SOURCES[:2], "-o", "other.npz", "--scheduler", processes.address]) == 0
    assert Path("one.npz").read_bytes() == Path("other.npz").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == ["model.npz", "one.npz", "other.npz"]
    with np.load("other.npz") as found:
        assert len(found["E"]) == 4000

"""i-PI: the compiled client fastgdml-ipi, the PES driver, and i-PI's own <ffsgdml>, written for sgdml, on fastgdml."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from support.models import make_samples
from support.paths import ROOT, shared_file

from fastgdml import _core
from fastgdml.errors import DataError, FileFormatError, UsageError
from fastgdml.flat import export_flat
from fastgdml.ipi_client import main, program
from fastgdml.model import load_model, save_model
from fastgdml.predict import GDMLPredict

BOX = 50 * np.eye(3)  # around molecules, Bohr
HARTREE = _core.energy_factor("kcal/mol", "Hartree")  # in the unit of energy of the models here
BOHR = _core.length_factor("Ang", "Bohr")
FORCE = HARTREE / BOHR


def ipi_is_new():
    """Whether there is an i-PI that sends batches over sockets."""
    if importlib.util.find_spec("ipi") is None or shutil.which("i-pi") is None:
        return False
    return tuple(map(int, importlib.metadata.version("ipi").split(".")[:2])) >= (3, 3)


needs_ipi = pytest.mark.skipif(not ipi_is_new(), reason="i-PI 3.3 or newer is not installed: pip install '.[ipi]'")


@pytest.fixture
def folder(tmp_path, monkeypatch, ethanol_model):
    """The current folder, with a model of ethanol. Names of UNIX sockets are short there."""
    monkeypatch.chdir(tmp_path)
    save_model("model.npz", ethanol_model)
    export_flat("model.fgdml", ethanol_model)
    return tmp_path


@pytest.fixture
def slab():
    """A periodic model in a skewed cell, as a mapping, and geometries."""
    with np.load(shared_file("reference/cu111_periodic.npz")) as arrays:
        return load_model(shared_file("reference/cu111_periodic_model_sgdml103.npz")), arrays["R_test"]


def run_client(*options):
    """Run the client until it ends."""
    command = [program(), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def expected(predictor, R, lattice=None):
    """Energies, forces and virials in atomic units."""
    E, F, virial = predictor.predict(R.reshape(len(R), -1), lattice=lattice, return_virial=True)
    return E * HARTREE, F.reshape(R.shape) * FORCE, virial * HARTREE


# ---- the compiled client and a server of our own ----------------------------------------------------------------


class Server:
    """The other side of the protocol, as i-PI plays it, with a client that it has started."""

    def __init__(self, mode="unix", options=("-m", "model.fgdml")):
        if mode == "unix":
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind("ipi_test")
            where = ["-u", "-a", "test", "-S", "./ipi_"]
        else:
            self.listener = socket.create_server(("127.0.0.1", 0))
            where = ["-a", "127.0.0.1", "-p", str(self.listener.getsockname()[1])]
        self.listener.listen()
        self.listener.settimeout(30)
        command = [program(), *where, *map(str, options)]
        self.client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.socket, _ = self.listener.accept()
        self.socket.settimeout(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.listener.close()
        Path("ipi_test").unlink(missing_ok=True)
        self.client.kill()
        self.client.communicate()

    def send(self, header, *parts):
        data = header.encode().ljust(12) if header else b""
        self.socket.sendall(data + b"".join(np.asarray(part).tobytes() for part in parts))

    def receive(self, dtype, *shape):
        data = bytearray()
        size = np.dtype(dtype).itemsize * int(np.prod(shape))
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, self.finish()
            data += part
        return np.frombuffer(data, dtype).reshape(shape)

    def header(self):
        return self.receive("S12", 1)[0].decode()

    def status(self):
        self.send("STATUS")
        return self.header()

    def init(self, text):
        self.send("INIT", np.int32(0), np.int32(len(text)), np.frombuffer(text.encode(), np.uint8))

    def send_positions(self, R, cell=BOX):
        """Positions (n_atoms, 3) or, of a batch, (n_geo, n_atoms, 3) in Angstrom; cell in Bohr."""
        cells = np.array([cell, np.linalg.inv(cell)])
        if R.ndim == 2:
            self.send("POSDATA", cells, np.int32(len(R)), R * BOHR)
        else:
            self.send("POSDATA", np.int32(R.shape[1]), np.tile(cells, (len(R), 1, 1)), R * BOHR)

    def forces(self, n_geo, n_atoms):
        self.send("GETFORCE")
        assert self.header() == "FORCEREADY  "
        energies = self.receive(float, n_geo)
        assert self.receive(np.int32, 1) == n_atoms
        forces, virials = self.receive(float, n_geo, n_atoms, 3), self.receive(float, n_geo, 3, 3)
        self.texts = []
        for _ in range(n_geo):
            (length,) = self.receive(np.int32, 1)
            self.texts.append(self.receive(np.uint8, length).tobytes().decode())
        return energies, forces, virials

    def finish(self):
        """Wait for the client: its exit status and what it said."""
        out, err = self.client.communicate(timeout=30)
        assert out == ""
        return self.client.returncode, err

    def exit(self):
        self.send("EXIT")
        assert self.finish() == (0, "")


def assert_same(results, wanted):
    # the conversion of units rounds positions, and models amplify that
    for result, value in zip(results, wanted, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-9, atol=1e-9 * np.abs(value).max())


@pytest.mark.parametrize("mode", ["unix", "tcp"])
def test_a_conversation(folder, ethanol, ethanol_model, mode):
    R, predictor = ethanol["R"][:3], GDMLPredict(ethanol_model)
    with Server(mode) as server:
        assert server.status() == "NEEDINIT    "
        server.init(" ")
        assert server.status() == "READY       "
        for r in R:
            server.send_positions(r)
            assert server.status() == "HAVEDATA    "
            assert_same(server.forces(1, 9), expected(predictor, r[None]))
            assert server.status() == "READY       "
        server.init("")  # some servers send it before each geometry
        server.send_positions(R[0])
        assert_same(server.forces(1, 9), expected(predictor, R[:1]))
        server.exit()


@pytest.mark.parametrize("settings", [" batch_size:3", " eps : 0.1 , x :  , batch_size : 3 , n : 2 "])
def test_batches(folder, ethanol, ethanol_model, settings):
    R, predictor = ethanol["R"][:6].reshape(2, 3, 9, 3), GDMLPredict(ethanol_model)
    with Server() as server:
        server.init(settings)
        for batch in R:
            server.send_positions(batch)
            assert_same(server.forces(3, 9), expected(predictor, batch))
        server.init("batch : 3")  # back to single geometries
        server.send_positions(R[0, 0])
        assert_same(server.forces(1, 9), expected(predictor, R[0, :1]))
        server.exit()


@pytest.mark.parametrize("threads", [0, 1])
def test_messages_larger_than_the_buffers_of_the_sockets(folder, ethanol, ethanol_model, threads):
    R = np.tile(ethanol["R"], (8, 1, 1)) + np.linspace(0, 1e-2, 8 * len(ethanol["R"]))[:, None, None]
    with Server(options=["-m", "model.fgdml", "-n", threads]) as server:
        server.init(f"batch_size:{len(R)}")
        server.send_positions(R)
        assert server.status() == "HAVEDATA    "
        server.send("GETFORCE")
        time.sleep(0.2)  # the client fills the buffers and has to wait
        server.header()
        E, F, virial = expected(GDMLPredict(ethanol_model), R)
        results = [server.receive(float, len(R))]
        server.receive(np.int32, 1)
        results += [server.receive(float, *F.shape), server.receive(float, *virial.shape)]
        assert_same(results, (E, F, virial))
        server.receive(np.int32, len(R))
        server.exit()


def test_messages_in_pieces_and_interruptions(folder, ethanol, ethanol_model):
    r = ethanol["R"][0]
    message = b"POSDATA".ljust(12) + np.tile(np.eye(3), 2).tobytes() + np.int32(9).tobytes() + (r * BOHR).tobytes()
    with Server("tcp") as server:
        server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (message[:5], message[5:13], message[13:158], message[158:161], message[161:300], message[300:]):
            server.socket.sendall(piece)
            time.sleep(0.02)
            os.kill(server.client.pid, signal.SIGSTOP)
            os.kill(server.client.pid, signal.SIGCONT)
        assert_same(server.forces(1, 9), expected(GDMLPredict(ethanol_model), r[None]))
        server.exit()


def test_a_server_that_goes_after_the_work(folder, ethanol):
    with Server() as server:
        server.send_positions(ethanol["R"][0])
        server.forces(1, 9)
        server.socket.close()
        assert server.finish() == (0, "")


def nan_positions(server, R):
    server.send_positions(np.where(np.arange(3) == 1, np.nan, R[0]))


FAILURES = {
    "other atoms": (lambda s, R: s.send_positions(R[0, :8]), "the server has 8 atoms, the model 9"),
    "other atoms in a batch": (
        lambda s, R: (s.init("batch_size:2"), s.send_positions(np.tile(R[:2], (1, 2, 1)))),
        "the server has 18 atoms, the model 9",
    ),
    "atoms at one place": (lambda s, R: s.send_positions(R[0] * 0), "atoms at the same place"),
    "not finite": (nan_positions, "positions that are not finite"),
    "no positions": (lambda s, R: s.send("GETFORCE"), "asks for forces, but has sent no positions"),
    "forces twice": (
        lambda s, R: (s.send_positions(R[0]), s.forces(1, 9), s.send("GETFORCE")),
        "asks for forces, but has sent no positions",
    ),
    "another protocol": (lambda s, R: s.send("GET / HTTP\r\n"), "sent 'GET / HTTP??', which is no message of i-PI"),
    "lower case": (lambda s, R: s.send("status"), "sent 'status      '"),
    "length below 0": (lambda s, R: s.send("INIT", np.int32([0, -1])), "announces -1 characters"),
    "far too long": (lambda s, R: s.send("INIT", np.int32([0, 1 << 30])), "announces 1073741824 characters"),
    "no batch": (lambda s, R: s.init("batch_size:0"), "announces batches of 0"),
    "no number": (lambda s, R: s.init("batch_size:many"), "announces batches of 0"),
    "closed at once": (lambda s, R: s.socket.close(), "closed the connection before it asked for forces"),
    "closed in a header": (lambda s, R: (s.send("", b"POSD"), s.socket.close()), "after 4 bytes of 12"),
    "closed after a header": (lambda s, R: (s.send("POSDATA"), s.socket.close()), "in the middle of a message"),
    "closed in positions": (
        lambda s, R: (s.send("POSDATA", np.eye(3), np.eye(3), np.int32(9), R[0, 0]), s.socket.close()),
        "closed the connection after 24 bytes of 216",
    ),
}


@pytest.mark.parametrize(("act", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_one_clear_message_and_a_status(folder, ethanol, act, message):
    with Server() as server:
        act(server, ethanol["R"])
        status, said = server.finish()
        assert status == 1
        assert said.startswith("fastgdml-ipi: ")
        assert said.count("\n") == 1
        assert message in said


def test_a_server_that_goes_while_it_is_answered(folder, ethanol):
    R = np.tile(ethanol["R"], (20, 1, 1))
    with Server() as server:
        server.init(f"batch_size:{len(R)}")
        server.send_positions(R)
        server.send("GETFORCE")
        server.header()
        server.socket.close()  # with most of the answer unread
        status, said = server.finish()
        assert status == 1
        assert "before it had the forces" in said


# ---- starting the client ----------------------------------------------------------------------------------------


def test_help_and_version(folder):
    from fastgdml import __version__

    assert run_client("--help").stdout.startswith("usage: fastgdml-ipi -m MODEL.fgdml")
    assert run_client("--version").stdout == f"fastgdml-ipi {__version__}\n"


def test_command_is_the_program(folder):
    """The script that pip installs becomes the program: its arguments, its messages, its status."""
    script = Path(sysconfig.get_path("scripts")) / "fastgdml-ipi"
    for options in (["--help"], ["-m", "no such file"], ["--stone"]):
        expected, got = (
            subprocess.run([command, *options], capture_output=True, text=True, check=False)
            for command in (program(), script)
        )
        assert got.returncode == expected.returncode
        assert got.stdout == expected.stdout
        said, meant = (text.rpartition("fastgdml-ipi: ")[2] for text in (got.stderr, expected.stderr))
        assert said == meant


@pytest.mark.parametrize(("platform", "message"), [("win32", "POSIX sockets"), ("linux", "install it anew")])
def test_missing_program_is_said(tmp_path, monkeypatch, capsys, platform, message):
    monkeypatch.setattr("fastgdml.ipi_client.files", lambda package: tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    assert main() == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "give a model file: -m model.fgdml"),
        (["-m", "model.fgdml", "-p", "70000"], 2, "a port is a number from 1 to 65535, not '70000'"),
        (["-m", "model.fgdml", "-p", "12x"], 2, "not '12x'"),
        (["-m", "model.fgdml", "-n", "-1"], 2, "threads are from 0 to 1024, not '-1'"),
        (["-m", "model.fgdml", "-w", "soon"], 2, "number of seconds, not 'soon'"),
        (["-m", "model.fgdml", "run"], 2, "'run' belongs to no option"),
        (["-m", "model.fgdml", "--nonsense"], 2, "nonsense"),
        (["-m", "model.fgdml", "--max-std", "much"], 2, "the largest deviation is a number, not 'much'"),
        (["-m", "model.fgdml", "--std"], 1, "model.fgdml has no samples for standard deviations"),
        (["-m", "none.fgdml"], 1, "none.fgdml cannot be opened: No such file"),
        (["-m", "model.npz"], 1, "model.npz is no model file of fastgdml: make one with 'fastgdml export"),
        (["-m", "model.fgdml", "--energy-unit", "cal"], 1, "'cal' is no known unit of energy"),
        (["-m", "model.fgdml", "--length-unit", "mile"], 1, "'mile' is no known unit of length"),
        (["-m", "model.fgdml", "-u", "-a", "none", "-w", "0"], 1, "cannot connect to /tmp/ipi_none: No such file"),
        (["-m", "model.fgdml", "-u", "-S", "x" * 200], 1, "the path of a UNIX socket has at most"),
        (["-m", "model.fgdml", "-a", "no.such.host.invalid"], 1, "cannot find the host no.such.host.invalid"),
    ],
)
def test_wrong_options(folder, options, status, message):
    done = run_client(*options)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_where_nobody_listens(folder):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    start = time.monotonic()
    done = run_client("-m", "model.fgdml", "-a", "127.0.0.1", "-p", port, "-w", 0.3)
    assert done.returncode == 1
    assert f"cannot connect to 127.0.0.1, port {port}: Connection refused" in done.stderr
    assert time.monotonic() - start >= 0.3


def test_a_server_that_comes_later(folder, ethanol):
    where = ["-m", "model.fgdml", "-u", "-a", "late", "-S", "./ipi_", "-w", "30"]
    client = subprocess.Popen([program(), *where], stderr=subprocess.PIPE)
    time.sleep(0.3)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("ipi_late")
        listener.settimeout(30)
        time.sleep(0.2)  # there is a socket, but nobody listens
        listener.listen()
        connection, _ = listener.accept()
        connection.sendall(b"EXIT".ljust(12))
        assert client.communicate(timeout=30)[1] == b""
        connection.close()
    assert client.returncode == 0


def test_a_pending_connection_is_not_waited_for_longer(folder):
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = listener.getsockname()[1]
    waiting = [socket.socket() for _ in range(4)]  # the queue is full: connections to it stay pending
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
    time.sleep(0.2)
    start = time.monotonic()
    done = run_client("-m", "model.fgdml", "-a", "127.0.0.1", "-p", port, "-w", "1")
    assert time.monotonic() - start < 20  # the system would give up after two minutes
    assert done.returncode == 1
    assert "cannot connect to 127.0.0.1, port" in done.stderr
    for one in [listener, *waiting]:
        one.close()


@pytest.mark.parametrize("cell", [25 * np.eye(3), np.array([[22.0, 9, -7], [0, 20, 9], [0, 0, 21]])])
def test_molecules_across_the_boundary_are_made_whole(folder, ethanol, ethanol_model, cell):
    rng = np.random.default_rng(5)
    R = ethanol["R"][[3, 100, 500]] + rng.uniform(0, 20, (3, 1, 3))
    fractions = np.linalg.solve(cell / BOHR, R.reshape(-1, 3).T).T
    wrapped = ((fractions - np.round(fractions)) @ (cell / BOHR).T).reshape(R.shape)
    assert max(np.ptp(r, axis=0).max() for r in wrapped) > 5
    E, F, virial = expected(GDMLPredict(ethanol_model), R)
    with Server() as server:
        for r, *right in zip(wrapped, E, F, virial, strict=True):
            server.status()
            server.init("")
            server.send_positions(r, cell)
            energies, forces, virials = server.forces(1, 9)[:3]
            np.testing.assert_allclose(energies, right[0], rtol=1e-10)
            np.testing.assert_allclose(forces.reshape(9, 3), right[1], rtol=0, atol=1e-9)
            np.testing.assert_allclose(virials.reshape(3, 3), right[2], rtol=0, atol=1e-9)


@needs_ipi
def test_the_driver_makes_molecules_whole(folder, driver_class, ethanol, ethanol_model):
    cell = 25 * np.eye(3)
    R = ethanol["R"][[3, 100]] * BOHR + np.array([[[12.0, 12.0, 0.0]], [[0.0, 12.5, 12.5]]])
    wrapped = R - 25 * np.round(R / 25)
    driver = driver_class(model="model.npz")
    right = driver.compute([cell, cell], list(R))
    for found, one in zip(driver.compute([cell, cell], list(wrapped)), right, strict=True):
        assert found[0] == pytest.approx(one[0], rel=1e-10)
        np.testing.assert_allclose(found[1], one[1], rtol=0, atol=1e-9)
    with pytest.raises(DataError, match="the cell is too small to tell where it ends"):
        driver.compute(8 * np.eye(3), R[0] - 8 * np.round(R[0] / 8))


@needs_ipi
def test_unknown_parameters_of_the_driver_are_refused(folder, driver_class):
    with pytest.raises(UsageError, match=r"no parameter 'n_thread'; it has model, e_unit, r_unit, n_threads, any_cell"):
        driver_class(model="model.npz", n_thread=2)
    driver_class(model="model.npz", verbose=True)


def test_units_of_models_without_them(folder, ethanol, ethanol_model):
    export_flat("bare.fgdml", {key: value for key, value in ethanol_model.items() if key not in ("e_unit", "r_unit")})
    done = run_client("-m", "bare.fgdml")
    assert done.returncode == 1
    assert "the model does not record it; give it with --energy-unit" in done.stderr
    done = run_client("-m", "bare.fgdml", "--energy-unit", "eV")
    assert "give it with --length-unit" in done.stderr
    E, F, virial = expected(GDMLPredict(ethanol_model), ethanol["R"][:1])
    scale = _core.energy_factor("kJ/mol", "kcal/mol")
    with Server(options=["-m", "bare.fgdml", "--energy-unit", "kJ / mol", "--length-unit", "nm"]) as server:
        server.send_positions(ethanol["R"][0] * 10)  # the same numbers in nm
        assert_same(server.forces(1, 9), (E * scale, F * scale / 10, virial * scale))
        server.exit()


# ---- periodic models --------------------------------------------------------------------------------------------


def rotation():
    return np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]


def test_a_periodic_model_in_its_cell(folder, slab):
    model, R = slab
    export_flat("slab.fgdml", model)
    wanted = expected(GDMLPredict(model), R[:3])
    lattice, Q = model["lattice"] * BOHR, rotation()
    assert not np.allclose(lattice, lattice.T)  # columns and rows differ
    with Server(options=["-m", "slab.fgdml"]) as server:
        server.send_positions(R[0], lattice)
        assert_same(server.forces(1, 8), [value[:1] for value in wanted])
        # a rotated system, with atoms in other cells, and a cell that is given with a few digits
        shifted = R[0] + np.arange(8)[:, None] % 3 * model["lattice"][:, 1]
        server.send_positions(shifted @ Q.T, Q @ lattice)
        E, F, virial = server.forces(1, 8)
        np.testing.assert_allclose(E, wanted[0][:1], rtol=1e-9)
        np.testing.assert_allclose(F[0] @ Q, wanted[1][0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(Q.T @ virial[0] @ Q, wanted[2][0], rtol=0, atol=1e-9)
        server.send_positions(R[0], np.round(lattice, 3))
        np.testing.assert_allclose(server.forces(1, 8)[0], wanted[0][:1], rtol=1e-4)
        server.init("batch_size:3")
        server.send_positions(R[:3], lattice)
        assert_same(server.forces(3, 8), wanted)
        server.exit()


def test_another_cell_is_refused(folder, slab):
    model, R = slab
    export_flat("slab.fgdml", model)
    lattice = model["lattice"] * BOHR
    for cell in (lattice * 1.001, lattice.T, np.zeros((3, 3)), np.full((3, 3), np.nan)):
        with Server(options=["-m", "slab.fgdml"]) as server:
            server.send("POSDATA", cell, cell, np.int32(8), R[0] * BOHR)
            status, said = server.finish()
            assert status == 1
            assert "the cell has edges" in said
            assert (
                "trained with 5.10531 5.10531 14.0842 and 90 90 60 (lengths in the model's unit); --any-cell takes"
                in said
            )
    strained = lattice * 1.01
    with Server(options=["-m", "slab.fgdml", "--any-cell"]) as server:
        server.init("batch_size:2")
        cells = np.array([[strained, strained], [lattice, lattice]])  # the second of each is not read
        server.send("POSDATA", np.int32(8), cells, np.array([R[0], R[0]]) * BOHR)
        results = server.forces(2, 8)
        for i, cell in enumerate((strained, lattice)):
            wanted = expected(GDMLPredict(model), R[:1], cell / BOHR)
            assert_same([result[i : i + 1] for result in results], wanted)
        server.exit()


def test_a_model_of_several_cells_takes_any(folder, slab):
    model, R = slab
    cells = np.tile(model["lattice"], (model["R_desc"].shape[1], 1, 1))
    export_flat("several.fgdml", {**model, "lattice": cells, "image_rule": "rounding"})
    cell = model["lattice"] * 1.02
    with Server(options=["-m", "several.fgdml"]) as server:
        server.send_positions(R[0], cell * BOHR)
        assert_same(server.forces(1, 8), expected(GDMLPredict(model), R[:1], cell))
        server.exit()


# ---- ASE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["unix", "tcp"])
def test_the_socket_calculator_of_ase(folder, slab, ethanol, ethanol_model, mode):
    pytest.importorskip("ase", reason="needs ASE: pip install '.[ase]'")
    from ase import Atoms, units
    from ase.calculators.socketio import SocketIOCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    model, R = slab
    export_flat("slab.fgdml", model)
    molecule = Atoms(ethanol["z"], ethanol["R"][0])
    crystal = Atoms(model["z"], R[0], cell=model["lattice"].T, pbc=True)
    for file, atoms, entries in (("model.fgdml", molecule, ethanol_model), ("slab.fgdml", crystal, model)):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        name = f"fastgdml_test_{os.getpid()}"
        server = {"unixsocket": name} if mode == "unix" else {"port": port}
        where = ["-u", "-a", name] if mode == "unix" else ["-a", "127.0.0.1", "-p", str(port)]
        with SocketIOCalculator(**server, timeout=30) as atoms.calc:
            client = subprocess.Popen([program(), "-m", file, *where], stderr=subprocess.PIPE, text=True)
            for _ in range(3):
                E, F, virial = GDMLPredict(entries).predict(atoms.positions, return_virial=True)
                kcal = units.kcal / units.mol
                assert atoms.get_potential_energy() == pytest.approx(E[0] * kcal, rel=1e-6)
                scale = kcal * np.abs(F).max()
                np.testing.assert_allclose(atoms.get_forces(), F.reshape(-1, 3) * kcal, rtol=0, atol=1e-5 * scale)
                if atoms.pbc.all():
                    stress = full_3x3_to_voigt_6_stress(-virial[0] * kcal / atoms.get_volume())
                    np.testing.assert_allclose(atoms.get_stress(), stress, rtol=0, atol=1e-5 * np.abs(stress).max())
                atoms.positions[2] += 0.01
        assert client.communicate(timeout=30)[1] == ""
        assert client.returncode == 0


# ---- the PES driver ---------------------------------------------------------------------------------------------


@pytest.fixture
def driver_class():
    if importlib.util.find_spec("ipi") is None:
        pytest.skip("i-PI is not installed: pip install '.[ipi]'")
    from ipi.pes import load_pes

    # as i-PI does, by the path that the module prints
    shown = subprocess.run(
        [sys.executable, "-m", "fastgdml.drivers.ipi_pes"], capture_output=True, text=True, check=True
    )
    return load_pes("custom", shown.stdout.strip())


def test_the_driver_in_batches_and_one_by_one(folder, driver_class, ethanol, ethanol_model):
    import ipi

    R = ethanol["R"][:4]
    E, F, virial = expected(GDMLPredict(ethanol_model), R)
    cells = [BOX] * 4
    for file in ("model.npz", "model.fgdml"):
        driver = driver_class(file, n_threads=1, verbose=False)
        batch = driver(cells, list(R * BOHR))
        assert isinstance(batch, list)
        for i, (pot, force, vir, extras) in enumerate(batch):
            assert (type(pot), force.shape, vir.shape, extras) == (float, (9, 3), (3, 3), "")
            assert_same((pot, force, vir), (E[i], F[i], virial[i]))
            assert_same(driver(cells[0], R[i] * BOHR)[:3], (E[i], F[i], virial[i]))
    assert sys.modules["ipi"] is ipi  # not replaced by the driver


def test_the_driver_makes_one_call_of_a_batch(folder, driver_class, ethanol, monkeypatch):
    driver, calls = driver_class("model.npz"), []
    predict = driver.predictor.predict
    monkeypatch.setattr(driver.predictor, "predict", lambda R, **kw: calls.append(len(R)) or predict(R, **kw))
    driver([np.eye(3)] * 8, list(ethanol["R"][:8] * BOHR))
    assert calls == [8]


def test_errors_of_the_driver(folder, driver_class, ethanol, ethanol_model):
    driver = driver_class("model.npz")
    with pytest.raises(DataError, match="i-PI has 8 atoms, the model 9"):
        driver(np.eye(3), ethanol["R"][0, :8])
    with pytest.raises(DataError, match="i-PI has 18 atoms, the model 9"):
        driver([np.eye(3)], [np.tile(ethanol["R"][0], (2, 1))])
    with pytest.raises(DataError, match="same place"):
        driver(np.eye(3), 0 * ethanol["R"][0])
    with pytest.raises(FileFormatError, match=r"none\.npz"):
        driver_class("none.npz")
    with pytest.raises(UsageError, match="'furlong', an unknown unit"):
        driver_class("model.npz", r_unit="furlong")
    save_model("bare.npz", {key: value for key, value in ethanol_model.items() if key not in ("e_unit", "r_unit")})
    with pytest.raises(UsageError, match=r"does not record its units .*: give e_unit and r_unit"):
        driver_class("bare.npz")
    given = driver_class("bare.npz", e_unit="kcal/mol", r_unit="Ang")
    assert given(np.eye(3), ethanol["R"][0] * BOHR)[0] == driver(np.eye(3), ethanol["R"][0] * BOHR)[0]


def test_the_driver_in_periodic_cells(folder, driver_class, slab):
    model, R = slab
    save_model("slab.npz", model)
    lattice, Q = model["lattice"] * BOHR, rotation()
    E, F, virial = expected(GDMLPredict(model), R[:2])
    driver = driver_class("slab.npz")
    results = driver([lattice, Q @ lattice], [R[0] * BOHR, R[1] @ Q.T * BOHR])
    assert_same(results[0][:3], (E[0], F[0], virial[0]))
    assert results[1][0] == pytest.approx(E[1], rel=1e-9)
    np.testing.assert_allclose(results[1][1] @ Q, F[1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(Q.T @ results[1][2] @ Q, virial[1], rtol=0, atol=1e-9)
    for cell in (1.001 * lattice, lattice.T):
        with pytest.raises(DataError, match="give any_cell=True"):
            driver(cell, R[0] * BOHR)
    any_cell = driver_class("slab.npz", any_cell=True)
    strained = expected(GDMLPredict(model), R[:1], 1.01 * model["lattice"])
    assert_same(any_cell(1.01 * lattice, R[0] * BOHR)[:3], [value[0] for value in strained])


# ---- i-PI -------------------------------------------------------------------------------------------------------

SIMULATION = """
<simulation verbosity='low' floatformat='%20.12e'>
  <output prefix='run'>
    <properties stride='1' filename='out'> {properties} </properties>
    <trajectory stride='1' filename='pos' format='xyz'> positions </trajectory>
  </output>
  <total_steps>{steps}</total_steps>
  <prng><seed>1</seed></prng>
  {forcefield}
  <system>
    <initialize nbeads='{n_beads}'>
      <file mode='xyz' units='atomic_unit'> start.xyz </file>
      <cell mode='manual'> {cell} </cell>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='gdml'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.1 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""
UNIX = "<ffsocket name='gdml' mode='unix'> <address>gdml</address> {more} </ffsocket>"
TCP = "<ffsocket name='gdml' mode='inet'> <address>127.0.0.1</address> <port>{port}</port> {more} </ffsocket>"
DIRECT = """
<ffdirect name='gdml' pbc='false'>
  <pes>custom</pes> <pes_path>{path}</pes_path> <parameters>{{model: {model}}}</parameters> {more}
</ffdirect>
"""
WAIT = """
import os, sys, time
while not os.path.exists("ipi_gdml"):
    time.sleep(0.05)
time.sleep(0.2)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
BATCH = "<batch_size>8</batch_size>"


def run_ipi(forcefield, symbols, r, properties, client=None, n_beads=1, steps=1, cell=BOX):
    """Run i-PI in the current folder, with a client; positions and cell in Bohr. Returns the properties."""
    write_start(symbols, r)
    numbers = "[" + ", ".join(repr(float(x)) for x in np.ravel(cell)) + "]"
    text = SIMULATION.format(forcefield=forcefield, properties=properties, n_beads=n_beads, steps=steps, cell=numbers)
    run_input(text, client)
    return np.loadtxt("run.out", ndmin=2).T


def write_start(symbols, r):
    atoms = [" ".join([s, *(repr(float(x)) for x in xyz)]) for s, xyz in zip(symbols, r, strict=True)]
    Path("start.xyz").write_text("\n".join([str(len(r)), "", *atoms]) + "\n")


def run_input(text, client):
    Path("input.xml").write_text(text)
    command = [sys.executable, shutil.which("i-pi"), "-S", "./ipi_", "input.xml"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            if client is not None:
                done = subprocess.run(client, capture_output=True, text=True, check=False, timeout=120)
                assert done.returncode == 0, done.stdout + done.stderr
            said = server.communicate(timeout=120)[0]
        finally:
            server.kill()
    assert server.returncode == 0, said


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def ways():
    """Force field of i-PI and command of the client, if there is one, for each way to i-PI."""
    from fastgdml.drivers import ipi_pes

    port, client = str(free_port()), [program(), "-m", "model.fgdml", "-w", "30"]
    unix = [*client, "-u", "-a", "gdml", "-S", "./ipi_"]
    tcp = [*client, "-a", "127.0.0.1", "-p", port]
    # i-PI's client does not wait for the server
    python = [sys.executable, "-c", WAIT, shutil.which("i-pi-driver-py"), "-u", "-a", "gdml", "-S", "./ipi_"]
    python += ["-m", "custom", "-P", ipi_pes.__file__, "-o", "model.npz,n_threads=1"]
    return {
        "unix": (UNIX, unix, port),
        "tcp": (TCP, tcp, port),
        "direct": (DIRECT, None, ipi_pes.__file__),
        "i-pi-driver-py": (UNIX, python, port),
    }


@needs_ipi
def test_path_integrals_by_every_way(folder, ethanol, ethanol_model):
    """Ring polymers of 8 beads at constant energy: the same by all ways, and right."""
    predictor, r = GDMLPredict(ethanol_model), ethanol["R"][7]
    start = float(predictor.predict(r)[0][0]) * HARTREE
    # i-PI subtracts the offset: then the digits that it prints tell more
    offset = f"<offset>{start!r}</offset>"
    properties = "[step, conserved, potential, kinetic_md, " + ", ".join(f"potential(bead={b})" for b in range(8)) + "]"
    results = {}
    for name, more in (("unix", ""), ("unix", BATCH), ("tcp", ""), ("tcp", BATCH), ("direct", BATCH)):
        text, client, place = ways()[name]
        forcefield = text.format(more=offset + more, port=place, path=place, model="model.npz")
        results[name, more] = run_ipi(forcefield, "CCOHHHHHH", r * BOHR, properties, client, n_beads=8, steps=30)
        trajectories = [Path(f"run.pos_{b}.xyz").read_text().split("\n") for b in range(8)]

    _, conserved, potential, kinetic, *of_beads = results["direct", BATCH]
    np.testing.assert_allclose(np.mean(of_beads, axis=0), potential, rtol=0, atol=1e-12)
    assert np.ptp(potential) > 1e-3
    assert abs(potential[0]) < 1e-9  # all beads are where the offset is from
    assert np.ptp(conserved) < 0.01 * np.ptp(kinetic)
    for result in results.values():
        np.testing.assert_allclose(result, results["direct", BATCH], rtol=0, atol=1e-10)
    # the trajectory has six digits of the positions
    R = np.array([[line.split()[1:4] for i, line in enumerate(t) if line and i % 11 >= 2] for t in trajectories], float)
    E, _ = predictor.predict(R.reshape(8 * 31, 27) / BOHR)
    np.testing.assert_allclose(np.array(of_beads).ravel() + start, E * HARTREE, rtol=0, atol=2e-6)
    assert np.ptp(of_beads) > 1e-3


@pytest.mark.parametrize("n_geo", [1, 3])
def test_standard_deviations_by_the_client(folder, ethanol, ethanol_model, n_geo):
    model = ethanol_model | make_samples(ethanol_model, 3)
    export_flat("s.fgdml", model)
    R = ethanol["R"][:n_geo]
    E, F, E_std, F_std = GDMLPredict(model).predict(R.reshape(n_geo, -1), return_std=True)
    with Server(options=("-m", "s.fgdml", "--std")) as server:
        server.init(f"batch_size:{n_geo}")
        server.send_positions(R if n_geo > 1 else R[0])
        energies, forces, _ = server.forces(n_geo, 9)
        assert_same((energies, forces), (E * HARTREE, F.reshape(R.shape) * FORCE))
        texts = [json.loads(text) for text in server.texts]
        np.testing.assert_allclose([text["energy_std"] for text in texts], E_std * HARTREE, rtol=1e-8)
        np.testing.assert_allclose([text["force_std"] for text in texts], F_std * FORCE, rtol=1e-8)
        server.exit()
    with Server(options=("-m", "s.fgdml", "--max-std", str(0.9 * F_std.max()))) as server:
        server.init(f"batch_size:{n_geo}")
        server.send_positions(R if n_geo > 1 else R[0])
        status, said = server.finish()
        assert status == 1
        assert "the standard deviation of the force on atom" in said


@needs_ipi
def test_standard_deviations_in_ipi(folder, ethanol, ethanol_model, driver_class):
    """Extras of all beads' mean, by the client and by the driver; the driver ends the simulation at its limit."""
    model, r = ethanol_model | make_samples(ethanol_model, 3), ethanol["R"][7]
    save_model("s.npz", model)
    export_flat("s.fgdml", model)
    _, _, E_std, F_std = GDMLPredict(model).predict(r, return_std=True)
    extras = "<trajectory filename='std' stride='1' extra_type='force_std'> extras </trajectory> </output>"
    write_start("CCOHHHHHH", r * BOHR)
    numbers = "[" + ", ".join(map(repr, BOX.ravel().tolist())) + "]"
    text, client, _ = ways()["unix"]
    client = [*client, "--std"]
    client[client.index("model.fgdml")] = "s.fgdml"
    place = ways()["direct"][2]
    for forcefield, command in (
        (text.format(more=""), client),
        (DIRECT.format(path=place, model="s.npz, std: True", more=""), None),
    ):
        simulation = SIMULATION.format(
            forcefield=forcefield, properties="[step, potential]", n_beads=1, steps=2, cell=numbers
        )
        run_input(simulation.replace("</output>", extras), command)
        (output,) = Path().glob("run.std_0*")
        lines = [line for line in output.read_text().split("\n") if line and "#" not in line]
        np.testing.assert_allclose(np.array(" ".join(lines).split(), float)[:9], F_std[0] * FORCE, rtol=1e-5)
        output.unlink()
    driver = driver_class("s.npz", std=True)
    text = json.loads(driver(BOX, r * BOHR)[3])
    assert text["energy_std"] == pytest.approx(E_std[0] * HARTREE, rel=1e-9)
    assert driver_class("s.npz", max_std=2 * F_std.max())(BOX, r * BOHR)[3] == ""
    with pytest.raises(DataError, match="standard deviation of the force on atom"):
        driver_class("s.npz", max_std=F_std.max() / 2)(BOX, r * BOHR)
    with pytest.raises(UsageError, match="no samples"):
        driver_class("model.npz", std=True)
    limit = DIRECT.format(path=place, model="s.npz, max_std: 1e-6", more="")
    Path("input.xml").write_text(
        SIMULATION.format(forcefield=limit, properties="[step]", n_beads=1, steps=2, cell=numbers)
    )
    done = subprocess.run(
        [sys.executable, shutil.which("i-pi"), "input.xml"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "the model does not know this geometry" in done.stdout + done.stderr


@needs_ipi
def test_several_clients(folder, ethanol):
    text, client, _ = ways()["unix"]
    others = [subprocess.Popen([*client], stderr=subprocess.PIPE) for _ in range(3)]
    with_one = run_ipi(text.format(more=""), "CCOHHHHHH", ethanol["R"][7] * BOHR, "[potential]", client, 8, 10)
    assert [other.communicate(timeout=30)[1] for other in others] == [b""] * 3
    assert [other.returncode for other in others] == [0] * 3
    alone = run_ipi(text.format(more=""), "CCOHHHHHH", ethanol["R"][7] * BOHR, "[potential]", client, 8, 10)
    np.testing.assert_array_equal(with_one, alone)


@needs_ipi
def test_the_client_of_ipi_with_the_driver(folder, ethanol, ethanol_model):
    text, client, _ = ways()["i-pi-driver-py"]
    for more in ("", BATCH):
        wanted, _, _ = expected(GDMLPredict(ethanol_model), ethanol["R"][7:8])
        done = run_ipi(text.format(more=more), "CCOHHHHHH", ethanol["R"][7] * BOHR, "[potential]", client, n_beads=8)
        assert done[0, 0] == pytest.approx(wanted[0], rel=1e-11)


@needs_ipi
def test_the_input_files_of_the_documentation(folder, ethanol):
    page = (ROOT / "docs" / "howto" / "ipi.md").read_text()
    whole, direct = (block.split("```")[0] for block in page.split("```xml\n")[1:])
    whole = whole.replace("<total_steps>1000<", "<total_steps>5<")
    write_start("CCOHHHHHH", ethanol["R"][7])
    _, client, _ = ways()["unix"]
    run_input(whole, ["ethanol" if word == "gdml" else word for word in client])
    by_socket = np.loadtxt("ethanol.out")
    socket_lines = whole[whole.index("  <ffsocket") : whole.index("</ffsocket>") + len("</ffsocket>\n")]
    _, _, path = ways()["direct"]
    run_input(whole.replace(socket_lines, direct.replace("PATH", path)), None)
    assert by_socket.shape == (6, 5)
    np.testing.assert_allclose(np.loadtxt("ethanol.out"), by_socket, rtol=1e-7)


@needs_ipi
@pytest.mark.parametrize("way", ["unix", "direct"])
def test_the_stress_of_a_crystal_in_ipi(folder, slab, way):
    model, R = slab
    export_flat("model.fgdml", model)
    Path("model.npz").unlink(missing_ok=True)  # a model of another kind
    save_model("model.npz", model)
    text, client, place = ways()[way]
    cell = model["lattice"] * BOHR
    forcefield = text.format(more="", path=place, model="model.npz")
    result = run_ipi(forcefield, ["Cu"] * 8, R[0] * BOHR, "[potential, virial_md]", client, cell=cell)
    E, _, virial = expected(GDMLPredict(model), R[:1])
    assert result[0, 0] == pytest.approx(E[0], rel=1e-9)
    i, j = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
    wanted = virial[0][i, j] / np.linalg.det(cell)
    np.testing.assert_allclose(result[1:, 0], wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


# ---- <ffsgdml> --------------------------------------------------------------------------------------------------

INPUT = """
<simulation verbosity='low'>
  <output prefix='run'>
    <properties stride='1' filename='out'>
      [step, conserved{electronvolt}, potential{electronvolt}, kinetic_md{electronvolt}]
    </properties>
    <trajectory stride='1' filename='pos' format='xyz'> positions{angstrom} </trajectory>
  </output>
  <total_steps>40</total_steps>
  <prng><seed>1</seed></prng>
  <ffsgdml name='gdml' pbc='false'> <sGDML_model>model.npz</sGDML_model> </ffsgdml>
  <system>
    <initialize nbeads='1'>
      <file mode='xyz' units='angstrom'> start.xyz </file>
      <cell mode='abc' units='angstrom'> [50, 50, 50] </cell>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='gdml'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.1 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""

# i-PI counts in international calories, 4.1868 J, where chemists mean 4.184 J.
KCAL_IN_EV = 4186.8 / 96485.33212


def test_a_trajectory(tmp_path, ethanol, ethanol_model):
    command = shutil.which("i-pi")
    if importlib.util.find_spec("ipi") is None or command is None:
        pytest.skip("i-PI is not installed: pip install '.[ipi]'")
    save_model(tmp_path / "model.npz", ethanol_model)
    atoms = [" ".join([s, *(repr(float(x)) for x in r)]) for s, r in zip("CCOHHHHHH", ethanol["R"][7], strict=True)]
    (tmp_path / "start.xyz").write_text("\n".join(["9", "ethanol", *atoms]) + "\n")
    (tmp_path / "input.xml").write_text(INPUT)
    run = [sys.executable, "-m", "fastgdml.compat", command, "input.xml"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Using sGDML version 1.0.3" in done.stdout

    step, conserved, potential, kinetic = np.loadtxt(tmp_path / "run.out").T
    np.testing.assert_array_equal(step, np.arange(41))
    assert np.ptp(conserved) < 0.01 * np.ptp(kinetic)
    lines = (tmp_path / "run.pos_0.xyz").read_text().split("\n")
    R = np.array([line.split()[1:4] for i, line in enumerate(lines) if line and i % 11 >= 2], dtype=float)
    E, _ = GDMLPredict(ethanol_model).predict(R.reshape(41, 27))
    # i-PI prints energies with nine digits and positions with six
    np.testing.assert_allclose(potential - potential[0], (E - E[0]) * KCAL_IN_EV, rtol=0, atol=1e-4)
    assert np.ptp(potential) > 0.05
    assert potential[0] == pytest.approx(E[0] * KCAL_IN_EV, rel=1e-5)

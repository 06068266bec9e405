"""Downloads, from a server on this machine: good files, wrong hashes, cut connections, nothing there, too slow."""

import hashlib
import http.server
import json
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fastgdml import catalog
from fastgdml.cli import main
from fastgdml.dataset import load_dataset
from fastgdml.errors import FileFormatError, UsageError


class Server(http.server.ThreadingHTTPServer):
    """Serves files with ranges; can cut connections and be slow."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.cut_after = None
        self.delay = 0.0
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, *_):
        """Say nothing of connections that clients closed."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        content = server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        time.sleep(server.delay)
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        first, wanted = 0, self.headers.get("Range")
        if wanted and self.headers.get("If-Range") == tag:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        cut, server.cut_after = server.cut_after, None
        self.wfile.write(content[first : len(content) if cut is None else first + cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    pytest.importorskip("pooch", reason="pooch is not installed: pip install 'fastgdml[get]'")
    monkeypatch.setenv("FASTGDML_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def content(ethanol, tmp_path):
    """The content of a dataset file."""
    np.savez(tmp_path / "content.npz", **{key: ethanol[key][:500] for key in "REF"}, z=ethanol["z"])
    return (tmp_path / "content.npz").read_bytes()


PATH = "data/npz/md17_ethanol.npz"


def test_a_good_file(server, content, capsys):
    server.files[PATH] = content
    assert main(["get", "dataset", "md17_ethanol", "--url", server.url]) == 0
    out = capsys.readouterr().out
    digest = hashlib.sha256(content).hexdigest()
    assert "this first download is trusted" in out
    assert f"sha256:{digest}" in out
    path = catalog.cache_folder() / "datasets/md17_ethanol.npz"
    assert path.read_bytes() == content
    assert sorted(os.listdir(path.parent)) == ["hashes.json", "md17_ethanol.npz"]
    # its name stands for it, and nothing is asked of the server again
    assert len(load_dataset("md17_ethanol")["R"]) == 500
    assert main(["get", "dataset", "md17_ethanol", "--url", server.url]) == 0
    assert len(server.requests) == 1
    assert main(["get", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert listed["downloaded_datasets"] == {"md17_ethanol": str(path)}
    assert "md22_DHA" in listed["datasets"]
    assert listed["examples"] == ["ethanol"]


def test_into_a_folder(server, content):
    server.files[PATH] = content
    os.mkdir("there")
    command = ["get", "dataset", "md17_ethanol", "--url", server.url, "-o", "there"]
    assert main(command) == 0
    assert Path("there/md17_ethanol.npz").read_bytes() == content
    assert main(command) == 1
    assert main([*command, "--overwrite"]) == 0
    Path("there/md17_ethanol.npz").write_text("my notes")
    assert main([*command, "--overwrite"]) == 1
    assert Path("there/md17_ethanol.npz").read_text() == "my notes"


def test_another_content_than_before(server, content, capsys):
    server.files[PATH] = content
    path = catalog.download("dataset", "md17_ethanol", server.url)
    path.unlink()
    server.files[PATH] = content[:-1] + b"x"
    with pytest.raises(FileFormatError, match=r"another content than expected.*Nothing was kept"):
        catalog.download("dataset", "md17_ethanol", server.url)
    assert os.listdir(path.parent) == ["hashes.json"]
    server.files[PATH] = content
    assert catalog.download("dataset", "md17_ethanol", server.url).read_bytes() == content


def test_a_known_hash(server, content, monkeypatch, caplog):
    server.files[PATH] = content
    monkeypatch.setitem(catalog._KNOWN, PATH, "0" * 64)
    with pytest.raises(FileFormatError, match="its hash is not sha256:0000"):
        catalog.download("dataset", "md17_ethanol", server.url)
    monkeypatch.setitem(catalog._KNOWN, PATH, hashlib.sha256(content).hexdigest())
    assert catalog.download("dataset", "md17_ethanol", server.url).exists()
    assert "trusted" not in caplog.text


def test_a_file_in_the_cache_that_has_changed(server, content):
    """It is downloaded again."""
    server.files[PATH] = content
    path = catalog.download("dataset", "md17_ethanol", server.url)
    path.write_bytes(content[:100])
    assert catalog.download("dataset", "md17_ethanol", server.url).read_bytes() == content


def test_a_cut_connection_is_resumed(server, content):
    server.files[PATH] = content
    server.cut_after = 10_000
    with pytest.raises(FileFormatError, match=r"broke off after 8,192 of .* bytes\. The same command goes on"):
        catalog.download("dataset", "md17_ethanol", server.url)
    assert not (catalog.cache_folder() / "datasets/md17_ethanol.npz").exists()
    seen = []
    path = catalog.download("dataset", "md17_ethanol", server.url, lambda n, total: seen.append((n, total)))
    assert path.read_bytes() == content
    assert [wanted for _, wanted in server.requests] == [None, "bytes=8192-"]
    assert seen[-1] == (len(content), len(content))
    assert seen[0][0] > 8192


def test_a_file_that_changed_between_the_parts(server, content):
    """The parts are not put together: the server says that it is another file."""
    server.files[PATH] = content
    server.cut_after = 10_000
    with pytest.raises(FileFormatError, match="broke off"):
        catalog.download("dataset", "md17_ethanol", server.url)
    server.files[PATH] = bytes(reversed(content))
    assert catalog.download("dataset", "md17_ethanol", server.url).read_bytes() == bytes(reversed(content))


def test_nothing_there(server, capsys):
    assert main(["get", "dataset", "nothing", "--url", server.url]) == 1
    err = capsys.readouterr().err
    assert err.count("[FAIL]") == 1
    assert "the server has no dataset 'nothing' (404)" in err


def test_too_slow(server, content):
    server.files[PATH] = content
    server.delay = 2.0
    with pytest.raises(FileFormatError, match=r"cannot be reached \(it does not answer in time\)"):
        catalog.download("dataset", "md17_ethanol", server.url, timeout=0.2)


def test_no_network(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pooch", reason="pooch is not installed: pip install 'fastgdml[get]'")
    monkeypatch.setenv("FASTGDML_CACHE", str(tmp_path))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    for command in (["get", "dataset", "md17_ethanol", "--url", url], ["get", "model", "--online", "--url", url]):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert err.count("[FAIL]") == 1
        assert "cannot be reached" in err
        assert "Traceback" not in out + err


def test_the_list_of_the_server(server, capsys):
    server.files["get.php?model"] = b"ethanol,1048576;aspirin,2097152"
    assert main(["get", "model", "--online", "--url", server.url]) == 0
    out = capsys.readouterr().out
    assert "aspirin:             2.0 MB" in out
    server.files["get.php?model"] = b"<html>moved</html>"
    with pytest.raises(FileFormatError, match="something else than a list"):
        catalog.published_online("model", server.url)
    server.files["models/ethanol.npz"] = b"data"
    assert catalog.download("model", "ethanol", server.url).read_bytes() == b"data"


def test_only_https(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTGDML_CACHE", str(tmp_path))
    for url in ("http://www.quantum-machine.org/gdml/", "ftp://127.0.0.1/", "file:///etc/"):
        with pytest.raises(UsageError, match="over https only"):
            catalog.download("dataset", "md17_ethanol", url)
    with pytest.raises(UsageError, match="is no name"):
        catalog.download("dataset", "../../etc/passwd")


def test_without_pooch(monkeypatch, tmp_path):
    import sys

    monkeypatch.setenv("FASTGDML_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(UsageError, match=r"pip install 'fastgdml\[get\]'"):
        catalog.download("dataset", "md17_ethanol")


def test_nothing_is_asked_unless_told(monkeypatch, tmp_path, capsys):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setenv("FASTGDML_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert main(["get"]) == 0
    assert "md17_ethanol" in capsys.readouterr().out
    with pytest.raises(FileFormatError, match="'fastgdml get dataset md17_uracil' downloads it"):
        load_dataset("md17_uracil")

"""A cluster of command-line processes on loopback, as an administrator starts it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def free_port():
    """A port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Processes:
    """`dask scheduler` and `dask worker` processes in a folder."""

    def __init__(self, folder, host="127.0.0.1"):
        self.folder, self.host, self.port = Path(folder), host, free_port()
        self.address = f"tcp://{host}:{self.port}"
        self.file = self.folder / "scheduler.json"
        self.scheduler, self.workers = None, []

    def _start(self, *arguments, environment=None, before=()):
        log = open(self.folder / "log.txt", "ab")  # noqa: SIM115 (the process has it)
        command = [*before, sys.executable, "-m", "dask", *map(str, arguments)]
        try:
            return subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
            )
        finally:
            log.close()

    def start_scheduler(self):
        self.file.unlink(missing_ok=True)
        options = ["--host", self.host, "--port", self.port, "--no-dashboard", "--scheduler-file", self.file]
        self.scheduler = self._start("scheduler", *options)
        deadline = time.monotonic() + 60
        while not self.file.exists():
            assert time.monotonic() < deadline, self.log()
            assert self.scheduler.poll() is None, self.log()
            time.sleep(0.05)

    def start_worker(self, memory="2GB", threads=1, environment=None, host=None, before=()):
        """Start a worker; it joins some time later. `before` is what begins its command."""
        options = ["--nthreads", threads, "--no-nanny", "--no-dashboard", "--host", host or self.host]
        options += ["--memory-limit", memory, "--local-directory", self.folder, "--death-timeout", "60"]
        worker = self._start("worker", self.address, *options, environment=environment, before=before)
        self.workers.append(worker)
        return worker

    def kill_scheduler(self):
        self.scheduler.kill()
        self.scheduler.wait()

    def kill_worker(self, pid):
        """SIGKILL, as of a machine that is gone."""
        os.kill(pid, signal.SIGKILL)
        for worker in self.workers:
            if worker.pid == pid:
                worker.wait()
                self.workers.remove(worker)

    def restart(self, pids):
        """Kill workers and the scheduler, and start as many anew."""
        pids = list(pids)
        for pid in pids:
            self.kill_worker(pid)
        self.kill_scheduler()
        self.start_scheduler()
        self.keep(len(pids))

    def keep(self, number):
        """Start workers until there are so many."""
        for _ in range(number - len(self.workers)):
            self.start_worker()

    def stop(self):
        for process in (*self.workers, self.scheduler):
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.wait()
        self.workers.clear()

    def log(self):
        return (self.folder / "log.txt").read_text(errors="replace")[-4000:]


def pids(cluster):
    """The process of each worker, by its address."""
    return cluster.client.run(os.getpid)


def busy(cluster):
    """The processes of the workers that compute now."""
    found = pids(cluster)
    return [found[address] for address, tasks in cluster.client.processing().items() if tasks and address in found]


def wait_for(cluster, number):
    """Wait until there are so many workers."""
    deadline = time.monotonic() + 60
    while len(cluster.client.nthreads()) < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)

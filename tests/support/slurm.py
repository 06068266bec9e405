"""SLURM on this machine alone: munged, slurmctld and slurmd, with all that they write in one folder."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from support.cluster import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")

_CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={controller}
SlurmdPort={daemon}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
ReturnToService=2
MailProg=/bin/true
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=standard Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    """Why SLURM cannot be started here; nothing if it can."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"SLURM is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "SLURM's daemons are started by root only"


class Slurm:
    """A controller and one node; `environment` is what its commands need."""

    def __init__(self, folder):
        self.folder, self._daemons = Path(folder), []
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        configuration = self.folder / "slurm.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=self.folder,
                host=socket.gethostname().split(".")[0],
                controller=free_port(),
                daemon=free_port(),
                cpus=os.cpu_count(),
            )
        )
        self.environment = {"SLURM_CONF": str(configuration), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}

    def start(self):
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        options = [f"--{name}={self.folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file")]
        seed = f"--seed-file={self.folder}/munge.seed"
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *options, seed)
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D")
        self._wait(lambda: "idle" in self._run("sinfo", "--noheader", "--format=%t"))

    def _start(self, *command):
        with open(self.folder / "log.txt", "ab") as log:
            environment = {**os.environ, **self.environment}
            path = shutil.which(command[0], path=self.environment["PATH"])
            self._daemons.append(subprocess.Popen([path, *command[1:]], stdout=log, stderr=log, env=environment))

    def _run(self, *command):
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout

    def jobs(self):
        """The jobs that wait or run."""
        return self._run("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%i %T").split("\n")[:-1]

    def _wait(self, done):
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline, self.log()
            assert all(daemon.poll() is None for daemon in self._daemons), self.log()
            time.sleep(0.1)

    def log(self):
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))

    def stop(self):
        self._run("scancel", "--state=RUNNING")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

"""Machines on this machine: network namespaces, each with an address of its own on one bridge."""

import os
import shutil
import subprocess

SUBNET = f"10.231.{os.getpid() % 250}"  # several runs of the tests do not meet


def _ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


class Namespaces:
    """A bridge, with the address `host`, and namespaces on it."""

    def __init__(self, number):
        self._bridge = f"fgb{os.getpid()}"
        self.names = [f"fg{os.getpid()}-{i}" for i in range(number)]
        self.host, self.addresses = f"{SUBNET}.1", [f"{SUBNET}.{i + 2}" for i in range(number)]

    def start(self):
        """Make them; raise OSError or subprocess.CalledProcessError where that is not permitted."""
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.host}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for i, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            _ip("netns", "add", name)
            _ip("link", "add", self.cable(i), "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", self.cable(i), "master", self._bridge, "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")

    def cable(self, i):
        """The end of the cable to a namespace that is at the bridge."""
        return f"fgv{os.getpid()}-{i}"[:15]

    def unplug(self, i):
        """Nothing arrives there any more, and nothing is refused."""
        _ip("link", "set", self.cable(i), "down")

    def inside(self, i):
        """What begins a command that runs there."""
        return ["ip", "netns", "exec", self.names[i]]

    def stop(self):
        for command in (*(["netns", "delete", name] for name in self.names), ["link", "delete", self._bridge]):
            subprocess.run(["ip", *command], capture_output=True, check=False)


def why_not():
    """Why there are no namespaces here; nothing if they can be made."""
    if shutil.which("ip") is None:
        return "network namespaces need the program ip: apt-get install iproute2"
    trial = Namespaces(1)
    try:
        trial.start()
        subprocess.run([*trial.inside(0), "true"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces are not permitted here ({getattr(error, 'stderr', error)})"
    finally:
        trial.stop()
    return None

"""Devices, streams, events and graphs of the stand-in for CuPy, and what goes over the bus."""

import collections
import contextlib
import ctypes
import threading

_thread = threading.local()


# ---- the bus


class Traffic:
    """Bytes that were copied to the device, to the host, and between devices."""

    def __init__(self):
        self.to_device = self.to_host = self.between = 0


_traffic = []


def count(way, n_bytes):
    """Add to what goes over the bus."""
    for traffic in _traffic:
        setattr(traffic, way, getattr(traffic, way) + n_bytes)


@contextlib.contextmanager
def counted():
    """Count what goes over the bus within this context."""
    traffic = Traffic()
    _traffic.append(traffic)
    try:
        yield traffic
    finally:
        _traffic.remove(traffic)


# ---- the order of work on several devices


class RaceError(AssertionError):
    """An array was used on one device while another may still copy it, or copied while it may still be used."""


class Order:
    """Which work of other devices each device has waited for, all streams of a device taken as one.

    Work of the stand-in is done at once, so a wait that is missing changes no result. Here it is found: each access to
    an array counts as a step of its device; an event remembers the steps that its device knows to be done.
    """

    def __init__(self):
        self.forget()

    def forget(self):
        """Start anew: what was copied before is done."""
        self.steps = collections.Counter()
        self._known = collections.defaultdict(collections.Counter)
        self._copies = []

    def snapshot(self, device):
        return self._known[device] | collections.Counter({device: self.steps[device]})

    def wait(self, device, snapshot):
        """Let a device know of what is in a snapshot; copies that the other end knows of are over."""
        known = self._known[device] = self._known[device] | snapshot
        self._copies = [c for c in self._copies if not (c[4] == device and c[3] <= known[c[2]])]

    def access(self, device, bounds, writes):
        """Note an access to memory between two addresses."""
        self.steps[device] += 1
        for low, high, by, step, _, is_target in self._copies:
            overlaps = by != device and low < bounds[1] and bounds[0] < high and (is_target or writes)
            if overlaps and step > self._known[device][by]:
                raise RaceError(f"device {device} uses an array that device {by} may still copy")

    def copy(self, by, other, target, source, size):
        """Note a copy that device `by` does, between it and another one."""
        if self._known[by][other] < self.steps[other]:
            raise RaceError(f"device {by} copies what device {other} may still work on")
        self.steps[by] += 1
        for address, is_target in ((target, True), (source, False)):
            self._copies.append((address, address + size, by, self.steps[by], other, is_target))


order = Order()


def current_device():
    return getattr(_thread, "device", 0)


def current_stream():
    return getattr(_thread, "stream", None) or Stream(null=True)


def submit(work):
    """Run what was asked of the current stream, or record it if the stream is being captured."""
    stream = current_stream()
    if stream.captured is None:
        work()
    else:
        stream.captured.append(work)


def refuse_in_capture():
    """Raise what CuPy does when an array is copied while the current stream is being captured."""
    if current_stream().captured is not None:
        raise RuntimeError("the current stream is capturing, so copies of arrays are disallowed")


def memcpy_async(target, source, size, kind, stream):
    """Copy on a stream, given by its address as CuPy's runtime takes it."""
    if stream != current_stream().ptr:
        raise RuntimeError("the stand-in copies on the current stream only")

    def copy():
        count("to_device" if kind == 1 else "to_host", size)
        ctypes.memmove(target, source, size)

    submit(copy)


def memcpy_peer_async(target, target_device, source, source_device, size, stream):
    """Copy between devices on a stream of the current one."""
    here = current_device()
    if stream != current_stream().ptr or {target_device, source_device} < {here} or target_device == source_device:
        raise RuntimeError(f"the stand-in copies on a stream of one of the two devices, not on device {here}")
    refuse_in_capture()
    order.copy(here, source_device if here == target_device else target_device, target, source, size)
    count("between", size)
    ctypes.memmove(target, source, size)


@contextlib.contextmanager
def stream_of(stream):
    """Make `stream` the current one; None leaves it."""
    before = getattr(_thread, "stream", None)
    _thread.stream = stream or before
    try:
        yield
    finally:
        _thread.stream = before


class Device:
    """A device; all share the memory of the host, but arrays know where they were made."""

    def __init__(self, number=None, max_shared_bytes=227 * 1024):
        self.id = current_device() if number is None else int(number)
        self.attributes = {
            "MaxSharedMemoryPerBlockOptin": max_shared_bytes,
            "MultiProcessorCount": 4,
            "WarpSize": 32,
        }
        self._before = []

    def __enter__(self):
        self._before.append((current_device(), getattr(_thread, "stream", None)))
        _thread.device = self.id
        _thread.stream = None
        return self

    def __exit__(self, *error):
        _thread.device, _thread.stream = self._before.pop()

    def synchronize(self):
        pass


class Stream:
    """A stream whose work is done at once, unless it is captured."""

    def __init__(self, null=False, non_blocking=False):
        self.device_id = current_device()
        self.ptr = 0 if null else id(self)
        self.captured = None
        self._before = []

    def __enter__(self):
        if self.device_id != current_device():
            raise RuntimeError(f"a stream of device {self.device_id} was used on device {current_device()}")
        self._before.append(getattr(_thread, "stream", None))
        _thread.stream = self
        return self

    def __exit__(self, *error):
        _thread.stream = self._before.pop()

    def wait_event(self, event):
        order.wait(self.device_id, event.snapshot)

    def begin_capture(self):
        self.captured = []

    def end_capture(self):
        work, self.captured = self.captured, None
        return Graph(work)

    def synchronize(self):
        if self.captured is not None:
            raise RuntimeError("synchronisation is not permitted while the stream is being captured")


class Event:
    """A point in the work of the device that it was made on."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.device_id, self.snapshot = current_device(), None

    def record(self, stream=None):
        stream = stream or current_stream()
        if stream.device_id != self.device_id:
            raise RuntimeError(f"an event of device {self.device_id} was recorded on device {stream.device_id}")
        self.snapshot = order.snapshot(self.device_id)


class Graph:
    """What was captured."""

    def __init__(self, work):
        self._work = work

    def launch(self, stream=None):
        for work in self._work:
            work()

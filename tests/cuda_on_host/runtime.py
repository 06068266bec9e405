"""Devices, streams and graphs of the stand-in for CuPy."""

import contextlib
import ctypes
import threading

_thread = threading.local()


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
    submit(lambda: ctypes.memmove(target, source, size))


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

    def begin_capture(self):
        self.captured = []

    def end_capture(self):
        work, self.captured = self.captured, None
        return Graph(work)

    def synchronize(self):
        if self.captured is not None:
            raise RuntimeError("synchronisation is not permitted while the stream is being captured")


class Graph:
    """What was captured."""

    def __init__(self, work):
        self._work = work

    def launch(self, stream=None):
        for work in self._work:
            work()

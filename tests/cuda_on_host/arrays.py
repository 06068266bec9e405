"""A stand-in for CuPy: arrays in host memory that behave as if they were on a device."""

import functools
import types

import numpy as np

from . import runtime
from .kernel import compile_kernel


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A NumPy array in `host` that, like one of CuPy, neither mixes with NumPy arrays nor turns into one by itself."""

    def __init__(self, host, device=None):
        self.host = host
        self.device = device or runtime.Device()

    def get(self, stream=None, order="C", out=None, blocking=True):
        """Return a copy on the host."""
        runtime.refuse_in_capture()
        # From whichever device it is on.
        runtime.order.access(self.device.id, np.lib.array_utils.byte_bounds(self.host), writes=False)
        runtime.count("to_host", self.host.nbytes)
        if out is None:
            return self.host.copy("K")
        if not (out.flags.c_contiguous and out.shape == self.host.shape and out.dtype == self.host.dtype):
            raise ValueError(f"{out.dtype} {out.shape} cannot take {self.host.dtype} {self.host.shape}")
        with runtime.stream_of(stream):
            runtime.refuse_in_capture()
            np.copyto(out, self.host)
        return out

    def set(self, arr, stream=None):
        """Copy from the host."""
        if not (self.host.flags.c_contiguous and arr.shape == self.host.shape and arr.dtype == self.host.dtype):
            raise ValueError(f"{arr.dtype} {arr.shape} cannot be set to {self.host.dtype} {self.host.shape}")
        with runtime.stream_of(stream):
            runtime.refuse_in_capture()
            runtime.count("to_device", self.host.nbytes)
            np.copyto(self.host, arr)

    @property
    def data(self):
        """The address, where CuPy has it."""
        return types.SimpleNamespace(ptr=self.host.ctypes.data)

    def __array__(self, *args, **kwargs):
        raise TypeError("an array of the device was used as a NumPy array: call get()")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if runtime.current_stream().captured is not None:
            raise RuntimeError("only kernels and copies can be captured here")
        for out in kwargs.get("out", ()):
            _unwrap(out, writes=True)
        result = _delegate(getattr(ufunc, method))(*inputs, **kwargs)
        return kwargs["out"][0] if "out" in kwargs else result

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} was called with an array of the device")

    def __getattr__(self, name):
        if name.startswith("__"):  # interfaces by which others would take the memory
            raise AttributeError(name)
        value = getattr(self.host, name)
        return functools.partial(self._call, value) if callable(value) else _wrap(value, self.device)

    def _call(self, method, *args, **kwargs):
        _unwrap(self)
        return _delegate(method, self.device)(*args, **kwargs)

    def __getitem__(self, key):
        return _wrap(self.host[_unwrap(key)], self.device)

    def __setitem__(self, key, value):
        target = _wrap(self.host[_unwrap(key)], self.device) if _is_basic(key) else self
        _unwrap(target, writes=True)
        self.host[_unwrap(key)] = _unwrap(value)

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return (self[k] for k in range(len(self)))

    def __bool__(self):
        return bool(self._only())

    def __int__(self):
        return int(self._only())

    def tolist(self):
        """Return its numbers, on the host."""
        return self.get().tolist()

    def __float__(self):
        return float(self._only())

    def __index__(self):
        return self._only().__index__()

    def _only(self):
        """The one element, copied to the host: CuPy waits for it."""
        runtime.refuse_in_capture()
        runtime.count("to_host", self.host.nbytes)
        return _unwrap(self)

    def __repr__(self):
        return f"DeviceArray({self.host!r})"


def _is_basic(key):
    return all(isinstance(part, int | slice | type(...) | None) for part in (key if isinstance(key, tuple) else (key,)))


def _unwrap(value, writes=False):
    if isinstance(value, DeviceArray):
        runtime.order.access(runtime.current_device(), np.lib.array_utils.byte_bounds(value.host), writes)
        if value.device.id != runtime.current_device():
            raise TypeError(f"an array of device {value.device.id} was used on device {runtime.current_device()}")
        return value.host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("a NumPy array was used like one of the device: convert it with asarray")
    if isinstance(value, tuple | list):
        return type(value)(map(_unwrap, value))
    return value


def _wrap(value, device=None):
    # CuPy returns arrays without dimensions where NumPy returns scalars.
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value), device)
    if isinstance(value, tuple) and any(isinstance(part, np.ndarray) for part in value):
        return tuple(_wrap(part, device) for part in value)
    return value


def _delegate(function, device=None):
    def call(*args, **kwargs):
        result = function(*map(_unwrap, args), **{key: _unwrap(value) for key, value in kwargs.items()})
        return _wrap(result, device)

    return call


class _Namespace:
    """A module of NumPy whose functions take and return arrays of the device."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        value = getattr(self._module, name)
        if isinstance(value, types.ModuleType):
            return _Namespace(value)
        return _delegate(value) if callable(value) and not isinstance(value, type) else value


class OutOfMemoryError(MemoryError):
    """As CuPy's."""

    def __init__(self, size, total, limit=0):
        super().__init__(f"{size} bytes, {total} in all, {limit} allowed")


class HostCupy(_Namespace):
    """What of the module cupy the package uses."""

    ndarray = DeviceArray
    __version__ = "on the host"

    def __init__(self, free_bytes=2**30, max_shared_bytes=227 * 1024, n_devices=1):
        super().__init__(np)
        runtime.order.forget()
        self.free_bytes = free_bytes
        cuda_runtime = types.SimpleNamespace(
            memGetInfo=lambda: (self.free_bytes, 2 * self.free_bytes),
            getDeviceCount=lambda: n_devices,
            getDeviceProperties=lambda number: {"name": b"the processor, not a device", "multiProcessorCount": 4},
            runtimeGetVersion=lambda: 0,
            driverGetVersion=lambda: 0,
            CUDARuntimeError=RuntimeError,
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            memcpyAsync=runtime.memcpy_async,
            memcpyPeerAsync=runtime.memcpy_peer_async,
            deviceCanAccessPeer=lambda device, peer: int(device != peer),
            deviceEnablePeerAccess=lambda peer: None,
        )
        self.cuda = types.SimpleNamespace(
            runtime=cuda_runtime,
            Device=functools.partial(runtime.Device, max_shared_bytes=max_shared_bytes),
            Stream=runtime.Stream,
            Event=runtime.Event,
            Graph=runtime.Graph,
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            set_allocator=lambda allocator=None: None,
            get_current_stream=runtime.current_stream,
            alloc_pinned_memory=bytearray,
            device=types.SimpleNamespace(get_cublas_handle=lambda: 1, get_cusolver_handle=lambda: 2),
        )
        self._pool = types.SimpleNamespace(
            free_bytes=lambda: 0,
            used_bytes=lambda: 0,
            free_all_blocks=lambda: None,
            get_limit=lambda: 0,
            set_limit=lambda size: None,
        )

    def get_default_memory_pool(self):
        return self._pool

    def asarray(self, a, dtype=None, order=None):
        """Copy what lies on the host, as CuPy does; leave alone what lies on the device."""
        if isinstance(a, DeviceArray):
            return DeviceArray(np.asarray(_unwrap(a), dtype=dtype, order=order), a.device)
        return self.array(a, dtype, order=order or "K")

    def array(self, a, dtype=None, copy=True, order="K"):
        array = DeviceArray(np.array(_unwrap(a) if isinstance(a, DeviceArray) else a, dtype, copy=copy, order=order))
        if not isinstance(a, DeviceArray):
            runtime.count("to_device", array.host.nbytes)
        return array

    def asnumpy(self, a):
        return a.get() if isinstance(a, DeviceArray) else np.asarray(a)

    class RawModule:
        """Compiles CUDA for the host."""

        def __init__(self, code, options=(), backend="nvrtc"):
            self._code, self._options = code, tuple(options)

        def get_function(self, name):
            return compile_kernel(self._code, name, self._options)


def host_cupy(**options):
    """Return a new stand-in; options are those of `HostCupy`."""
    return HostCupy(**options)

"""A stand-in for CuPy: arrays in host memory that behave as if they were on a device."""

import types

import numpy as np

from .kernel import compile_kernel


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A NumPy array in `host` that, like one of CuPy, neither mixes with NumPy arrays nor turns into one by itself."""

    def __init__(self, host):
        self.host = host

    def get(self):
        """Return a copy on the host."""
        return self.host.copy("K")

    @property
    def data(self):
        """The address, where CuPy has it."""
        return types.SimpleNamespace(ptr=self.host.ctypes.data)

    def __array__(self, *args, **kwargs):
        raise TypeError("an array of the device was used as a NumPy array: call get()")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        result = _delegate(getattr(ufunc, method))(*inputs, **kwargs)
        return kwargs["out"][0] if "out" in kwargs else result

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} was called with an array of the device")

    def __getattr__(self, name):
        if name.startswith("__"):  # interfaces by which others would take the memory
            raise AttributeError(name)
        value = getattr(self.host, name)
        return _delegate(value) if callable(value) else _wrap(value)

    def __getitem__(self, key):
        return _wrap(self.host[_unwrap(key)])

    def __setitem__(self, key, value):
        self.host[_unwrap(key)] = _unwrap(value)

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return (self[k] for k in range(len(self)))

    def __bool__(self):
        return bool(self.host)

    def __int__(self):
        return int(self.host)

    def __float__(self):
        return float(self.host)

    def __index__(self):
        return self.host.__index__()

    def __repr__(self):
        return f"DeviceArray({self.host!r})"


def _unwrap(value):
    if isinstance(value, DeviceArray):
        return value.host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("a NumPy array was used like one of the device: convert it with asarray")
    if isinstance(value, tuple | list):
        return type(value)(map(_unwrap, value))
    return value


def _wrap(value):
    # CuPy returns arrays without dimensions where NumPy returns scalars.
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    if isinstance(value, tuple) and any(isinstance(part, np.ndarray) for part in value):
        return tuple(map(_wrap, value))
    return value


def _delegate(function):
    def call(*args, **kwargs):
        return _wrap(function(*map(_unwrap, args), **{key: _unwrap(value) for key, value in kwargs.items()}))

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


class HostCupy(_Namespace):
    """What of the module cupy the package uses."""

    ndarray = DeviceArray
    __version__ = "on the host"

    def __init__(self, free_bytes=2**30, max_shared_bytes=227 * 1024, n_devices=1):
        super().__init__(np)
        self.free_bytes = free_bytes
        stream = types.SimpleNamespace(synchronize=lambda: None, ptr=0)
        device = types.SimpleNamespace(
            id=0,
            attributes={"MaxSharedMemoryPerBlockOptin": max_shared_bytes, "MultiProcessorCount": 4, "WarpSize": 32},
            synchronize=lambda: None,
        )
        runtime = types.SimpleNamespace(
            memGetInfo=lambda: (self.free_bytes, 2 * self.free_bytes),
            getDeviceCount=lambda: n_devices,
            CUDARuntimeError=RuntimeError,
        )
        self.cuda = types.SimpleNamespace(runtime=runtime, Device=lambda: device, get_current_stream=lambda: stream)
        self._pool = types.SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)

    def get_default_memory_pool(self):
        return self._pool

    def asarray(self, a, dtype=None, order=None):
        """Copy what lies on the host, as CuPy does; leave alone what lies on the device."""
        if isinstance(a, DeviceArray):
            return DeviceArray(np.asarray(a.host, dtype=dtype, order=order))
        return self.array(a, dtype, order=order or "K")

    def array(self, a, dtype=None, copy=True, order="K"):
        return DeviceArray(np.array(getattr(a, "host", a), dtype=dtype, copy=copy, order=order))

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

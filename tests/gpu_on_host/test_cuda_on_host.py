"""The CUDA kernels, run on the processor: the emulation finds mistakes, and the kernels make none."""

import cuda_on_host
import numpy as np
import pytest
from support.gpu_checks import check_assembly, check_assembly_with_oracle, check_rectangles_and_diagonal_blocks
from support.molecules import GROUPS, cyclic_group, random_molecules

from fastgdml.errors import InsufficientMemoryError
from fastgdml.gpu import bulk
from fastgdml.gpu import kernel as gpu_kernel
from fastgdml.group import GroupTables
from fastgdml.kernel import Coordinates, assemble_full
from fastgdml.training_set import TrainingSet

pytestmark = pytest.mark.skipif(
    cuda_on_host.compiler() is None, reason="there is no g++, which compiles CUDA kernels for the processor: install it"
)


def compiled(body, parameters="double *out, int n"):
    return cuda_on_host.compile_kernel(f'extern "C" __global__ void k({parameters})\n{{\n{body}\n}}\n', "k")


def run(body, threads=64, shared_mem=0, n=None, grid=1):
    out = np.zeros(threads * grid)
    compiled(body)((grid,), (threads,), (out, np.int32(len(out) if n is None else n)), shared_mem=shared_mem)
    return out


# ---- the emulation


def test_indices():
    out = run(
        "out[blockIdx.x * blockDim.x + threadIdx.x] = 1000 * gridDim.x + 10 * threadIdx.x + blockIdx.x;", 8, grid=3
    )
    np.testing.assert_array_equal(out.reshape(3, 8), 3000 + 10 * np.arange(8) + np.arange(3)[:, None])


def test_barriers_and_shared_memory():
    body = """
    extern __shared__ double s[];
    __shared__ int reversed[64];
    for (int round = 0; round < 3; ++round) {
        s[threadIdx.x] = threadIdx.x + round;
        reversed[63 - threadIdx.x] = threadIdx.x;
        __syncthreads();
        out[threadIdx.x] += s[reversed[threadIdx.x]];
        __syncthreads();
    }"""
    np.testing.assert_array_equal(run(body, shared_mem=512), 3 * (63 - np.arange(64)) + 3)


def test_shuffles():
    shuffles = {
        "__shfl_xor_sync(0xffffffffu, x, 5)": lambda t: t ^ 5,
        "__shfl_down_sync(0xffffffffu, x, 3)": lambda t: np.where(t % 32 < 29, t + 3, t),
        "__shfl_down_sync(0xffffffffu, x, 3, 8)": lambda t: np.where(t % 8 < 5, t + 3, t),
        "__shfl_up_sync(0xffffffffu, x, 2)": lambda t: np.where(t % 32 >= 2, t - 2, t),
        "__shfl_sync(0xffffffffu, x, 7)": lambda t: t // 32 * 32 + 7,
        "__shfl_xor_sync(0xffffu << threadIdx.x % 32 / 16 * 16, x, 1)": lambda t: t ^ 1,
    }
    body = "const double x = threadIdx.x;\ndouble *at = out + threadIdx.x;\n"
    body += "\n".join(f"at[{64 * k}] = {call};" for k, call in enumerate(shuffles))
    out = np.zeros((len(shuffles), 64))
    compiled(body)((1,), (64,), (out, np.int32(0)))
    np.testing.assert_array_equal(out, [expected(np.arange(64)) for expected in shuffles.values()])


def test_functions_of_the_device():
    body = """
    __syncwarp();
    const double x = 1.0 + threadIdx.x;
    atomicAdd(out, rsqrt(x) * sqrt(x) + fmin(x, 0.0) + fmax(exp(-x), 0.0) - exp(-x) + min(2, 1) + max(-1, -2));"""
    np.testing.assert_allclose(run(body)[0], 64.0)


MISTAKES = [
    (
        "if (threadIdx.x > 3) __syncthreads();",
        r"thread 0 has ended in line 0, thread 4 waits at a barrier in line \d+ \(",
    ),
    (
        "if (threadIdx.x > 3) __syncthreads();\nelse __syncthreads();",
        r"0 waits at a barrier in line \d+, thread 4 waits at",
    ),
    ("if (threadIdx.x > 3) out[0] = __shfl_xor_sync(0xffffffffu, 1.0, 1);", "thread 4 shuffles"),
    ("out[0] = __shfl_xor_sync(0xfu, 1.0, 1);", r"thread 4 shuffles in line \d+: its own lane"),
    ("out[64] = 1.0;", "wrote outside an array of 512 bytes"),
    ("out[-1] = 1.0;", "wrote outside an array of 512 bytes"),
    ("s[threadIdx.x] = 1.0;\n__syncthreads();\nout[0] = s[0];", "byte 504 of the dynamic shared memory"),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_are_found(number):
    cases = "".join(f"case {k}:\n{body}\nbreak;\n" for k, (body, _) in enumerate(MISTAKES))
    with pytest.raises(cuda_on_host.KernelError, match=MISTAKES[number][1]):
        run(f"extern __shared__ double s[];\nswitch (n) {{\n{cases}}}", n=number, shared_mem=504)


@pytest.mark.parametrize("memory", ["__shared__ double s[64];", "extern __shared__ double s[];"])
def test_unset_shared_memory_shows(memory):
    # A missing barrier: the threads that are ahead read what has not been written, in each block anew.
    body = f"{memory}\ns[threadIdx.x] = 1.0;\nout[64 * blockIdx.x + threadIdx.x] = s[63 - threadIdx.x];"
    out = run(body, shared_mem=512 if "extern" in memory else 0, grid=2).reshape(2, 64)
    np.testing.assert_array_equal(np.isnan(out), np.broadcast_to(np.arange(64) < 32, (2, 64)))


def test_launches_are_checked():
    code = 'extern "C" __global__ void __launch_bounds__(64) k(const int *a, void *b, double c, long long d) {}'
    code = code.replace("{}", "{ (void)a; (void)b; (void)c; (void)d; }")
    kernel = cuda_on_host.compile_kernel(code, "k")
    good = [np.zeros(3, dtype=np.int32), np.zeros(2), np.float64(1.0), np.int64(2)]
    kernel((1,), (64,), good)
    kernel((1,), (64,), [np.uintp(0), *good[1:]])  # NULL
    bad = {0: np.zeros(3), 2: np.float32(1.0), 3: np.int32(2)}
    for position, value in bad.items():
        with pytest.raises(cuda_on_host.KernelError, match=f"argument {position} is"):
            kernel((1,), (64,), [value if k == position else arg for k, arg in enumerate(good)])
    with pytest.raises(cuda_on_host.KernelError, match="takes 4 arguments, got 3"):
        kernel((1,), (64,), good[:3])
    with pytest.raises(cuda_on_host.KernelError, match="at most 64"):
        kernel((1,), (65,), good)
    with pytest.raises(cuda_on_host.KernelError, match="grid"):
        kernel((0,), (64,), good)
    dynamic = compiled("extern __shared__ double s[]; s[0] = n; out[0] = s[0];")
    with pytest.raises(cuda_on_host.KernelError, match="49160 bytes of dynamic shared memory, 49152 allowed"):
        dynamic((1,), (1,), (np.zeros(1), np.int32(1)), shared_mem=49160)
    dynamic.max_dynamic_shared_size_bytes = 49160
    dynamic((1,), (1,), (np.zeros(1), np.int32(1)), shared_mem=49160)
    with pytest.raises(cuda_on_host.KernelError, match="does not compile"):
        compiled("this is no CUDA;")


def test_parts_of_one_array_stay_together():
    both = np.arange(8.0)
    kernel = compiled("a[threadIdx.x] += 1.0; __syncthreads(); b[threadIdx.x] *= 2.0;", "double *a, double *b")
    kernel((1,), (4,), (both[0::2], both[1:5]))
    np.testing.assert_array_equal(both, [1, 4, 6, 8, 8, 5, 6, 7])


def test_device_arrays_are_not_numpy_arrays(host_cupy):
    xp = host_cupy
    a = xp.asarray(np.arange(6.0)).reshape(2, 3)
    assert isinstance(a + 1, xp.ndarray)
    assert isinstance(a.sum(axis=1), xp.ndarray)
    assert isinstance(xp.linalg.norm(a), xp.ndarray)
    assert type((a @ a.T).get()) is np.ndarray
    a[0] -= 1.0
    np.testing.assert_array_equal(a.get(), [[-1, 0, 1], [3, 4, 5]])
    for mixed in (lambda: a + np.ones(3), lambda: np.asarray(a), lambda: np.sum(a), lambda: xp.exp(np.ones(3))):
        with pytest.raises(TypeError, match="device"):
            mixed()


# ---- the kernels


def test_assembly_equals_cpu(reference, host_cupy):
    check_assembly(reference, host_cupy)


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 1), (3, 4), (5, 3), (9, 2)])
def test_assembly_equals_oracle(group, n_atoms, n_train, energies, host_cupy):
    check_assembly_with_oracle(GROUPS[group](n_atoms), n_atoms, n_train, energies, host_cupy)


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_rectangles_and_diagonal_blocks(group, energies, host_cupy):
    check_rectangles_and_diagonal_blocks(GROUPS[group](5), energies, host_cupy)


@pytest.mark.parametrize("shared_memory", [1, 3000, 48 * 1024, 100_000])
def test_assembly_with_any_chunk_of_permutations(shared_memory, host_cupy, monkeypatch):
    # One permutation at a time, a few, and more than a block has without asking for it.
    if shared_memory > 48 * 1024:
        load = gpu_kernel.load_cuda

        def with_more_memory(name, xp):
            kernel = load(name, xp)
            kernel.max_dynamic_shared_size_bytes = shared_memory
            return kernel

        monkeypatch.setattr(gpu_kernel, "load_cuda", with_more_memory)
    monkeypatch.setattr(gpu_kernel, "_SHARED_MEMORY", shared_memory)
    R = random_molecules(3, 30)
    training = TrainingSet.from_R(R, cyclic_group(30, 30), 10.0, True)
    steps = []
    rows = Coordinates.full(3, 91)
    progress = lambda *step: steps.append(step)  # noqa: E731
    K = gpu_kernel.assemble_lower(training, rows, 1.0, progress, xp=host_cupy)
    expected = assemble_full(training)
    np.testing.assert_allclose(np.tril(K.get()), np.tril(expected), rtol=0, atol=1e-13 * np.abs(expected).max())
    assert steps[-1] == (6, 6)


def test_molecules_that_are_too_large_for_shared_memory(host_cupy):
    # One permutation of 450 atoms needs 54 kB.
    x, g = np.ones((1, 450 * 449 // 2)), np.zeros((1, 450 * 449 // 2, 3))
    training = TrainingSet(x, g, GroupTables.from_perms([np.arange(450)]), 10.0)
    rows = Coordinates.from_lists([[0, 1349]])
    assert gpu_kernel.assemble_lower(training, rows, xp=host_cupy).shape == (2, 2)
    small = cuda_on_host.host_cupy(max_shared_bytes=50_000)
    with pytest.raises(InsufficientMemoryError, match=r"450 atoms needs 53 kB of shared memory .* has 49 kB"):
        gpu_kernel.assemble_lower(training, rows, xp=small)


@pytest.mark.parametrize("n_train", [1, 40, 300])
def test_weights_equal_numpy(n_train, host_cupy):
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.5, 1, shape) for shape in [(5, 2 * n_train), 5, n_train, n_train, n_train]]
    on_device = [host_cupy.asarray(array) for array in arrays]
    sums = bulk._weights_function(host_cupy)(*on_device, 0.7)
    expected = bulk._weights_numpy(*arrays, 0.7)
    np.testing.assert_allclose(on_device[0].get(), arrays[0], rtol=1e-14)
    for ours, theirs in zip(sums, expected, strict=True):
        np.testing.assert_allclose(ours.get(), theirs, rtol=1e-13)

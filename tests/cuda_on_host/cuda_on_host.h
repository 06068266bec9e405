/* CUDA kernels on the processor, for tests.
 *
 * The threads of a block are fibers of one host thread: each runs until a barrier, a shuffle or its end, then the next
 * one does. So a run is deterministic, and a missing barrier shows: a thread is through with a phase before the next
 * one starts it. Every second round goes through the threads backwards.
 *
 * Found and reported are barriers that not all threads of a block reach, shuffles that not all lanes of the mask take
 * part in, and writes beyond the dynamic shared memory. Shared memory is NaN (all bits set) when a block starts.
 */
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <link.h>
#include <math.h>
#include <memory>
#include <string>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
/* At block scope this is static storage; it also goes with `extern`, for the dynamic memory. */
#define __shared__ thread_local

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct int2 { int x, y; };
struct alignas(16) double2 { double x, y; };
struct double3 { double x, y, z; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline double3 make_double3(double x, double y, double z) { return {x, y, z}; }

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_on_host {

constexpr size_t max_dynamic_shared = 227 * 1024;
constexpr size_t stack_bytes = 128 * 1024;

enum class State { ready, at_barrier, at_shuffle, done };

struct Fiber {
    ucontext_t start;
    jmp_buf context;
    bool started = false;
    State state = State::ready;
    uint3 index;
    int line = 0;              /* where it waits */
    unsigned mask = 0;         /* of a shuffle: the lanes that take part, the lane to read from, what is exchanged */
    int source = 0;
    uint64_t value = 0, result = 0;
    std::unique_ptr<char[]> stack;
};

inline std::vector<Fiber> fibers;
inline Fiber *current;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline std::string failure;
inline thread_local double touched;   /* so that the library has thread-local storage, and where it is */

__attribute__((noinline)) inline void yield()
{
    if (_setjmp(current->context) == 0) _longjmp(scheduler, 1);
}

inline void fiber_main()
{
    for (;;) {                        /* once for each block */
        body();
        current->state = State::done;
        yield();
    }
}

__attribute__((noinline)) inline void resume(Fiber &fiber)
{
    current = &fiber;
    threadIdx = fiber.index;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.context, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

inline void barrier(int line)
{
    current->line = line;
    current->state = State::at_barrier;
    yield();
}

inline uint64_t exchange(unsigned mask, uint64_t value, int source, int line)
{
    current->line = line;
    current->mask = mask;
    current->value = value;
    current->source = source;
    current->state = State::at_shuffle;
    yield();
    return current->result;
}

inline unsigned mask_of(unsigned mask = 0xffffffffu) { return mask; }

inline int lane() { return (int)((current - fibers.data()) % warpSize); }

template <class T> T shuffle(unsigned mask, T value, int source, int line)
{
    static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = exchange(mask, bits, source, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T> T shuffle_xor(unsigned mask, T value, int step, int line, int width = warpSize)
{
    const int source = lane() ^ step;
    return shuffle(mask, value, source / width > lane() / width ? lane() : source, line);
}

template <class T> T shuffle_down(unsigned mask, T value, unsigned step, int line, int width = warpSize)
{
    const int source = lane() + (int)step;
    return shuffle(mask, value, source / width > lane() / width ? lane() : source, line);
}

template <class T> T shuffle_up(unsigned mask, T value, unsigned step, int line, int width = warpSize)
{
    const int first = lane() / width * width, source = lane() - (int)step;
    return shuffle(mask, value, source < first ? lane() : source, line);
}

template <class T> T shuffle_from(unsigned mask, T value, int from, int line, int width = warpSize)
{
    return shuffle(mask, value, lane() / width * width + from % width, line);
}

inline std::string at(size_t thread, const char *what)
{
    return "thread " + std::to_string(thread) + " " + what + " in line " + std::to_string(fibers[thread].line);
}

/* Let the lanes go on whose shuffle is complete; return whether there are any. */
inline bool complete_shuffles()
{
    bool any = false;
    for (size_t t = 0; t < fibers.size(); ++t) {
        Fiber &f = fibers[t];
        if (f.state != State::at_shuffle) continue;
        const size_t first = t / warpSize * warpSize;
        if (!(f.mask >> (t - first) & 1u) || !(f.mask >> f.source & 1u)) {
            failure = at(t, "shuffles") + ": its own lane or the one that it reads is not in the mask";
            return false;
        }
        std::vector<Fiber *> lanes;
        for (unsigned k = 0; k < (unsigned)warpSize; ++k) {
            if (!(f.mask >> k & 1u)) continue;
            Fiber *other = first + k < fibers.size() ? &fibers[first + k] : nullptr;
            if (!other || other->state != State::at_shuffle || other->mask != f.mask || other->line != f.line) break;
            lanes.push_back(other);
        }
        if (lanes.size() != (size_t)__builtin_popcount(f.mask)) continue;
        for (Fiber *other : lanes) other->result = fibers[first + other->source].value;
        for (Fiber *other : lanes) other->state = State::ready;
        any = true;
    }
    return any;
}

/* Let all go on if all wait at the same barrier; return whether they do. */
inline bool complete_barrier()
{
    for (const Fiber &f : fibers)
        if (f.state != State::at_barrier || f.line != fibers[0].line) return false;
    for (Fiber &f : fibers) f.state = State::ready;
    return true;
}

/* Say where the threads are that wait for each other. */
inline std::string divergence()
{
    const char *names[] = {"runs", "waits at a barrier", "shuffles", "has ended"};
    std::string text = "threads wait for others that do not come: ";
    for (size_t t = 0; t < fibers.size(); ++t) {
        const bool repeats = t > 0 && fibers[t].state == fibers[t - 1].state && fibers[t].line == fibers[t - 1].line;
        if (!repeats) text += (t ? ", " : "") + at(t, names[(int)fibers[t].state]);
    }
    return text + " (of " + std::to_string(fibers.size()) + " threads; a line is the last one they waited in)";
}

inline void run_block()
{
    for (Fiber &f : fibers) f.state = State::ready;
    for (size_t round = 0;; ++round) {
        size_t n_done = 0;
        for (size_t k = 0; k < fibers.size(); ++k) {
            Fiber &f = fibers[round % 2 ? fibers.size() - 1 - k : k];
            if (f.state == State::ready) resume(f);
            n_done += f.state == State::done;
        }
        if (n_done == fibers.size()) return;
        if (!complete_shuffles() && failure.empty() && !complete_barrier()) failure = divergence();
        if (!failure.empty()) return;
    }
}

/* The thread-local storage of this library: all shared memory. */
struct Shared { char *begin = nullptr; size_t size = 0; };

inline int find_shared(dl_phdr_info *info, size_t, void *found)
{
    bool ours = false;
    const ElfW(Phdr) *tls = nullptr;
    for (int k = 0; k < info->dlpi_phnum; ++k) {
        const ElfW(Phdr) &p = info->dlpi_phdr[k];
        const uintptr_t begin = info->dlpi_addr + p.p_vaddr, here = (uintptr_t)&find_shared;
        if (p.p_type == PT_LOAD && begin <= here && here < begin + p.p_memsz) ours = true;
        if (p.p_type == PT_TLS) tls = &p;
    }
    if (!ours || !tls || !info->dlpi_tls_data) return 0;
    *static_cast<Shared *>(found) = {static_cast<char *>(info->dlpi_tls_data), tls->p_memsz};
    return 1;
}

inline Shared shared_memory()
{
    *const_cast<volatile double *>(&touched) = 0.0;
    Shared shared;
    dl_iterate_phdr(find_shared, &shared);
    return shared;
}

/* Run all blocks; `dynamic` is the array of the dynamic shared memory, or NULL. Returns an error text, or NULL. */
inline const char *launch(const unsigned *grid, const unsigned *block, char *dynamic, size_t dynamic_bytes,
                          std::function<void()> kernel)
{
    failure.clear();
    body = std::move(kernel);
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    fibers = std::vector<Fiber>(block[0] * block[1] * block[2]);
    for (size_t t = 0; t < fibers.size(); ++t) {
        Fiber &f = fibers[t];
        f.index = {(unsigned)t % block[0], (unsigned)t / block[0] % block[1], (unsigned)t / block[0] / block[1]};
        f.stack.reset(new char[stack_bytes]);
        getcontext(&f.start);
        f.start.uc_stack.ss_sp = f.stack.get();
        f.start.uc_stack.ss_size = stack_bytes;
        f.start.uc_link = nullptr;
        makecontext(&f.start, fiber_main, 0);
    }
    const Shared shared = shared_memory();
    if (!shared.begin) failure = "the thread-local storage of the library was not found";
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0]; ++x) {
                if (!failure.empty()) break;
                blockIdx = {x, y, z};
                memset(shared.begin, 0xff, shared.size);
                run_block();
                for (size_t k = dynamic_bytes; failure.empty() && dynamic && k < max_dynamic_shared; ++k)
                    if (dynamic[k] != (char)0xff)
                        failure = "byte " + std::to_string(k) + " of the dynamic shared memory was written, which has " +
                                  std::to_string(dynamic_bytes);
                if (!failure.empty())
                    failure = "block " + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) +
                              ": " + failure;
            }
    fibers.clear();
    return failure.empty() ? nullptr : failure.c_str();
}

/* f8 for double, i4 for int, Pf8 for pointers to double, and so on. */
template <class T> std::string type_code()
{
    if constexpr (std::is_pointer_v<T>) return "P" + type_code<std::remove_cv_t<std::remove_pointer_t<T>>>();
    else if constexpr (std::is_void_v<T>) return "V";
    else
        return (std::is_floating_point_v<T> ? "f" : std::is_signed_v<T> ? "i" : std::is_unsigned_v<T> ? "u" : "V") +
               std::to_string(sizeof(T));
}

template <class... P> const char *signature(void (*)(P...))
{
    static const std::string text = [] {
        std::string codes;
        ((codes += (codes.empty() ? "" : ",") + type_code<std::remove_cv_t<P>>()), ...);
        return codes;
    }();
    return text.c_str();
}

template <class... P, size_t... I>
std::function<void()> call_of(void (*kernel)(P...), void **arguments, std::index_sequence<I...>)
{
    return [=] { kernel(*static_cast<std::remove_cv_t<P> *>(arguments[I])...); };
}

template <class... P> std::function<void()> call_of(void (*kernel)(P...), void **arguments)
{
    return call_of(kernel, arguments, std::index_sequence_for<P...>());
}

} /* namespace cuda_on_host */

#define __syncthreads() cuda_on_host::barrier(__LINE__)
#define __syncwarp(...) \
    ((void)cuda_on_host::shuffle(cuda_on_host::mask_of(__VA_ARGS__), 0, cuda_on_host::lane(), __LINE__))
#define __shfl_xor_sync(mask, value, step, ...) \
    cuda_on_host::shuffle_xor(mask, value, step, __LINE__ __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_down_sync(mask, value, step, ...) \
    cuda_on_host::shuffle_down(mask, value, step, __LINE__ __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_up_sync(mask, value, step, ...) \
    cuda_on_host::shuffle_up(mask, value, step, __LINE__ __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(mask, value, from, ...) \
    cuda_on_host::shuffle_from(mask, value, from, __LINE__ __VA_OPT__(, ) __VA_ARGS__)

/* One thread runs at a time, so these are atomic as they are. */
template <class T> T atomicAdd(T *at, T value) { const T old = *at; *at += value; return old; }
template <class T> T atomicMax(T *at, T value) { const T old = *at; if (value > old) *at = value; return old; }
inline void __threadfence() {}
inline void __threadfence_block() {}
template <class T> T __ldg(const T *at) { return *at; }

inline float __fmul_rn(float a, float b) { return a * b; }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }

#define CUDA_ON_HOST_EXPORT extern "C" __attribute__((visibility("default")))
#define CUDA_ON_HOST_ENTRY(kernel, dynamic) \
    CUDA_ON_HOST_EXPORT const char *cuda_on_host_signature() { return cuda_on_host::signature(kernel); } \
    CUDA_ON_HOST_EXPORT const char *cuda_on_host_launch(const unsigned *grid, const unsigned *block, size_t dynamic_bytes, \
                                               void **arguments) \
    { \
        return cuda_on_host::launch(grid, block, (char *)(dynamic), dynamic_bytes, \
                                    cuda_on_host::call_of(kernel, arguments)); \
    }

/* What depends on the operating system and the processor; no other file asks for either.
 *
 * Files are mapped into memory where the system can, so that processes share the pages of a model, and read elsewhere.
 */
#include "system.h"

#include "failure.h"
#include "gdml.h"

#include <errno.h>
#include <string.h>

/* Bytes of an aligned array: whole alignments, at least one. */
static size_t padded(size_t bytes)
{
    return bytes ? (bytes + GDML_ALIGNMENT - 1) / GDML_ALIGNMENT * GDML_ALIGNMENT : GDML_ALIGNMENT;
}

#ifdef _WIN32
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <windows.h>

void *gdml_scratch_new(size_t bytes)
{
    return _aligned_malloc(padded(bytes), GDML_ALIGNMENT);
}

void gdml_scratch_free(void *scratch)
{
    _aligned_free(scratch);
}

/* Paths are UTF-8 on every system; fopen would read them in the code page of this one. NULL with errno on failure. */
static FILE *open_utf8(const char *path)
{
    FILE *file = NULL;
    const int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    wchar_t *const wide = length ? malloc((size_t)length * sizeof *wide) : NULL;
    if (wide && MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, length))
        file = _wfopen(wide, L"rb");
    else
        errno = length ? ENOMEM : EILSEQ;
    free(wide);
    return file;
}

fastgdml_status gdml_file_load(const char *path, void **image, size_t *size, gdml_image_origin *origin)
{
    FILE *const file = open_utf8(path);
    if (!file) return gdml_fail(FASTGDML_ERROR_FILE, "%s cannot be opened: %s", path, strerror(errno));
    fastgdml_status status = FASTGDML_SUCCESS;
    void *memory = NULL;
    if (_fseeki64(file, 0, SEEK_END)) goto fail;
    const int64_t length = _ftelli64(file);
    if (length < 0 || _fseeki64(file, 0, SEEK_SET)) goto fail;
    memory = gdml_scratch_new((size_t)length);
    if (!memory) {
        status = gdml_fail(FASTGDML_ERROR_MEMORY, "no memory for %s (%.1f MB)", path, 1e-6 * (double)length);
        goto done;
    }
    if (fread(memory, 1, (size_t)length, file) != (size_t)length) goto fail;
    *image = memory;
    *size = (size_t)length;
    *origin = GDML_READ;
    goto done;
fail:
    gdml_scratch_free(memory);
    status = gdml_fail(FASTGDML_ERROR_FILE, "%s cannot be read: %s", path, strerror(errno));
done:
    fclose(file);
    return status;
}

void gdml_image_free(void *image, size_t size, gdml_image_origin origin)
{
    (void)size;
    (void)origin;
    gdml_scratch_free(image);
}

int gdml_forked(void)
{
    return 0;
}

void gdml_yield(void)
{
    SwitchToThread();
}

#else
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void *gdml_scratch_new(size_t bytes)
{
    return aligned_alloc(GDML_ALIGNMENT, padded(bytes));
}

void gdml_scratch_free(void *scratch)
{
    free(scratch);
}

fastgdml_status gdml_file_load(const char *path, void **image, size_t *size, gdml_image_origin *origin)
{
    struct stat properties;
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);   /* a pipe does not wait for its other end */
    if (file < 0) return gdml_fail(FASTGDML_ERROR_FILE, "%s cannot be opened: %s", path, strerror(errno));
    fastgdml_status status = FASTGDML_SUCCESS;
    if (fstat(file, &properties)) {
        status = gdml_fail(FASTGDML_ERROR_FILE, "%s cannot be read: %s", path, strerror(errno));
    } else if (!S_ISREG(properties.st_mode)) {
        status = gdml_fail(FASTGDML_ERROR_FILE, "%s is no regular file", path);
    } else if (!properties.st_size) {
        status = gdml_fail(FASTGDML_ERROR_FORMAT, "%s is empty", path);
    } else {
        *size = (size_t)properties.st_size;
        *origin = GDML_MAPPED;
        *image = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, file, 0);
        if (*image == MAP_FAILED)
            status = gdml_fail(FASTGDML_ERROR_FILE, "%s cannot be mapped into memory: %s", path, strerror(errno));
    }
    close(file);
    return status;
}

void gdml_image_free(void *image, size_t size, gdml_image_origin origin)
{
    if (origin == GDML_MAPPED)
        munmap(image, size);
    else
        gdml_scratch_free(image);
}

static int forked;

static void note_fork(void)
{
    forked = 1;
}

/* Before main, or when this library is loaded: what forks later, is noticed. */
__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, note_fork);
#ifdef __linux__
    /* Or this library was loaded in the child: the flag PF_FORKNOEXEC of the process, in proc_pid_stat(5). */
    enum { FORKED_WITHOUT_EXEC = 0x40 };
    char line[512];
    FILE *const file = fopen("/proc/self/stat", "r");
    const size_t n = file ? fread(line, 1, sizeof line - 1, file) : 0;
    if (file) fclose(file);
    line[n] = 0;
    const char *const after_name = strrchr(line, ')');
    unsigned flags;
    if (after_name && sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && flags & FORKED_WITHOUT_EXEC)
        forked = 1;
#endif
}

int gdml_forked(void)
{
    return forked;
}

void gdml_yield(void)
{
    sched_yield();
}
#endif

#ifdef __x86_64__
#include <cpuid.h>
#include <stdatomic.h>

/* Asked of the processor itself: __builtin_cpu_supports needs a run-time library that not every compiler brings, and some
 * of those answer no to all. */

static int has(unsigned found, unsigned wanted)
{
    return (found & wanted) == wanted;
}

/* Whether the system saves these parts of the registers (bits of XCR0) when it switches between threads. */
static int saves(unsigned wanted)
{
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return has(low, wanted);
}

static int find_level(void)
{
    enum { AVX_STATE = 0x06, AVX512_STATE = 0xe6 };        /* XMM and YMM; and mask registers, both parts of ZMM */
    unsigned eax, ebx, ecx, edx, extended = 0, structured = 0;
    if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx)) extended = ecx;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) structured = ebx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 1;

    if (!has(ecx, bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_CMPXCHG16B | bit_POPCNT) ||
        !has(extended, bit_LAHF_LM))
        return 1;
    if (!has(ecx, bit_AVX | bit_F16C | bit_FMA | bit_MOVBE | bit_OSXSAVE) || !has(extended, bit_LZCNT) ||
        !has(structured, bit_AVX2 | bit_BMI | bit_BMI2) || !saves(AVX_STATE))
        return 2;
    if (!has(structured, bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL)) return 3;
#ifndef __APPLE__                                          /* Darwin saves these registers from their first use on */
    if (!saves(AVX512_STATE)) return 3;
#else
    (void)AVX512_STATE;
#endif
    return 4;
}

int gdml_x86_level(void)
{
    /* Kept: a virtual machine answers CPUID by leaving for its host, which takes microseconds. */
    static atomic_int known;
    int level = atomic_load_explicit(&known, memory_order_relaxed);
    if (!level) atomic_store_explicit(&known, level = find_level(), memory_order_relaxed);
    return level;
}

#else
int gdml_x86_level(void)
{
    return 0;
}
#endif

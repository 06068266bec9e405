/* Blocks of the kernel matrix on a CUDA device: equations (2) to (4) of src/block_kernels.c.
 *
 * One thread block works on one block K_ij, i <= j. Permutations are taken in chunks whose sums fit into shared memory:
 * phase 1 computes, for each permutation p of the chunk, the weight b s (s + n), 5 b u_p, v_p and
 * S_p[a] = sum_e T_p[a][e]; in phase 2 each thread adds up the 3 x 3 blocks of pairs of atoms (a, c) in registers.
 * From the second chunk on, results are added to those of the chunk before. No two threads share an element, and sums
 * have a fixed order: the result does not depend on how the device schedules the work.
 *
 * Compiled by NVRTC, which has no standard headers: plain types only. Indices into the matrix and the tables of pairs
 * are 64 bits wide.
 */

typedef long long int64;

/* Sum of x over a warp, in all its lanes. */
static __device__ double warp_sum(double x)
{
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* pairs (M, 4, N, N): for each training point the planes x (symmetric) and G (three planes, antisymmetric).
 * perm, inverse (P, N): atom a goes to perm[a]; the inverse permutations.
 * row_of (M, 3 N): row of the matrix of each coordinate, or -1 where it is left out.
 * matrix (n, n): column-major; elements on and below the diagonal receive scale * K.
 * first: number of the first block; blocks are numbered (0,0), (0,1), (1,1), (0,2), ... as (i, j).
 * chunk: permutations that shared memory has room for, at 2 + 15 N doubles each. */
extern "C" __global__ void __launch_bounds__(256)
assembly(const double *__restrict__ pairs, const int *__restrict__ perm, const int *__restrict__ inverse,
         const int *__restrict__ row_of, double *__restrict__ matrix, int64 n, int64 first, int n_atoms, int n_perms,
         int chunk, double sig, double scale)
{
    extern __shared__ double shared[];
    const int64 number = first + blockIdx.x;
    /* The square root may be off by one unit; the loops put j right. */
    int64 j = (int64)((sqrt(8.0 * (double)number + 1.0) - 1.0) * 0.5);
    while (j * (j + 1) / 2 > number) --j;
    while ((j + 1) * (j + 2) / 2 <= number) ++j;
    const int64 i = number - j * (j + 1) / 2;

    const int N = n_atoms;
    const int64 plane = (int64)N * N;
    const double *x_i = pairs + 4 * plane * i, *g_i = x_i + plane;
    const double *x_j = pairs + 4 * plane * j, *g_j = x_j + plane;
    const int *row_i = row_of + 3 * (int64)N * i, *row_j = row_of + 3 * (int64)N * j;

    double *weight = shared;                       /* [chunk]        b s (s + n) */
    double *five_b = weight + chunk;               /* [chunk] */
    double *u = five_b + chunk;                    /* [chunk][N][3]  5 b u_p[a] */
    double *v = u + 3 * (int64)chunk * N;          /* [chunk][N][3] */
    double *s = v + 3 * (int64)chunk * N;          /* [chunk][N][9]  S_p[a] */

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;

    for (int p0 = 0; p0 < n_perms; p0 += chunk) {
        const int count = n_perms - p0 < chunk ? n_perms - p0 : chunk;
        /* The sums of the chunk before are still read by slower threads. */
        __syncthreads();

        /* One warp a permutation: its norm, over all pairs a > e. */
        for (int k = warp; k < count; k += n_warps) {
            const int *p = perm + (int64)(p0 + k) * N;
            double squared = 0.0;
            for (int a = 1; a < N; ++a) {
                const double *xi = x_i + (int64)a * N, *xj = x_j + (int64)p[a] * N;
                for (int e = lane; e < a; e += 32) {
                    const double d = xi[e] - xj[p[e]];
                    squared += d * d;
                }
            }
            squared = warp_sum(squared);
            if (lane == 0) {
                const double norm = sqrt(5.0 * squared);
                /* b carries the factor on the matrix: K is linear in it. */
                const double b = scale * 5.0 / (3.0 * sig * sig * sig * sig) * exp(-norm / sig);
                five_b[k] = 5.0 * b;
                weight[k] = b * sig * (sig + norm);
            }
        }
        __syncthreads();

        /* One thread an atom and a permutation: the sums over partners e. */
        for (int t = threadIdx.x; t < count * N; t += blockDim.x) {
            const int k = t / N, a = t % N;
            const int *p = perm + (int64)(p0 + k) * N, *q = inverse + (int64)(p0 + k) * N;
            const int image = p[a], source = q[a];
            const double *gi_a = g_i + (int64)a * N, *gj_a = g_j + (int64)a * N, *gj_image = g_j + (int64)image * N;
            const double *xi_a = x_i + (int64)a * N, *xj_image = x_j + (int64)image * N;
            const double *xi_source = x_i + (int64)source * N, *xj_a = x_j + (int64)a * N;
            double sum_u[3] = {0.0, 0.0, 0.0}, sum_v[3] = {0.0, 0.0, 0.0};
            double sum_s[9] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
            for (int e = 0; e < N; ++e) {
                const int from = q[e];
                const double du = xi_a[e] - xj_image[p[e]], dv = xi_source[from] - xj_a[e];
                double l[3], r[3];
#pragma unroll
                for (int m = 0; m < 3; ++m) {
                    sum_u[m] += gi_a[m * plane + e] * du;
                    sum_v[m] += gj_a[m * plane + e] * dv;
                    l[m] = gi_a[m * plane + from];
                    r[m] = gj_image[m * plane + e];
                }
#pragma unroll
                for (int m = 0; m < 9; ++m) sum_s[m] += l[m / 3] * r[m % 3];
            }
#pragma unroll
            for (int m = 0; m < 3; ++m) {
                u[3 * t + m] = five_b[k] * sum_u[m];
                v[3 * t + m] = sum_v[m];
            }
#pragma unroll
            for (int m = 0; m < 9; ++m) s[9 * t + m] = weight[k] * sum_s[m];
        }
        __syncthreads();

        /* One thread a pair of atoms: equation (4). */
        for (int64 t = threadIdx.x; t < plane; t += blockDim.x) {
            const int a = (int)(t / N), c = (int)(t % N);
            double block[9] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
            for (int k = 0; k < count; ++k) {
                const int image = perm[(int64)(p0 + k) * N + a], source = inverse[(int64)(p0 + k) * N + c];
                const double *gi = g_i + (int64)a * N + source, *gj = g_j + (int64)image * N + c;
                const double *ua = u + 3 * (k * N + a), *vc = v + 3 * (k * N + c);
                double l[3], r[3];
#pragma unroll
                for (int m = 0; m < 3; ++m) {
                    l[m] = weight[k] * gi[m * plane];
                    r[m] = gj[m * plane];
                }
#pragma unroll
                for (int m = 0; m < 9; ++m) block[m] += l[m / 3] * r[m % 3] + ua[m / 3] * vc[m % 3];
                if (image == c) {
                    const double *sa = s + 9 * (k * N + a);
#pragma unroll
                    for (int m = 0; m < 9; ++m) block[m] -= sa[m];
                }
            }
            /* K is symmetric: coordinate (a, m / 3) of point i is the column, (c, m % 3) of point j the row. */
#pragma unroll
            for (int m = 0; m < 9; ++m) {
                const int64 col = row_i[3 * a + m / 3], row = row_j[3 * c + m % 3];
                if (col < 0 || row < col) continue;
                double *out = matrix + col * n + row;
                *out = p0 == 0 ? block[m] : *out + block[m];
            }
        }
    }
}

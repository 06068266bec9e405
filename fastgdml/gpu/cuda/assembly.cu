/* Blocks of the kernel matrix on a CUDA device: equations (2) to (4) and (6) to (8) of src/assembly.c.
 *
 * One thread block works on one block K_ij, point i giving the rows, point j the columns. Permutations are taken in
 * chunks whose sums fit into shared memory: phase 1 computes, for each permutation p of the chunk, the weights, 5 b u_p,
 * v_p and S_p[a] = sum_e T_p[a][e]; in phase 2 each thread adds up the 3 x 3 blocks of pairs of atoms (a, c) in
 * registers. From the second chunk on, results are added to those of the chunk before. No two threads share an element,
 * and sums have a fixed order: the result does not depend on how the device schedules the work.
 *
 * Neighbouring threads have neighbouring a, so that they read and write neighbouring numbers. For that, elements of the
 * antisymmetric G are read transposed; they are multiplied in twos, so that the signs cancel.
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

/* Store an element, or add to it, unless its row or column is left out (-1). */
static __device__ void put(double *matrix, int64 n_rows, int row, int col, double x, int add)
{
    if (row < 0 || col < 0) return;
    double *at = matrix + (int64)col * n_rows + row;
    *at = add ? *at + x : x;
}

/* row_pairs, col_pairs (m, 4, N, N): for each point the planes x (symmetric) and G (three planes, antisymmetric).
 * perm, inverse (P, N): atom a goes to perm[a]; the inverse permutations.
 * row_of, col_of (m, q): row and column of each coordinate, or -1 where it is left out; q = 3 N, or 3 N + 1 with
 * energies, whose coordinate is the last.
 * blocks (n_blocks, 2): i and j of each block, numbers in row_pairs and col_pairs.
 * matrix: column-major, n_rows a column; elements of the blocks receive scale * K.
 * chunk: permutations that shared memory has room for, at 4 + 15 N doubles each. */
extern "C" __global__ void __launch_bounds__(256)
assembly(const double *__restrict__ row_pairs, const double *__restrict__ col_pairs, const int *__restrict__ perm,
         const int *__restrict__ inverse, const int *__restrict__ row_of, const int *__restrict__ col_of,
         const int *__restrict__ blocks, double *__restrict__ matrix, int64 n_rows, int n_atoms, int energies,
         int n_perms, int chunk, double sig, double scale)
{
    extern __shared__ double shared[];
    const int64 i = blocks[2 * (int64)blockIdx.x], j = blocks[2 * (int64)blockIdx.x + 1];
    const int N = n_atoms, n_coord = 3 * N + energies;
    const int64 plane = (int64)N * N;
    const double *x_i = row_pairs + 4 * plane * i, *g_i = x_i + plane;
    const double *x_j = col_pairs + 4 * plane * j, *g_j = x_j + plane;
    const int *row = row_of + n_coord * i, *col = col_of + n_coord * j;

    double *weight = shared;                       /* [chunk]        w = b s (s + n) */
    double *five_b = weight + chunk;               /* [chunk] */
    double *ratio = five_b + chunk;                /* [chunk]        w / (5 b), which does not underflow */
    double *value = ratio + chunk;                 /* [chunk]        k_p */
    double *u = value + chunk;                     /* [chunk][N][3]  5 b u_p[a] */
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
                ratio[k] = 0.2 * sig * (sig + norm);
                weight[k] = five_b[k] * ratio[k];
                value[k] = sig * sig * (0.6 * weight[k] + b * squared);
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
            const int c = (int)(t / N), a = (int)(t % N);
            if (col[3 * c] < 0 && col[3 * c + 1] < 0 && col[3 * c + 2] < 0) continue;
            double block[9] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
            for (int k = 0; k < count; ++k) {
                const int image = perm[(int64)(p0 + k) * N + a], source = inverse[(int64)(p0 + k) * N + c];
                const double *gi = g_i + (int64)source * N + a, *gj = g_j + (int64)c * N + image;
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
#pragma unroll
            for (int m = 0; m < 9; ++m) put(matrix, n_rows, row[3 * a + m / 3], col[3 * c + m % 3], block[m], p0);
        }

        if (!energies) continue;
        /* One thread a force coordinate, of the rows and of the columns: equations (6) and (7); and one for (8). */
        for (int t = threadIdx.x; t < 6 * N + 1; t += blockDim.x) {
            double sum = 0.0;
            if (t < 3 * N) {
                for (int k = 0; k < count; ++k) sum -= ratio[k] * u[3 * k * N + t];
                put(matrix, n_rows, row[t], col[3 * N], sum, p0);
            } else if (t < 6 * N) {
                for (int k = 0; k < count; ++k) sum += weight[k] * v[3 * k * N + t - 3 * N];
                put(matrix, n_rows, row[3 * N], col[t - 3 * N], sum, p0);
            } else {
                for (int k = 0; k < count; ++k) sum -= value[k];
                put(matrix, n_rows, row[3 * N], col[3 * N], sum, p0);
            }
        }
    }
}

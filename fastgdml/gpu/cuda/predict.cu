/* Energies, forces and virials of few geometries on a CUDA device: equations (5) and (9) of src/prediction.c.
 *
 * Made for short runs: two launches (three with virials), nothing in between that the host waits for.
 *
 * tile_sums: a thread block for each tile of 8 training points and each geometry, so that one geometry and 1000 points
 * fill a large device. It computes the descriptor into shared memory: cheaper than a launch of its own. Then, phase 1,
 * one warp a training point: |d_p|^2 and d_p.v for four permutations at a time, lanes over pairs of atoms, which lie
 * next to each other in memory, as do the points of a tile; four permutations share each load. The weights of all
 * permutations (of a chunk, if shared memory is short) meet in shared memory. Phase 2, one thread a pair of the query:
 * the sums of w1 d - w2 v over points and permutations. It reads the tile again, from the cache, with neighbouring
 * threads at neighbouring pairs but for those that a permutation moves.
 *
 * forces: a thread block for each atom and each geometry. One warp a partner adds up that pair's sums, which are stored
 * tile after tile for this, and projects the force on the pair onto the atoms (J^T). Pairs are summed twice, once for
 * each of their atoms: that spreads the work over the device. virials adds up what the atoms contribute.
 *
 * No atomics, and all sums have a fixed order: results do not depend on how the device schedules the work.
 *
 * Compiled by NVRTC, which has no standard headers: plain types only.
 */

typedef long long int64;

#define WARPS 8    /* training points of a tile */
#define PERMS 4    /* permutations that share the loads of phase 1 */

/* Sum of x over a warp, in all its lanes. */
static __device__ double warp_sum(double x)
{
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* The atoms a > b of pair k. */
static __device__ void atoms_of(int k, int *a, int *b)
{
    /* The square root may be off by one unit; the loops put the atom right. */
    int row = (int)((1.0 + sqrt(1.0 + 8.0 * k)) * 0.5);
    while (row * (row - 1) / 2 > k) --row;
    while ((row + 1) * row / 2 <= k) ++row;
    *a = row;
    *b = k - row * (row - 1) / 2;
}

/* Difference r_a - r_b, folded into the cell as in src/fold.h, and its square.
 * cell: basis [3][3], inverse [3][3], then n_shifts lattice vectors to try after rounding; n_shifts -1: a molecule. */
static __device__ double difference(const double *r, int a, int b, const double *cell, int n_shifts, double d[3])
{
    for (int m = 0; m < 3; ++m) d[m] = r[3 * a + m] - r[3 * b + m];
    if (n_shifts >= 0) {
        const double *inverse = cell + 9;
        double f[3];
        for (int m = 0; m < 3; ++m)
            f[m] = rint(inverse[3 * m] * d[0] + inverse[3 * m + 1] * d[1] + inverse[3 * m + 2] * d[2]);
        for (int m = 0; m < 3; ++m) d[m] -= cell[3 * m] * f[0] + cell[3 * m + 1] * f[1] + cell[3 * m + 2] * f[2];
    }
    double shortest = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
    const double from[3] = {d[0], d[1], d[2]};
    for (int k = 0; k < n_shifts; ++k) {
        const double *shift = cell + 18 + 3 * k;
        const double c[3] = {from[0] - shift[0], from[1] - shift[1], from[2] - shift[2]};
        const double squared = c[0] * c[0] + c[1] * c[1] + c[2] * c[2];
        if (squared < shortest) {
            shortest = squared;
            for (int m = 0; m < 3; ++m) d[m] = c[m];
        }
    }
    return shortest;
}

/* A number as the sum of two floats, to about 2^-46: where float64 units are few, arithmetic with these is faster. */
struct Two {
    float hi, lo;
};

/* Conversions, differences and sums of products, for double and for Two. What is not a product of its own must not be
 * contracted with a sum: __fmul_rn is never. */
static __device__ void set(double *to, double x) { *to = x; }
static __device__ void set(Two *to, double x)
{
    to->hi = (float)x;
    to->lo = (float)(x - to->hi);
}
static __device__ double value(double x) { return x; }
static __device__ double value(Two x) { return (double)x.hi + x.lo; }

static __device__ Two renormalised(float hi, float lo)
{
    const float sum = hi + lo;
    return {sum, lo - (sum - hi)};
}

/* a + b; the error of the sum of the leading parts is exact. */
static __device__ Two sum_of(Two a, Two b)
{
    const float sum = a.hi + b.hi, part = sum - a.hi;
    return renormalised(sum, (a.hi - (sum - part)) + (b.hi - part) + (a.lo + b.lo));
}

static __device__ void add_product(double *sum, double a, double b) { *sum += a * b; }
static __device__ void add_product(Two *sum, Two a, Two b)
{
    const float product = __fmul_rn(a.hi, b.hi);
    const float rest = fmaf(a.lo, b.hi, fmaf(a.hi, b.lo, fmaf(a.hi, b.hi, -product)));
    *sum = sum_of(*sum, {product, rest});
}
static __device__ Two minus(Two x) { return {-x.hi, -x.lo}; }

/* y less descriptor k of a training point. In double precision they are kept centred, in Two they are not. */
static __device__ double less(double y, const double *x, const double *center, int k) { return y - (x[k] + center[k]); }
static __device__ Two less(Two y, const Two *x, const double *, int k) { return sum_of(y, minus(x[k])); }
static __device__ double less_far(double y, const double *x, const double *center, int k) { return y - center[k] - x[k]; }
static __device__ Two less_far(Two y, const Two *x, const double *, int k) { return sum_of(y, minus(x[k])); }

/* tile_sums and tile_sums_mixed.
 *
 * r (n_geo, N, 3). cells: one, or one for each geometry, cell_step numbers apart (0: one); see difference().
 * xv (2 M, D): q x - center, then J alpha; for Two q x, then J alpha; center (D,). energies (M,): coefficients of energy
 * constraints / q.
 * image (P, D): the pair of the query that stands for each pair of a training point; back (P, D): its inverse.
 * partial (n_geo, D + 1, n_tiles): for each pair of the query the sum of w1 d - w2 v, and at last that of the energy.
 * unusable (n_geo,): 1 if atoms coincide or a coordinate is not finite, else 0.
 * chunk: permutations that shared memory has room for; it holds D + 16 chunk numbers. q = sqrt(5) / sig.
 * Grid (n_tiles, n_geo). */
template <class Number>
static __device__ void sums_of_tile(Number *shared, const double *__restrict__ r, const double *__restrict__ cells,
                                    const Number *__restrict__ xv, const double *__restrict__ center,
                                    const double *__restrict__ energies, const int *__restrict__ image,
                                    const int *__restrict__ back, double *__restrict__ partial,
                                    double *__restrict__ unusable, int n_atoms, int n_train, int n_perms, int n_shifts,
                                    int cell_step, int chunk, double q)
{
    __shared__ double tile_energy[WARPS];
    __shared__ int bad;
    const int n_desc = n_atoms * (n_atoms - 1) / 2;
    Number *y = shared;                 /* [D]  q times the descriptor */
    Number *w1 = y + n_desc;            /* [chunk][WARPS] */
    Number *w2 = w1 + chunk * WARPS;    /* [chunk][WARPS]  negative */

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tile = blockIdx.x, n_tiles = gridDim.x;
    const int64 geo = blockIdx.y;
    const int first = tile * WARPS, n_points = n_train - first < WARPS ? n_train - first : WARPS;
    const Number *x_tile = xv + (int64)first * n_desc, *v_tile = x_tile + (int64)n_train * n_desc;
    double *sums = partial + geo * (n_desc + 1) * n_tiles + tile;

    if (threadIdx.x == 0) bad = 0;
    __syncthreads();
    for (int k = threadIdx.x; k < n_desc; k += blockDim.x) {
        int a, b;
        double d[3];
        atoms_of(k, &a, &b);
        const double squared = difference(r + geo * 3 * n_atoms, a, b, cells + geo * cell_step, n_shifts, d);
        if (!(squared > 0.0 && squared < 1.7e308)) bad = 1;
        set(&y[k], q / sqrt(squared));
    }
    __syncthreads();
    if (tile == 0 && threadIdx.x == 0) unusable[geo] = bad;

    double energy = 0.0;
    for (int p0 = 0; p0 < n_perms; p0 += chunk) {
        const int count = n_perms - p0 < chunk ? n_perms - p0 : chunk;

        /* Phase 1. */
        if (warp < n_points) {
            const Number *x = x_tile + (int64)warp * n_desc, *v = v_tile + (int64)warp * n_desc;
            for (int k0 = 0; k0 < count; k0 += PERMS) {
                Number s[PERMS], t[PERMS];
                const int *pair[PERMS];
#pragma unroll
                for (int i = 0; i < PERMS; ++i) {
                    /* Those past the last permutation repeat it and are not used. */
                    const int p = p0 + (k0 + i < count ? k0 + i : count - 1);
                    pair[i] = image + (int64)p * n_desc;
                    s[i] = t[i] = Number{};
                }
                for (int k = lane; k < n_desc; k += 32) {
#pragma unroll
                    for (int i = 0; i < PERMS; ++i) {
                        const Number d = less(y[pair[i][k]], x, center, k);
                        add_product(&s[i], d, d);
                        add_product(&t[i], d, v[k]);
                    }
                }
                /* Lane i goes on with permutation i. */
                double squared = 0.0, projection = 0.0;
#pragma unroll
                for (int i = 0; i < PERMS; ++i) {
                    const double s_i = warp_sum(value(s[i])), t_i = warp_sum(value(t[i]));
                    if (lane == i) {
                        squared = s_i;
                        projection = t_i;
                    }
                }
                if (lane < PERMS && k0 + lane < count) {
                    const double rho = sqrt(squared), decay = exp(-rho), weight = decay + decay * rho;
                    const double e = energies[first + warp];
                    set(&w1[(k0 + lane) * WARPS + warp], decay * projection + weight * e);
                    set(&w2[(k0 + lane) * WARPS + warp], -weight);
                    energy += weight * projection + (3.0 * weight + decay * squared) * e;
                }
            }
        }
        __syncthreads();

        /* Phase 2. */
        for (int m = threadIdx.x; m < n_desc; m += blockDim.x) {
            Number sum = Number{};
            for (int k = 0; k < count; ++k) {
                const int pair = back[(int64)(p0 + k) * n_desc + m];
                for (int j = 0; j < n_points; ++j) {
                    const int64 row = (int64)j * n_desc;
                    add_product(&sum, w1[k * WARPS + j], less_far(y[m], x_tile + row, center, pair));
                    add_product(&sum, w2[k * WARPS + j], v_tile[row + pair]);
                }
            }
            double *out = sums + (int64)m * n_tiles;
            *out = p0 == 0 ? value(sum) : *out + value(sum);
        }
        /* The weights are still read by slower threads. */
        __syncthreads();
    }

    energy = warp_sum(energy);
    if (lane == 0) tile_energy[warp] = energy;
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0.0;
        for (int k = 0; k < WARPS; ++k) sum += tile_energy[k];
        sums[(int64)n_desc * n_tiles] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(256)
tile_sums(const double *__restrict__ r, const double *__restrict__ cells, const double *__restrict__ xv,
          const double *__restrict__ center, const double *__restrict__ energies, const int *__restrict__ image,
          const int *__restrict__ back, double *__restrict__ partial, double *__restrict__ unusable, int n_atoms,
          int n_train, int n_perms, int n_shifts, int cell_step, int chunk, double q)
{
    extern __shared__ double shared[];
    sums_of_tile(shared, r, cells, xv, center, energies, image, back, partial, unusable, n_atoms, n_train, n_perms,
                 n_shifts, cell_step, chunk, q);
}

/* xv (2 M, D, 2): leading and remaining part of each number. */
extern "C" __global__ void __launch_bounds__(256)
tile_sums_mixed(const double *__restrict__ r, const double *__restrict__ cells, const float *__restrict__ xv,
                const double *__restrict__ center, const double *__restrict__ energies, const int *__restrict__ image,
                const int *__restrict__ back, double *__restrict__ partial, double *__restrict__ unusable, int n_atoms,
                int n_train, int n_perms, int n_shifts, int cell_step, int chunk, double q)
{
    extern __shared__ double shared[];
    sums_of_tile((Two *)shared, r, cells, (const Two *)xv, center, energies, image, back, partial, unusable, n_atoms, n_train, n_perms,
                 n_shifts, cell_step, chunk, q);
}

/* r, cells, partial as above. energy (n_geo,); force (n_geo, N, 3); atom_virial (n_geo, N, 9) with virials 1.
 * The sums of the energy become energy_scale * sum + c, those of the pairs times force_scale are the force along them.
 * Shared memory: 3 N doubles, with virials 12 N. Grid (N, n_geo). */
extern "C" __global__ void __launch_bounds__(256)
forces(const double *__restrict__ r, const double *__restrict__ cells, const double *__restrict__ partial,
       double *__restrict__ energy, double *__restrict__ force, double *__restrict__ atom_virial, int n_atoms,
       int n_tiles, int n_shifts, int cell_step, int virials, double force_scale, double energy_scale, double c)
{
    extern __shared__ double shared[];    /* [3 or 12][N]  what each partner contributes */
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32, atom = blockIdx.x;
    const int64 geo = blockIdx.y;
    const int n_desc = n_atoms * (n_atoms - 1) / 2, n_rows = virials ? 12 : 3;
    const double *sums = partial + geo * (n_desc + 1) * n_tiles;

    for (int partner = warp; partner < n_atoms; partner += n_warps) {
        const int a = atom > partner ? atom : partner, b = atom > partner ? partner : atom;
        /* An atom is no partner of its own: for the first one, the energy takes that place. */
        const int row = a == b ? n_desc : a * (a - 1) / 2 + b;
        double sum = 0.0;
        if (a != b || atom == 0)
            for (int k = lane; k < n_tiles; k += 32) sum += sums[(int64)row * n_tiles + k];
        sum = warp_sum(sum);
        if (a == b) {
            if (atom == 0 && lane == 0) energy[geo] = energy_scale * sum + c;
            for (int m = lane; m < n_rows; m += 32) shared[m * n_atoms + partner] = 0.0;
            continue;
        }
        double d[3];
        const double squared = difference(r + geo * 3 * n_atoms, a, b, cells + geo * cell_step, n_shifts, d);
        /* dx_ab / dr_a = -d / |d|^3 = -dx_ab / dr_b. */
        const double along = -force_scale * sum / (squared * sqrt(squared));
        if (lane == 0) {
            for (int m = 0; m < 3; ++m) {
                shared[m * n_atoms + partner] = atom == a ? along * d[m] : -along * d[m];
                /* Half of the pair's virial d (outer) f: the other half is the partner's. */
                if (virials)
                    for (int n = 0; n < 3; ++n) shared[(3 + 3 * m + n) * n_atoms + partner] = 0.5 * along * d[m] * d[n];
            }
        }
    }
    __syncthreads();

    for (int row = warp; row < n_rows; row += n_warps) {
        double sum = 0.0;
        for (int k = lane; k < n_atoms; k += 32) sum += shared[row * n_atoms + k];
        sum = warp_sum(sum);
        if (lane == 0) {
            if (row < 3) force[(geo * n_atoms + atom) * 3 + row] = sum;
            else atom_virial[(geo * n_atoms + atom) * 9 + row - 3] = sum;
        }
    }
}

/* virial (n_geo, 9): the sums of atom_virial (n_geo, N, 9) over the atoms. Threads: at least 9 n_geo. */
extern "C" __global__ void __launch_bounds__(128)
virials(const double *__restrict__ atom_virial, double *__restrict__ virial, int n_atoms, int n_geo)
{
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= 9 * n_geo) return;
    const int64 geo = at / 9;
    double sum = 0.0;
    for (int a = 0; a < n_atoms; ++a) sum += atom_virial[(geo * n_atoms + a) * 9 + at % 9];
    virial[at] = sum;
}

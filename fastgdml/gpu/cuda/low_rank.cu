/* Products with the low-rank part U of the preconditioner, in single precision; see low_rank.py.
 *
 * u (n_rows, stride): row-major, n_cols of each row are used. Sums are in double precision and have a fixed order. Each
 * number of U is read once, neighbouring threads read neighbouring numbers, and there is nothing else to wait for: the
 * bandwidth of the memory is the limit. Compiled by NVRTC, without standard headers.
 */

typedef long long int64;

/* partial (n_strips, n_cols): of each strip of `strip` rows, one a block in y, the sums of u[row][col] b[row]. A thread
 * has one column. */
extern "C" __global__ void __launch_bounds__(256)
project(const float *__restrict__ u, const double *__restrict__ b, double *__restrict__ partial, int64 n_rows,
        int n_cols, int stride, int strip)
{
    __shared__ double weight[256];
    const int col = blockIdx.x * 256 + threadIdx.x;
    const int64 first = (int64)blockIdx.y * strip, end = first + strip < n_rows ? first + strip : n_rows;
    /* Threads beyond the last column read that, and keep nothing. */
    const float *at = u + first * stride + (col < n_cols ? col : n_cols - 1);
    double sum = 0.0;
    for (int64 row = first; row < end; row += 256) {
        const int count = end - row < 256 ? (int)(end - row) : 256;
        __syncthreads();
        if (threadIdx.x < count) weight[threadIdx.x] = b[row + threadIdx.x];
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < count; ++k, at += stride) sum += (double)*at * weight[k];
    }
    if (col < n_cols) partial[(int64)blockIdx.y * n_cols + col] = sum;
}

/* b (n_rows) less u t, t (n_cols). A warp has four rows, so that t is read once for all of them. */
extern "C" __global__ void __launch_bounds__(256)
subtract(const float *__restrict__ u, const double *__restrict__ t, double *__restrict__ b, int64 n_rows, int n_cols,
         int stride)
{
    const int lane = threadIdx.x % 32;
    const int64 first = 32 * (int64)blockIdx.x + 4 * (threadIdx.x / 32);
    const float *at[4];
    double sum[4] = {0.0, 0.0, 0.0, 0.0};
    /* Beyond the last row, that is read, and nothing kept. */
    for (int r = 0; r < 4; ++r) at[r] = u + (first + r < n_rows ? first + r : n_rows - 1) * stride;
    for (int col = lane; col < n_cols; col += 32) {
        const double x = t[col];
        for (int r = 0; r < 4; ++r) sum[r] += (double)at[r][col] * x;
    }
    for (int r = 0; r < 4; ++r) {
        for (int step = 16; step > 0; step /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], step);
        if (lane == 0 && first + r < n_rows) b[first + r] -= sum[r];
    }
}

/* Weights of equation (5) of src/block_kernels.c from products of matrices; see predict.py.
 *
 * One thread block a row of st (rows, 2 M), which holds y.x and y.v: they are replaced by A T and A (1 + rho); their sum
 * and that of A (1 + rho) T go to w1_sum and e_sum. One pass over memory where array operations would need five. The
 * order of summation is fixed. Compiled by NVRTC, without standard headers.
 */
extern "C" __global__ void __launch_bounds__(128)
weights(double *st, const double *yy, const double *xx, const double *xv, double *w1_sum, double *e_sum, int n_train,
        double factor)
{
    __shared__ double partial[2][4];
    const long long row = blockIdx.x;
    double *s = st + 2 * row * n_train, *t = s + n_train;
    double sum[2] = {0.0, 0.0};
    for (int m = threadIdx.x; m < n_train; m += 128) {
        /* Cancellation may leave a small negative number where the square of a distance is zero. */
        const double rho = sqrt(fmax(yy[row] + xx[m] - 2.0 * s[m], 0.0)), projection = t[m] - xv[m];
        const double a = factor * exp(-rho), w1 = a * projection, w2 = a * (1.0 + rho);
        s[m] = w1;
        t[m] = w2;
        sum[0] += w1;
        sum[1] += w2 * projection;
    }
    for (int k = 0; k < 2; ++k) {
        for (int step = 16; step > 0; step /= 2) sum[k] += __shfl_xor_sync(0xffffffffu, sum[k], step);
        if (threadIdx.x % 32 == 0) partial[k][threadIdx.x / 32] = sum[k];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        w1_sum[row] = partial[0][0] + partial[0][1] + partial[0][2] + partial[0][3];
        e_sum[row] = partial[1][0] + partial[1][1] + partial[1][2] + partial[1][3];
    }
}

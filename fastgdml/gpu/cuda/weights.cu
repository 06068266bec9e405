/* Weights of equations (5) and (9) of src/prediction.c from products of matrices; see bulk.py.
 *
 * One thread block a row of st (rows, 2 M), which holds y.x and y.v. With the coefficients of energy constraints,
 * energies (M,), they are replaced by w1 = A (T + (1 + rho) e) and w2 = A (1 + rho); the sum of w1 and that of
 * w2 T + A (3 + 3 rho + rho^2) e go to w1_sum and e_sum. One pass over memory where array operations would need five.
 * The order of summation is fixed. Compiled by NVRTC, without standard headers.
 */
extern "C" __global__ void __launch_bounds__(128)
weights(double *st, const double *yy, const double *xx, const double *xv, const double *energies, double *w1_sum,
        double *e_sum, int n_train, double factor)
{
    __shared__ double partial[2][4];
    const long long row = blockIdx.x;
    double *s = st + 2 * row * n_train, *t = s + n_train;
    double sum[2] = {0.0, 0.0};
    for (int m = threadIdx.x; m < n_train; m += 128) {
        /* Cancellation may leave a small negative number where the square of a distance is zero. */
        const double squared = fmax(yy[row] + xx[m] - 2.0 * s[m], 0.0), rho = sqrt(squared), projection = t[m] - xv[m];
        const double e = energies[m], a = factor * exp(-rho), w2 = a * (1.0 + rho), w1 = a * projection + w2 * e;
        s[m] = w1;
        t[m] = w2;
        sum[0] += w1;
        sum[1] += w2 * projection + (3.0 * w2 + a * squared) * e;
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

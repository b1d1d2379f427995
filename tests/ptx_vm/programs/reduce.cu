// The sum of n numbers: within a warp by shuffles, within a block by shared memory, and over blocks by an atomic; and
// their extremes and mean in f64.
extern "C" __global__ void reduce(const float *x, int n, double *sums, unsigned *most, double *mean) {
    __shared__ double part[32];
    double sum = 0;
    float top = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        sum += (double)x[i] * (double)x[i];
        top = fmaxf(top, fabsf(x[i]));
    }
    for (int by = 16; by > 0; by /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, by);
        top = fmaxf(top, __shfl_down_sync(0xffffffffu, top, by));
    }
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    if (lane == 0) {
        part[warp] = sum;
        atomicMax(most, __float_as_uint(top));
    }
    __syncthreads();
    if (warp == 0) {
        sum = lane < warps ? part[lane] : 0;
        for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(0xffffffffu, sum, by);
        if (lane == 0) {
            sums[blockIdx.x] = sum;
            mean[blockIdx.x] = sqrt(sum / n) - floor(sum) + (double)(long long)sum;
        }
    }
}

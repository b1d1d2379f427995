// Counts and sums by class: u64 atomics, a constant table, a device counter, local memory, 64-bit division.
__constant__ unsigned weights[8] = {1, 2, 3, 5, 8, 13, 21, 34};
__device__ unsigned long long launches = 0;
extern "C" __global__ void histogram(const unsigned *x, int n, unsigned long long *bins, unsigned classes,
                                     unsigned long long divisor) {
    __shared__ unsigned count[64];
    if (threadIdx.x < 64) count[threadIdx.x] = 0;
    __syncthreads();
    unsigned digits[10];
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        unsigned v = x[i];
        int used = 0;
        do digits[used++] = v % 10; while (v /= 10);
        unsigned long long sum = 0;
        for (int j = 0; j < used; j++) sum += (unsigned long long)digits[used - 1 - j] * weights[j & 7] << j;
        unsigned bin = (unsigned)((sum * 0x9e3779b97f4a7c15ull / divisor) % classes);
        atomicAdd(&count[bin], 1);
        atomicAdd(&bins[classes + bin], sum);
    }
    __syncthreads();
    if (threadIdx.x < classes) atomicAdd(&bins[threadIdx.x], (unsigned long long)count[threadIdx.x]);
    if (threadIdx.x == 0) atomicAdd(&launches, 1ull);
    if (threadIdx.x == 0 && gridDim.x == 1) bins[2 * classes] = atomicAdd(&launches, 0ull);
}

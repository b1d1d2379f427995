// c = a b for row-major f32 matrices whose sides are multiples of 16; tiles go through shared memory by cp.async, twice
// buffered.
extern "C" __global__ void __launch_bounds__(256)
tiled(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ c, int n, int k) {
    __shared__ __align__(16) float ta[2][16][16];
    __shared__ __align__(16) float tb[2][16][16];
    int x = threadIdx.x % 16, y = threadIdx.x / 16, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    auto fill = [&](int stage, int at) {
        unsigned to_a = (unsigned)__cvta_generic_to_shared(&ta[stage][y][x]);
        unsigned to_b = (unsigned)__cvta_generic_to_shared(&tb[stage][y][x]);
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to_a), "l"(a + (size_t)row * k + at + x) : "memory");
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to_b), "l"(b + (size_t)(at + y) * n + column) : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    float sum = 0;
    fill(0, 0);
    for (int at = 0, stage = 0; at < k; at += 16, stage ^= 1) {
        if (at + 16 < k) {
            fill(stage ^ 1, at + 16);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        for (int i = 0; i < 16; i++) sum = fmaf(ta[stage][y][i], tb[stage][i][x], sum);
        __syncthreads();
    }
    c[(size_t)row * n + column] = sum;
}

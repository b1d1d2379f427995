// c (16 x 8 per warp, f32) = a (m x k, row-major f16) times b^T (n x k, row-major f16), by ldmatrix and mma.
extern "C" __global__ void __launch_bounds__(64)
half_product(const unsigned short *a, const unsigned short *b, float *c, int n, int k) {
    extern __shared__ __align__(16) unsigned short tile[];
    unsigned short *ta = tile, *tb = tile + 32 * 24;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float d[4] = {0, 0, 0, 0};
    for (int at = 0; at < k; at += 16) {
        __syncthreads();
        for (int i = threadIdx.x; i < 32 * 2; i += 64) {
            int row = i / 2, part = i % 2 * 8;
            *(uint4 *)&ta[row * 24 + part] = *(const uint4 *)&a[(size_t)(blockIdx.y * 32 + row) * k + at + part];
        }
        if (threadIdx.x < 16) {
            int row = threadIdx.x / 2, part = threadIdx.x % 2 * 8;
            *(uint4 *)&tb[row * 24 + part] = *(const uint4 *)&b[(size_t)(blockIdx.x * 8 + row) * k + at + part];
        }
        __syncthreads();
        unsigned ra[4], rb[2];
        unsigned from_a = (unsigned)__cvta_generic_to_shared(&ta[(warp * 16 + lane % 16) * 24 + lane / 16 * 8]);
        unsigned from_b = (unsigned)__cvta_generic_to_shared(&tb[lane % 8 * 24 + lane / 8 % 2 * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3]) : "r"(from_a) : "memory");
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                     : "=r"(rb[0]), "=r"(rb[1]) : "r"(from_b) : "memory");
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
    }
    for (int i = 0; i < 4; i++) {
        int row = blockIdx.y * 32 + warp * 16 + lane / 4 + i / 2 * 8, column = blockIdx.x * 8 + lane % 4 * 2 + i % 2;
        c[(size_t)row * n + column] = d[i];
    }
}

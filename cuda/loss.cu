// The two terms of the VQ loss and the gradient estimators: src/ops/loss.rs has the contract.
#include "common/lanes.cuh"

// The rotation's gradient as a combination of x, q and g.
struct Turn {
    float x, q, g;
    bool plain;
};

__device__ __forceinline__ bool is_normal(double x) {
    u32 exponent = (u32)((u64)__double_as_longlong(x) >> 52) & 0x7FFu;
    return exponent != 0 && exponent != 0x7FFu;
}

__device__ __forceinline__ Turn turn_of(double xx, double qq, double xq, double xg, double qg) {
    double nx = __dsqrt_rn(xx), nq = __dsqrt_rn(qq);
    double closeness = 1.0 + xq / (nx * nq);
    // Also where a norm is zero, infinite or NaN: then there is no direction to turn.
    if (!(closeness >= 1.0 / (1 << 20) && is_normal(nx) && is_normal(nq))) return {0.0f, 0.0f, 1.0f, true};
    // g − 2w(w·g) + 2u(v·g), with w(w·g) = (u+v)(u·g+v·g) / (2 + 2 u·v).
    double ug = xg / nx, vg = qg / nq, scale = nq / nx;
    double a = (ug + vg) / closeness;
    return {(float)(scale * (2.0 * vg - a) / nx), (float)(-scale * a / nq), (float)scale, false};
}

// One element of the turned gradient.
__device__ __forceinline__ float turned(const Turn& turn, float x, float q, float g) {
    float scaled = __fmul_rn(turn.g, g);
    return turn.plain ? scaled : __fmaf_rn(turn.x, x, __fmaf_rn(turn.q, q, scaled));
}

// -- reference: one thread a row, plain loops

__device__ float tree_ref(float* lanes) {
    #pragma unroll 1
    for (u32 w = 16; w > 0; w >>= 1)
        #pragma unroll 1
        for (u32 l = 0; l < w; l++) lanes[l] = __fadd_rn(lanes[l], lanes[l + w]);
    return lanes[0];
}

__device__ float dot_ref(const float* a, const float* b, u32 dim) {
    float lanes[32];
    #pragma unroll 1
    for (u32 l = 0; l < 32; l++) lanes[l] = 0.0f;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) lanes[i % 32] = __fmaf_rn(a[i], b[i], lanes[i % 32]);
    return tree_ref(lanes);
}

__device__ float distance_ref(const float* a, const float* b, u32 dim) {
    float lanes[32];
    #pragma unroll 1
    for (u32 l = 0; l < 32; l++) lanes[l] = 0.0f;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) {
        float t = __fadd_rn(a[i], -b[i]);
        lanes[i % 32] = __fmaf_rn(t, t, lanes[i % 32]);
    }
    return tree_ref(lanes);
}

// One thread does it all.
extern "C" __global__ void squared_error_ref(const float* x, const float* q, const u32* codes, const float* weights,
                                             u32 rows, u32 dim, double* total, Status* status, u32 op) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    #pragma unroll 1
    for (u64 first = 0; first < rows; first += ROW_BLOCK) {
        float sum = 0.0f, weight = 0.0f;
        u64 end = first + ROW_BLOCK < rows ? first + ROW_BLOCK : rows;
        #pragma unroll 1
        for (u64 row = first; row < end; row++) {
            float w = weight_of(weights, row, status, op);
            if (codes[row] == NO_CODE || w == 0.0f) continue;
            sum = __fmaf_rn(w, distance_ref(x + row * dim, q + row * dim, dim), sum);
            weight = __fadd_rn(weight, w);
        }
        total[0] += (double)sum;
        total[1] += (double)weight;
    }
}

extern "C" __global__ void squared_error_backward_ref(const float* x, const float* q, const u32* codes,
                                                      const float* weights, u32 rows, u32 dim, float scale, float* dx,
                                                      Status* status, u32 op) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    float s = __fmul_rn(scale, weight_of(weights, row, status, op));
    if (codes[row] == NO_CODE || s == 0.0f) return;
    #pragma unroll 1
    for (u64 i = row * dim; i < (row + 1) * dim; i++) dx[i] = __fmaf_rn(s, __fadd_rn(x[i], -q[i]), dx[i]);
}

extern "C" __global__ void straight_through_backward_ref(const u32* codes, const float* dq, u32 rows, u32 dim,
                                                         float* dx) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    #pragma unroll 1
    for (u64 i = row * dim; i < (row + 1) * dim; i++) dx[i] = codes[row] == NO_CODE ? 0.0f : dq[i];
}

extern "C" __global__ void rotation_backward_ref(const float* x, const float* q, const u32* codes, const float* g,
                                                 u32 rows, u32 dim, float* dx) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    x += row * dim;
    q += row * dim;
    g += row * dim;
    dx += row * dim;
    bool none = codes[row] == NO_CODE;
    Turn turn = turn_of(dot_ref(x, x, dim), dot_ref(q, q, dim), dot_ref(x, q, dim), dot_ref(x, g, dim),
                        dot_ref(q, g, dim));
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) dx[i] = none ? 0.0f : turned(turn, x[i], q[i], g[i]);
}

// -- tuned: rows by up to 32 threads each, then the chains over rows

// Each row's distance and the weight that it counts with: 0 and 0 where it counts for nothing, which
// leaves the chains as they are.
extern "C" __global__ void __launch_bounds__(256) squared_error_rows(const float* x, const float* q, const u32* codes,
                                                                     const float* weights, u32 rows, u32 dim,
                                                                     u32 width, float* distances, float* counted,
                                                                     Status* status, u32 op) {
    Lane lane = lane_of(rows, width);
    x += lane.row * dim;
    q += lane.row * dim;
    float sum = 0.0f;
    #pragma unroll 4
    for (u32 i = lane.at; i < dim; i += 32) {
        float t = __fadd_rn(x[i], -q[i]);
        sum = __fmaf_rn(t, t, sum);
    }
    float distance = tree32(lane, sum);
    if (lane.active && lane.at == 0) {
        float w = weight_of(weights, lane.row, status, op);
        if (codes[lane.row] == NO_CODE || w == 0.0f) w = distance = 0.0f;
        distances[lane.row] = distance;
        counted[lane.row] = w;
    }
}

// One thread block a block of rows: all threads bring its distances and weights, then two chain them.
extern "C" __global__ void __launch_bounds__(128) squared_error_blocks(const float* distances, const float* counted,
                                                                       u32 rows, float* sums) {
    __shared__ __align__(16) float distance[ROW_BLOCK];
    __shared__ __align__(16) float weight[ROW_BLOCK];
    u64 first = (u64)blockIdx.x * ROW_BLOCK;
    #pragma unroll
    for (u32 q = 0; q < ROW_BLOCK / 128; q++) {
        u32 i = q * 128 + threadIdx.x;
        bool in = first + i < rows;
        distance[i] = in ? distances[first + i] : 0.0f;
        weight[i] = in ? counted[first + i] : 0.0f;
    }
    __syncthreads();
    // Thread 0 chains w · distance, thread 1 w · 1.
    if (threadIdx.x >= 2) return;
    bool unit = threadIdx.x == 1;
    float sum = 0.0f;
    #pragma unroll 8
    for (u32 i = 0; i < ROW_BLOCK; i += 4) {
        float4 w = *reinterpret_cast<const float4*>(weight + i), d = *reinterpret_cast<const float4*>(distance + i);
        sum = __fmaf_rn(w.x, unit ? 1.0f : d.x, sum);
        sum = __fmaf_rn(w.y, unit ? 1.0f : d.y, sum);
        sum = __fmaf_rn(w.z, unit ? 1.0f : d.z, sum);
        sum = __fmaf_rn(w.w, unit ? 1.0f : d.w, sum);
    }
    sums[2 * (u64)blockIdx.x + threadIdx.x] = sum;
}

// One warp: the blocks' sums, brought 32 at a time, in ascending order; thread 0 has the sum of errors, 1 the weight.
extern "C" __global__ void __launch_bounds__(32) squared_error_total(const float* sums, u32 blocks, double* total) {
    u32 at = threadIdx.x;
    double mine = at < 2 ? total[at] : 0.0;
    #pragma unroll 1
    for (u64 first = 0; first < blocks; first += 16) {
        u64 left = 2 * (blocks - first);
        float brought = at < left ? sums[2 * first + at] : 0.0f;
        #pragma unroll
        for (u32 b = 0; b < 16; b++) mine += (double)__shfl_sync(ALL, brought, (int)(2 * b + (at & 1)));
    }
    if (at < 2) total[at] = mine;
}

extern "C" __global__ void __launch_bounds__(256) squared_error_backward(const float* x, const float* q,
                                                                         const u32* codes, const float* weights,
                                                                         u32 rows, u32 dim, u32 width, float scale,
                                                                         const float* scale_there, float* dx,
                                                                         Status* status, u32 op) {
    Lane lane = lane_of(rows, width);
    if (!lane.active) return;
    if (scale_there) scale = *scale_there;
    float s = __fmul_rn(scale, weight_of(weights, lane.row, status, op));
    if (codes[lane.row] == NO_CODE || s == 0.0f) return;
    x += lane.row * dim;
    q += lane.row * dim;
    dx += lane.row * dim;
    #pragma unroll 4
    for (u32 i = lane.at; i < dim; i += 32) dx[i] = __fmaf_rn(s, __fadd_rn(x[i], -q[i]), dx[i]);
}

extern "C" __global__ void __launch_bounds__(256) straight_through_backward(const u32* codes, const float* dq,
                                                                            u32 rows, u32 dim, u32 width, float* dx) {
    Lane lane = lane_of(rows, width);
    if (!lane.active) return;
    bool none = codes[lane.row] == NO_CODE;
    dq += lane.row * dim;
    dx += lane.row * dim;
    #pragma unroll 4
    for (u32 i = lane.at; i < dim; i += 32) {
        float value = 0.0f;
        if (!none) value = dq[i];
        dx[i] = value;
    }
}

// `width` threads take `turns` rows one after the other; each then makes the coefficients of one of them, as f64 is
// the dearest part.
extern "C" __global__ void __launch_bounds__(256) rotation_backward(const float* x, const float* q, const u32* codes,
                                                                    const float* g, u32 rows, u32 dim, u32 width,
                                                                    u32 turns, float* dx) {
    Lane lane;
    lane.at = threadIdx.x & (width - 1);
    lane.width = width;
    lane.active = true;
    u64 first = ((u64)blockIdx.x * (256 / width) + threadIdx.x / width) * turns;
    float xx = 0.0f, qq = 0.0f, xq = 0.0f, xg = 0.0f, qg = 0.0f;
    #pragma unroll 1
    for (u32 s = 0; s < turns; s++) {
        u64 row = first + s < rows ? first + s : rows - 1;
        const float *xr = x + row * dim, *qr = q + row * dim, *gr = g + row * dim;
        float sums[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        #pragma unroll 2
        for (u32 i = lane.at; i < dim; i += 32) {
            float a = xr[i], b = qr[i], c = gr[i];
            sums[0] = __fmaf_rn(a, a, sums[0]);
            sums[1] = __fmaf_rn(b, b, sums[1]);
            sums[2] = __fmaf_rn(a, b, sums[2]);
            sums[3] = __fmaf_rn(a, c, sums[3]);
            sums[4] = __fmaf_rn(b, c, sums[4]);
        }
        #pragma unroll
        for (u32 v = 0; v < 5; v++) sums[v] = tree32(lane, sums[v]);
        if (lane.at == s) xx = sums[0], qq = sums[1], xq = sums[2], xg = sums[3], qg = sums[4];
    }
    Turn mine = turn_of(xx, qq, xq, xg, qg);
    u32 plain = mine.plain;
    #pragma unroll 1
    for (u32 s = 0; s < turns; s++) {
        Turn turn;
        turn.x = __shfl_sync(ALL, mine.x, (int)s, (int)width);
        turn.q = __shfl_sync(ALL, mine.q, (int)s, (int)width);
        turn.g = __shfl_sync(ALL, mine.g, (int)s, (int)width);
        turn.plain = __shfl_sync(ALL, plain, (int)s, (int)width);
        u64 row = first + s;
        bool active = row < rows;
        if (!active) row = rows - 1;
        bool none = codes[row] == NO_CODE;
        const float *xr = x + row * dim, *qr = q + row * dim, *gr = g + row * dim;
        #pragma unroll 1
        for (u32 i = lane.at; i < dim; i += 32) {
            float value = none ? 0.0f : turned(turn, xr[i], qr[i], gr[i]);
            if (active) dx[row * dim + i] = value;
        }
    }
}

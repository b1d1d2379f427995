// Rows to unit length, and the gradient: src/ops/normalize.rs has the contract.
#include "common/unit.cuh"

// -- reference: one thread a row, plain loops

template <typename E>
__device__ void normalize_ref(const E* x, u32 rows, u32 dim, float* y, float* norms) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    x += row * dim;
    y += row * dim;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) y[i] = to_f32(x[i]);
    float norm = unit_ref(y, dim);
    if (norms) norms[row] = norm;
}

extern "C" __global__ void normalize_ref_f32(const float* x, u32 rows, u32 dim, float* y, float* norms) {
    normalize_ref(x, rows, dim, y, norms);
}
extern "C" __global__ void normalize_ref_f16(const f16* x, u32 rows, u32 dim, float* y, float* norms) {
    normalize_ref(x, rows, dim, y, norms);
}
extern "C" __global__ void normalize_ref_bf16(const bf16* x, u32 rows, u32 dim, float* y, float* norms) {
    normalize_ref(x, rows, dim, y, norms);
}

extern "C" __global__ void normalize_backward_ref(
    const float* y, const float* norms, const float* dy, u32 rows, u32 dim, float* dx) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    y += row * dim;
    dy += row * dim;
    dx += row * dim;
    float t = sum32_ref(y, dy, dim), norm = norms[row];
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) dx[i] = norm == 0.0f ? 0.0f : __fdiv_rn(__fmaf_rn(-t, y[i], dy[i]), norm);
}

// -- tuned: up to 32 threads a row, which is read once from memory and again from the first cache

template <typename E>
__device__ void normalize(const E* x, u32 rows, u32 dim, u32 width, float* y, float* norms) {
    Lane lane = lane_of(rows, width);
    x += lane.row * dim;
    y += lane.row * dim;
    float sum = 0.0f;
    #pragma unroll 1
    for (u32 i = lane.at; i < dim; i += 32) {
        float a = to_f32(x[i]);
        sum = __fmaf_rn(a, a, sum);
    }
    float norm = unit(lane, x, dim, tree32(lane, sum), y);
    if (norms && lane.active && lane.at == 0) norms[lane.row] = norm;
}

extern "C" __global__ void __launch_bounds__(256) normalize_f32(const float* x, u32 rows, u32 dim, u32 width, float* y,
                                                                float* norms) {
    normalize(x, rows, dim, width, y, norms);
}
extern "C" __global__ void __launch_bounds__(256) normalize_f16(const f16* x, u32 rows, u32 dim, u32 width, float* y,
                                                                float* norms) {
    normalize(x, rows, dim, width, y, norms);
}
extern "C" __global__ void __launch_bounds__(256) normalize_bf16(const bf16* x, u32 rows, u32 dim, u32 width, float* y,
                                                                 float* norms) {
    normalize(x, rows, dim, width, y, norms);
}

extern "C" __global__ void __launch_bounds__(256) normalize_backward(
    const float* y, const float* norms, const float* dy, u32 rows, u32 dim, u32 width, float* dx) {
    Lane lane = lane_of(rows, width);
    y += lane.row * dim;
    dy += lane.row * dim;
    dx += lane.row * dim;
    float t = dot32(lane, y, dy, dim), norm = norms[lane.row];
    #pragma unroll 1
    for (u32 i = lane.at; i < dim; i += 32)
        if (lane.active) dx[i] = norm == 0.0f ? 0.0f : __fdiv_rn(__fmaf_rn(-t, y[i], dy[i]), norm);
}

// One row to unit length: src/ops/normalize.rs has the contract.
#pragma once
#include "common/lanes.cuh"
#include "common/powers.cuh"

__device__ __forceinline__ bool usual_square(float n) { return n >= SMALLEST_SQUARE && is_finite(n); }

// -- reference: plain loops

__device__ float sum32_ref(const float* a, const float* b, u32 dim) {
    float lanes[32];
    #pragma unroll 1
    for (u32 l = 0; l < 32; l++) lanes[l] = 0.0f;
    #pragma unroll 1
    for (u32 first = 0; first < dim; first += 32)
        #pragma unroll 1
        for (u32 l = 0; l < 32; l++)
            if (first + l < dim) lanes[l] = __fmaf_rn(a[first + l], b[first + l], lanes[l]);
    #pragma unroll 1
    for (u32 w = 16; w > 0; w >>= 1)
        #pragma unroll 1
        for (u32 l = 0; l < w; l++) lanes[l] = __fadd_rn(lanes[l], lanes[l + w]);
    return lanes[0];
}

__device__ float rescaled_ref(float* y, u32 dim) {
    float largest = 0.0f, poison = 0.0f;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) {
        float x = fabsf(y[i]);
        largest = x > largest ? x : largest;
        poison = __fadd_rn(poison, __fmul_rn(y[i], 0.0f));
    }
    if (largest == 0.0f || poison != 0.0f) {
        #pragma unroll 1
        for (u32 i = 0; i < dim; i++) y[i] = poison;
        return poison;
    }
    int power = place(largest) + 1;
    float half = power_of_two(-(power / 2)), rest = power_of_two(-(power - power / 2));
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) y[i] = __fmul_rn(__fmul_rn(y[i], half), rest);
    float root = __fsqrt_rn(sum32_ref(y, y, dim));
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) y[i] = __fdiv_rn(y[i], root);
    return (float)((double)root * wide_power_of_two(power));
}

// Normalizes a row in place and returns its norm.
__device__ float unit_ref(float* y, u32 dim) {
    float n = sum32_ref(y, y, dim);
    if (!usual_square(n)) return rescaled_ref(y, dim);
    float norm = __fsqrt_rn(n);
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) y[i] = __fdiv_rn(y[i], norm);
    return norm;
}

// -- tuned: up to 32 threads a row

// The rare row whose sum of squares is tiny, infinite or NaN. Threads of a row that is not active stay for the shuffles,
// and read nothing: others may write what they stand at.
template <typename E>
__device__ __forceinline__ float rescaled(const Lane& lane, const E* x, u32 dim, float* y) {
    float largest = 0.0f;
    bool finite = true;
    #pragma unroll 1
    for (u32 i = lane.at; i < dim && lane.active; i += 32) {
        float a = fabsf(to_f32(x[i]));
        finite = finite && is_finite(a);
        largest = a > largest ? a : largest;
    }
    largest = max32(lane, largest);
    bool poisoned = any32(lane, !finite), zero = largest == 0.0f || poisoned;
    float value = poisoned ? __uint_as_float(0x7FFFFFFFu) : 0.0f;
    int power = zero ? 0 : place(largest) + 1;
    float half = power_of_two(-(power / 2)), rest = power_of_two(-(power - power / 2));
    float sum = 0.0f;
    #pragma unroll 1
    for (u32 i = lane.at; i < dim && lane.active; i += 32) {
        float a = __fmul_rn(__fmul_rn(to_f32(x[i]), half), rest);
        sum = __fmaf_rn(a, a, sum);
    }
    float root = __fsqrt_rn(tree32(lane, sum));
    #pragma unroll 1
    for (u32 i = lane.at; i < dim && lane.active; i += 32) {
        float a = __fmul_rn(__fmul_rn(to_f32(x[i]), half), rest);
        y[i] = zero ? value : __fdiv_rn(a, root);
    }
    return zero ? value : (float)((double)root * wide_power_of_two(power));
}

// Row `x`, whose sum of squares is `n`, to unit length in `y`, which may be `x`: every thread reads and
// writes its own elements only. Returns the norm. Rows of the warp that are not active are not written.
template <typename E>
__device__ __forceinline__ float unit(const Lane& lane, const E* x, u32 dim, float n, float* y) {
    float norm;
    bool usual = usual_square(n);
    if (__all_sync(ALL, usual)) {
        norm = __fsqrt_rn(n);
        #pragma unroll 1
        for (u32 i = lane.at; i < dim; i += 32)
            if (lane.active) y[i] = __fdiv_rn(to_f32(x[i]), norm);
    } else {
        // All rows of the warp go together, the usual ones too, for the shuffles.
        float divisor = __fsqrt_rn(n);
        Lane quiet = lane;
        quiet.active = lane.active && !usual;
        norm = rescaled(quiet, x, dim, y);
        #pragma unroll 1
        for (u32 i = lane.at; i < dim; i += 32)
            if (lane.active && usual) y[i] = __fdiv_rn(to_f32(x[i]), divisor);
        if (usual) norm = divisor;
    }
    return norm;
}

// The contract's score, and its order.
#pragma once
#include "common/types.cuh"

#define NO_SCORE __int_as_float(0x7FFFFFFF)

// One score by the contract: a chain over the dimensions. `vector`: rows of the codebook are aligned to 16 bytes.
template <typename E>
__device__ __forceinline__ float chain(const E* q, const float* c, u32 dim, float s, u32 vector) {
    if (vector) {
        for (u32 i = 0; i < dim; i += 4) {
            float4 v = *(const float4*)(c + i);
            s = __fmaf_rn(to_f32(q[i]), v.x, s);
            s = __fmaf_rn(to_f32(q[i + 1]), v.y, s);
            s = __fmaf_rn(to_f32(q[i + 2]), v.z, s);
            s = __fmaf_rn(to_f32(q[i + 3]), v.w, s);
        }
    } else {
        for (u32 i = 0; i < dim; i++) s = __fmaf_rn(to_f32(q[i]), c[i], s);
    }
    return s;
}

// A score and a code as one number: a higher score is larger, among equals the lower code. 0 is none.
__device__ __forceinline__ u64 key_of(float score, u32 code) {
    u32 bits = __float_as_uint(__fadd_rn(score, 0.0f));
    u32 ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)ordered << 32 | (u32)~code;
}
__device__ __forceinline__ float score_of(u64 key) {
    u32 ordered = (u32)(key >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7FFFFFFFu : ~ordered);
}

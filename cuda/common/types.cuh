// Storage types, the word that stands for no code, and the status that data errors are noted in.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

static const u32 NO_CODE = 0xFFFFFFFFu;
// Rows in a block of a sum over rows.
static const u32 ROW_BLOCK = 1024;

// Rows stored in half precision, as their bits.
struct f16 { u16 bits; };
struct bf16 { u16 bits; };

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(f16 x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u; }

// The first refusal of a stream's kernels; src/cuda/status.rs reads it.
struct Status {
    u32 kind;
    u32 op;
    u32 pad;
    // Whether the last check of a remap refused it.
    u32 bad_remap;
    u64 index;
    u32 code;
    u32 codes;
};

enum Kind : u32 { CODE_OUT_OF_RANGE = 1, BAD_WEIGHT = 2, BEYOND_EXPONENT = 3, OVERFLOWN = 4, BAD_REMAP = 5 };

// Notes a refusal unless there is one already.
__device__ __forceinline__ void refuse(Status* status, u32 kind, u32 op, u64 index, u32 code, u32 codes) {
    if (atomicCAS(&status->kind, 0u, kind) == 0) {
        status->op = op;
        status->index = index;
        status->code = code;
        status->codes = codes;
    }
}

// A row's weight, 1 where there are none; one outside 0..=1 is refused and counts as 0.
__device__ __forceinline__ float weight_of(const float* weights, u64 row, Status* status, u32 op) {
    if (!weights) return 1.0f;
    float w = weights[row];
    if (w >= 0.0f && w <= 1.0f) return w;
    refuse(status, BAD_WEIGHT, op, row, 0, 0);
    return 0.0f;
}

// A row's code, of which the type's largest value stands for none; one that does not exist is refused and counts as none.
template <typename C>
__device__ __forceinline__ u32 code_of(const C* codes, u64 row, u32 count, Status* status, u32 op) {
    u32 k = codes[row] == (C)NO_CODE ? NO_CODE : codes[row];
    if (k < count || k == NO_CODE) return k;
    refuse(status, CODE_OUT_OF_RANGE, op, row, k, count);
    return NO_CODE;
}

// Additions to memory that others add to as well: one instruction per wrapper. Integers have no order.
#pragma once
#include "common/types.cuh"

__device__ __forceinline__ void add_i64(i64* sum, i64 term) {
    asm volatile("red.global.add.u64 [%0], %1;" ::"l"(sum), "l"(term) : "memory");
}
__device__ __forceinline__ void add_u32(u32* sum, u32 term) {
    asm volatile("red.global.add.u32 [%0], %1;" ::"l"(sum), "r"(term) : "memory");
}
__device__ __forceinline__ void max_u32(u32* most, u32 value) {
    asm volatile("red.global.max.u32 [%0], %1;" ::"l"(most), "r"(value) : "memory");
}
__device__ __forceinline__ void min_u32(u32* least, u32 value) {
    asm volatile("red.global.min.u32 [%0], %1;" ::"l"(least), "r"(value) : "memory");
}

// Adds, and returns what was there before.
__device__ __forceinline__ i64 fetch_add_i64(i64* sum, i64 term) {
    return (i64)atomicAdd((u64*)sum, (u64)term);
}

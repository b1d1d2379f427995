// Additions to memory that others add to as well: one instruction per wrapper. Integers have no order.
#pragma once
#include "common/types.cuh"

__device__ __forceinline__ void add_i64(i64* sum, i64 term) {
    asm volatile("red.global.add.u64 [%0], %1;" ::"l"(sum), "l"(term) : "memory");
}
__device__ __forceinline__ void max_u32(u32* most, u32 value) {
    asm volatile("red.global.max.u32 [%0], %1;" ::"l"(most), "r"(value) : "memory");
}
__device__ __forceinline__ void min_u32(u32* least, u32 value) {
    asm volatile("red.global.min.u32 [%0], %1;" ::"l"(least), "r"(value) : "memory");
}

// Adds to a count that stays full at the most that it can hold: an addition that goes past it makes it the most again,
// and what others add before that changes nothing.
__device__ __forceinline__ void count_u64(u64* count, u64 term) {
    if (atomicAdd(count, term) > ~0ull - term) asm volatile("red.global.max.u64 [%0], %1;" ::"l"(count), "l"(~0ull) : "memory");
}
__device__ __forceinline__ void count_u32(u32* count, u32 term) {
    if (atomicAdd(count, term) > ~0u - term) max_u32(count, ~0u);
}

// Adds, and returns what was there before.
__device__ __forceinline__ i64 fetch_add_i64(i64* sum, i64 term) {
    return (i64)atomicAdd((u64*)sum, (u64)term);
}

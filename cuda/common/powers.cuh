// Powers of two, by which rows are rescaled whose sum of squares leaves the comfortable range.
#pragma once
#include "common/types.cuh"

// Below 2^-100 a sum of squares may have lost terms to subnormal numbers.
static const float SMALLEST_SQUARE = 7.88860905e-31f;

// 2^power for -149 <= power <= 127.
__device__ __forceinline__ float power_of_two(int power) {
    return power >= -126 ? __uint_as_float((u32)(power + 127) << 23) : __uint_as_float(1u << (power + 149));
}

// 2^power in f64, for |power| < 1022.
__device__ __forceinline__ double wide_power_of_two(int power) {
    return __longlong_as_double((i64)(power + 1023) << 52);
}

// Fraction bits of the exact sums per code, and an integer weight in rows.
static const int FRACTION_BITS = 40;
__device__ __forceinline__ double weight_in_rows(i64 n) { return (double)n * wide_power_of_two(-FRACTION_BITS); }

// The place of the highest bit of a finite x > 0: x = m · 2^place, 1 <= m < 2.
__device__ __forceinline__ int place(float x) {
    u32 bits = __float_as_uint(x);
    return bits >> 23 ? (int)(bits >> 23) - 127 : 31 - __clz((int)bits) - 149;
}

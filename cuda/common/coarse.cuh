// What packing, coarse pass and rescoring agree on: scales, layouts, and the certificate's bound.
//
// Codes are scaled by the power of two that brings the longest to (1/2, 1], rows likewise (for L2 by the codes'
// scale), and rounded to f16. Scores below are in these units. Proof of the bound: src/ops/search/certificate.md,
// "On a GPU".
#pragma once
#include "common/types.cuh"

// What is known of all codes, in the first words of a packed codebook. Maxima are of numbers >= 0, as bits.
struct Header {
    u32 norm;         // max |c|, unscaled, rounded up
    u32 half_norm;    // max |h|, unscaled, rounded up; 0 for cosine
    u32 bad;          // nonzero where a code is not finite
    u32 residual;     // max |c - c^|
    u32 coarse_norm;  // max |c^|
    u32 pad[11];
};
static const u32 HEADER_WORDS = 16;

// What is known of a row.
struct Row {
    float residual;     // |q - q^|; negative where the row takes the f32 pass
    float norm;         // |q|
    float coarse_norm;  // |q^|
    float pad;
};

// A row's running maxima over one class of columns.
struct Entry {
    u32 best;    // bits of the largest coarse score
    u32 second;  // of the largest in all other chunks
    u32 chunk;   // where the largest is
    u32 pad;
};

// Added to cosine scores, which are within ±1.01: so their bits compare as integers.
static const float BIAS = 1.0625f;

// The place of the highest bit of a finite x > 0 that is not subnormal.
__device__ __forceinline__ int exponent_of(float x) { return (int)(__float_as_uint(x) >> 23) - 127; }
// 2^power, for |power| < 127.
__device__ __forceinline__ float exp2_of(int power) { return __uint_as_float((u32)(power + 127) << 23); }

// Magnitudes for which neither a scale nor a scaled score leaves the range.
static const float SMALLEST = 8.67361738e-19f, LARGEST = 1.15292150e+18f;  // 2^-60, 2^60
__device__ __forceinline__ bool usual(float norm) { return norm >= SMALLEST && norm <= LARGEST; }
// The power of two that brings `norm` to (1/2, 1], or below that by its rounding.
__device__ __forceinline__ float scale_of(float norm) { return exp2_of(-1 - exponent_of(norm)); }

__device__ __forceinline__ bool usable(const Header* header) {
    return header->bad == 0 && usual(__uint_as_float(header->norm)) && __uint_as_float(header->half_norm) <= LARGEST;
}
__device__ __forceinline__ float scale_of(const Header* header) { return scale_of(__uint_as_float(header->norm)); }

// A root of a sum of up to 4,096 squares, computed in f64: not below what it would be without rounding.
__device__ __forceinline__ float root_up(double sum) { return __double2float_ru(sqrt(sum) * (1.0 + 1e-11)); }

// Word (row, column pair) of rows in the order in which mma reads them: 16 rows, 16 columns, a lane's four words.
__device__ __forceinline__ u64 row_word(u64 row, u32 column, u32 steps) {
    u32 r = (u32)(row & 15), c = column & 15;
    u32 lane = (r & 7) * 4 + ((c & 7) >> 1), word = (r >> 3) + 2 * (c >> 3);
    return (((row >> 4) * steps + (column >> 4)) * 32 + lane) * 4 + word;
}
// Word (code, column pair) of codes: a lane's `words` words of 8 codes, cut into pieces of four words for all lanes.
__device__ __forceinline__ u64 code_word(u64 code, u32 column, u32 words) {
    u32 lane = (u32)(code & 7) * 4 + ((column & 7) >> 1);
    u64 at = (code >> 3) * words + (column >> 3);
    return ((at >> 2) * 32 + lane) * 4 + (at & 3);
}

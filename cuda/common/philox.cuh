// Philox4x32-10 and the keyed bijection of 0..n: src/rng.rs has the contract.
#pragma once
#include "common/types.cuh"

// The first word of ten rounds on the counter (c0, c1, c2, c3).
__device__ __forceinline__ u32 philox_first(u32 key0, u32 key1, u32 c0, u32 c1, u32 c2, u32 c3) {
    #pragma unroll
    for (u32 round = 0; round < 10; round++) {
        u32 high_a = __umulhi(0xD2511F53u, c0), low_a = 0xD2511F53u * c0;
        u32 high_b = __umulhi(0xCD9E8D57u, c2), low_b = 0xCD9E8D57u * c2;
        c0 = high_b ^ c1 ^ key0;
        c1 = low_b;
        c2 = high_a ^ c3 ^ key1;
        c3 = low_a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return c0;
}

struct Permutation {
    u32 key0, key1, tweak0, tweak1;
    u32 n;
    u32 half_bits;
};

__device__ __forceinline__ u32 feistel(const Permutation& of, u32 i) {
    u32 mask = (1u << of.half_bits) - 1, left = i >> of.half_bits, right = i & mask;
    #pragma unroll 1
    for (u32 round = 0; round < 4; round++) {
        u32 mixed = philox_first(of.key0, of.key1, right, round, of.tweak0, of.tweak1);
        u32 next = left ^ (mixed & mask);
        left = right;
        right = next;
    }
    return left << of.half_bits | right;
}

// The image of i < n, for n up to 2^30.
__device__ __forceinline__ u32 permuted(const Permutation& of, u32 i) {
    u32 image = feistel(of, i);
    #pragma unroll 1
    while (image >= of.n) image = feistel(of, image);
    return image;
}

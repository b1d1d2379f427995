// Sums and prefix sums over the threads of a warp and of a block.
#pragma once
#include "common/lanes.cuh"

__device__ __forceinline__ u64 warp_sum(u64 value) {
    for (u32 d = 16; d > 0; d >>= 1) value += __shfl_xor_sync(ALL, value, (int)d);
    return value;
}

// Room in shared memory for the functions below: a word for each warp.
struct Room { u32 sums[32]; };

// The sum over the block's threads before this one, and over all of them. Blocks are whole warps.
__device__ __forceinline__ u32 before_in_block(u32 value, Room& room, u32& all) {
    u32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    u32 until = value;
    for (u32 d = 1; d < 32; d <<= 1) {
        u32 other = __shfl_up_sync(ALL, until, d);
        if (lane >= d) until += other;
    }
    if (lane == 31) room.sums[warp] = until;
    __syncthreads();
    u32 sum = lane < warps ? room.sums[lane] : 0;
    // The room may be used again.
    __syncthreads();
    for (u32 d = 1; d < 32; d <<= 1) {
        u32 other = __shfl_up_sync(ALL, sum, d);
        if (lane >= d) sum += other;
    }
    all = __shfl_sync(ALL, sum, 31);
    u32 earlier = __shfl_sync(ALL, sum, (int)(warp - 1) & 31);
    return (warp == 0 ? 0 : earlier) + until - value;
}

// Of numbers for each block, the sum before this block and the sum of all.
__device__ __forceinline__ u32 before_block(const u32* of_block, u32 blocks, Room& room, u32& all) {
    u32 earlier = 0, sum = 0;
    for (u32 b = threadIdx.x; b < blocks; b += blockDim.x) {
        u32 n = of_block[b];
        sum += n;
        if (b < blockIdx.x) earlier += n;
    }
    u32 before;
    before_in_block(earlier, room, before);
    before_in_block(sum, room, all);
    return before;
}

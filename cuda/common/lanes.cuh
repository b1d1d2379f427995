// Reductions over a row: 32 virtual lanes and one tree. A row has `width` threads, a power of two up to 32.
#pragma once
#include "common/types.cuh"

static const u32 ALL = 0xFFFFFFFFu;

// The row that this thread works on, and its place among the row's threads. Every thread of a warp
// stays, so that all can shuffle; those past the last row do not write.
struct Lane {
    u64 row;
    u32 at;
    u32 width;
    bool active;
};

__device__ __forceinline__ Lane lane_of(u32 rows, u32 width) {
    Lane lane;
    u32 per_block = blockDim.x / width;
    lane.row = (u64)blockIdx.x * per_block + threadIdx.x / width;
    lane.at = threadIdx.x & (width - 1);
    lane.width = width;
    lane.active = lane.row < rows;
    // Work on some row in any case.
    if (!lane.active) lane.row = rows - 1;
    return lane;
}

__device__ __forceinline__ float broadcast(const Lane& lane, float value) {
    return __shfl_sync(ALL, value, 0, (int)lane.width);
}

// The tree 16-8-4-2-1, to all of the row's threads; lanes beyond `width` are +0.
__device__ __forceinline__ float tree32(const Lane& lane, float sum) {
    if (lane.width < 32) sum = __fadd_rn(sum, 0.0f);
    for (u32 w = lane.width >> 1; w > 0; w >>= 1) sum = __fadd_rn(sum, __shfl_down_sync(ALL, sum, w, (int)lane.width));
    return broadcast(lane, sum);
}

// The largest over the row's threads; NaN never is.
__device__ __forceinline__ float max32(const Lane& lane, float value) {
    for (u32 w = lane.width >> 1; w > 0; w >>= 1) {
        float other = __shfl_xor_sync(ALL, value, (int)w, (int)lane.width);
        value = other > value ? other : value;
    }
    return value;
}

// Whether `value` holds for any of the row's threads.
__device__ __forceinline__ bool any32(const Lane& lane, bool value) {
    u32 first = (threadIdx.x & 31u) & ~(lane.width - 1);
    u32 mine = lane.width == 32 ? ALL : ((1u << lane.width) - 1) << first;
    return (__ballot_sync(ALL, value) & mine) != 0;
}

// Σ a_i · b_i.
__device__ __forceinline__ float dot32(const Lane& lane, const float* a, const float* b, u32 dim) {
    float sum = 0.0f;
    for (u32 i = lane.at; i < dim; i += 32) sum = __fmaf_rn(a[i], b[i], sum);
    return tree32(lane, sum);
}

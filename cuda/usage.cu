// Counts per code, and dropping unused codes: src/ops/usage.rs has the contract.
#include "common/atomics.cuh"
#include "common/scan.cuh"

// -- reference: one thread a row, or for everything

template <typename C>
__device__ void count_ref(const C* codes, const float* weights, u32 rows, u32 count, u32 op, u64* counts,
                          Status* status) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    u32 k = code_of(codes, row, count, status, op);
    if (weight_of(weights, row, status, op) > 0.0f && k != NO_CODE) count_u64(counts + k, 1);
}

extern "C" __global__ void count_ref_u32(const u32* codes, const float* weights, u32 rows, u32 count, u32 op,
                                         u64* counts, Status* status) {
    count_ref(codes, weights, rows, count, op, counts, status);
}
extern "C" __global__ void count_ref_u16(const u16* codes, const float* weights, u32 rows, u32 count, u32 op,
                                         u64* counts, Status* status) {
    count_ref(codes, weights, rows, count, op, counts, status);
}

extern "C" __global__ void active_ref(const u64* counts, u32 count, u32* out) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    u32 used = 0;
    #pragma unroll 1
    for (u32 k = 0; k < count; k++) used += counts[k] > 0;
    *out = used;
}

extern "C" __global__ void prune_ref(const u64* counts, u32 count, u64 at_least, u32* remap, u32* out) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    u32 kept = 0;
    #pragma unroll 1
    for (u32 k = 0; k < count; k++) remap[k] = counts[k] >= at_least ? kept++ : NO_CODE;
    *out = kept;
}

extern "C" __global__ void compact_ref(
    const u8* table, const u32* remap, u32 count, u64 row_bytes, u32 op, u8* out, u32 room, Status* status) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    u32 next = 0;
    #pragma unroll 1
    for (u32 k = 0; k < count; k++) {
        if (remap[k] == NO_CODE) continue;
        if (remap[k] != next || next >= room) {
            refuse(status, BAD_REMAP, op, k, remap[k], remap[k] != next ? next : room);
            return;
        }
        next++;
    }
    #pragma unroll 1
    for (u32 k = 0; k < count; k++)
        #pragma unroll 1
        for (u64 i = 0; remap[k] != NO_CODE && i < row_bytes; i++)
            out[remap[k] * row_bytes + i] = table[k * row_bytes + i];
}

// -- tuned

// A run of rows of one code, within a warp, adds once.
template <typename C>
__device__ __forceinline__ void count_rows(
    const C* codes, const float* weights, u32 rows, u32 count, u32 op, u64* counts, Status* status) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 lane = threadIdx.x & 31, k = NO_CODE;
    if (row < rows) {
        k = code_of(codes, row, count, status, op);
        if (!(weight_of(weights, row, status, op) > 0.0f)) k = NO_CODE;
    }
    u32 former = __shfl_up_sync(ALL, k, 1);
    u32 heads = __ballot_sync(ALL, lane == 0 || former != k);
    u32 after = lane == 31 ? 0 : heads >> (lane + 1);
    u32 run = after ? (u32)__ffs((int)after) : 32 - lane;
    if (heads >> lane & 1 && k != NO_CODE) count_u64(counts + k, run);
}

extern "C" __global__ void __launch_bounds__(256) count_rows_u32(
    const u32* codes, const float* weights, u32 rows, u32 count, u32 op, u64* counts, Status* status) {
    count_rows(codes, weights, rows, count, op, counts, status);
}
extern "C" __global__ void __launch_bounds__(256) count_rows_u16(
    const u16* codes, const float* weights, u32 rows, u32 count, u32 op, u64* counts, Status* status) {
    count_rows(codes, weights, rows, count, op, counts, status);
}

// One block walks over all codes, so that nothing but the result is written.
static const u32 THREADS = 1024, EACH = 4;

extern "C" __global__ void __launch_bounds__(1024) active(const u64* counts, u32 count, u32* out) {
    __shared__ Room room;
    u32 used = 0, all;
    for (u64 k = threadIdx.x; k < count; k += THREADS) used += counts[k] > 0;
    before_in_block(used, room, all);
    if (threadIdx.x == 0) *out = all;
}

extern "C" __global__ void __launch_bounds__(1024) prune(
    const u64* counts, u32 count, u64 at_least, u32* remap, u32* out) {
    __shared__ Room room;
    u32 kept = 0;
    for (u64 base = 0; base < count; base += THREADS * EACH) {
        u64 first = base + threadIdx.x * EACH;
        bool keep[EACH];
        u32 own = 0, all;
        #pragma unroll
        for (u32 j = 0; j < EACH; j++) {
            keep[j] = first + j < count && counts[first + j] >= at_least;
            own += keep[j];
        }
        u32 next = kept + before_in_block(own, room, all);
        #pragma unroll
        for (u32 j = 0; j < EACH; j++) {
            if (first + j < count) remap[first + j] = keep[j] ? next : NO_CODE;
            next += keep[j];
        }
        kept += all;
    }
    if (threadIdx.x == 0) *out = kept;
}

// Notes the first entry that does not number kept rows in order, or has no room.
extern "C" __global__ void __launch_bounds__(1024) compact_check(const u32* remap, u32 count, u32 op, u32 places,
                                                                 Status* status) {
    __shared__ Room room;
    __shared__ u32 worst;
    if (threadIdx.x == 0) worst = NO_CODE;
    u32 kept = 0, bad = NO_CODE, bad_new = 0, bad_next = 0;
    for (u64 base = 0; base < count; base += THREADS * EACH) {
        u64 first = base + threadIdx.x * EACH;
        u32 to[EACH], own = 0, all;
        #pragma unroll
        for (u32 j = 0; j < EACH; j++) {
            to[j] = first + j < count ? remap[first + j] : NO_CODE;
            own += to[j] != NO_CODE;
        }
        u32 next = kept + before_in_block(own, room, all);
        #pragma unroll
        for (u32 j = 0; j < EACH; j++) {
            if (to[j] == NO_CODE) continue;
            if (bad == NO_CODE && (to[j] != next || next >= places)) {
                bad = (u32)(first + j);
                bad_new = to[j];
                bad_next = to[j] != next ? next : places;
            }
            next++;
        }
        kept += all;
    }
    __syncthreads();
    if (bad != NO_CODE) atomicMin(&worst, bad);
    __syncthreads();
    if (bad != NO_CODE && bad == worst) refuse(status, BAD_REMAP, op, bad, bad_new, bad_next);
    if (threadIdx.x == 0) status->bad_remap = worst != NO_CODE;
}

// Moves kept rows of `words` words each, `width` threads a row, where the check found nothing.
template <typename T>
__device__ __forceinline__ void compact(
    const T* table, const u32* remap, u32 count, u64 words, u32 width, T* out, u32 places, const Status* status) {
    Lane lane = lane_of(count, width);
    if (!lane.active || status->bad_remap) return;
    u32 to = remap[lane.row];
    if (to >= places) return;
    for (u64 i = lane.at; i < words; i += width) out[to * words + i] = table[lane.row * words + i];
}

extern "C" __global__ void __launch_bounds__(256) compact_u32(const u32* table, const u32* remap, u32 count, u64 words,
                                                              u32 width, u32* out, u32 places, const Status* status) {
    compact(table, remap, count, words, width, out, places, status);
}
extern "C" __global__ void __launch_bounds__(256) compact_u8(const u8* table, const u32* remap, u32 count, u64 words,
                                                             u32 width, u8* out, u32 places, const Status* status) {
    compact(table, remap, count, words, width, out, places, status);
}

extern "C" __global__ void __launch_bounds__(256) renumber(u32* codes, u32 rows, const u32* remap, u32 count, u32 op,
                                                           Status* status) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    u32 k = code_of(codes, row, count, status, op);
    if (k != NO_CODE) codes[row] = remap[k];
}

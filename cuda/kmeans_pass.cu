// What a pass of k-means gathers between its steps, and how it ends: src/cuda/kmeans/pass.rs launches these,
// src/kmeans.rs has the contract. No `_ref`: the sums have the CPU's order, sorting is by whole keys, and the rest is a thread an element.
#include "common/scan.cuh"

__device__ __forceinline__ bool is_finite(double x) {
    return ((u64)__double_as_longlong(x) & 0x7FF0000000000000ull) != 0x7FF0000000000000ull;
}

// -- sums

struct Sums {
    u64 rows;
    double weight;
    double squared;
};

// In the order of the rows, as the CPU adds: one warp makes the terms, two threads add them.
extern "C" __global__ void __launch_bounds__(32) pass_sums(const u32* codes, const float* weights,
                                                           const double* distances, u32 rows, Sums* sums) {
    __shared__ double terms[2][32];
    u32 lane = threadIdx.x;
    double sum = lane == 0 ? sums->weight : lane == 1 ? sums->squared : 0.0;
    u64 counted = 0;
    for (u64 first = 0; first < rows; first += 32) {
        u64 row = first + lane;
        bool has = row < rows && codes[row] != NO_CODE;
        double w = !has ? 0.0 : weights ? (double)weights[row] : 1.0;
        terms[0][lane] = w;
        terms[1][lane] = has ? w * distances[row] : 0.0;
        counted += __popc(__ballot_sync(ALL, has));
        __syncwarp();
        for (u32 j = 0; j < 32 && lane < 2; j++) sum += terms[lane][j];
        __syncwarp();
    }
    if (lane == 0) {
        sums->rows += counted;
        sums->weight = sum;
    }
    if (lane == 1) sums->squared = sum;
}

// The exponent that a pass begins with: `room` above the one found in the centres, or 0 where there is none.
extern "C" __global__ void pass_exponent(const int* found, int room, int* exponent) {
    if (threadIdx.x == 0) *exponent = found ? min(*found + room, 128) : 0;
}

// -- the farthest rows. An entry's first word holds the distance's bits, as f32, and the high half of the row's hash;
// its second the low half, and its index (kept rows come first, then the batch's) with all bits turned, so that of
// equal keys the first is the greatest. An entry of zeros stands for none.

struct Entry {
    u64 high;
    u64 low;
};

__device__ __forceinline__ bool less(const Entry& a, const Entry& b) {
    return a.high < b.high || (a.high == b.high && a.low < b.low);
}
__device__ __forceinline__ bool there(const Entry& a) { return (u32)a.low != 0; }
__device__ __forceinline__ u32 index_of(const Entry& a) { return ~(u32)a.low; }
__device__ __forceinline__ u64 hash_of(const Entry& a) { return a.high << 32 | a.low >> 32; }

// `hash` of src/ops/restart.rs: -0 counts as +0.
__device__ __forceinline__ u64 row_hash(const float* row, u32 dim) {
    u64 h = 0x243F6A8885A308D3ull;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) {
        h = (h ^ (u64)__float_as_uint(__fadd_rn(row[i], 0.0f))) * 0x9E3779B97F4A7C15ull;
        h = h << 29 | h >> 35;
    }
    return (h ^ h >> 32) * 0xD6E8FEB86659FD93ull;
}

// The `room` kept rows, this batch's, and none up to `padded`.
extern "C" __global__ void __launch_bounds__(256) farthest_enter(const float* x, const u32* codes,
                                                                 const double* distances, u32 rows, u32 dim, u32 room,
                                                                 u32 padded, const Entry* kept, Entry* entries) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= padded) return;
    Entry entry = {0, 0};
    if (at < room) {
        entry = kept[at];
        if (there(entry)) entry.low = entry.low >> 32 << 32 | ~(u32)at;
    } else if (at - room < rows) {
        u64 row = at - room;
        if (codes[row] != NO_CODE) {
            u64 hash = row_hash(x + row * dim, dim);
            // Distances order as their bits do.
            entry.high = (u64)__float_as_uint((float)distances[row]) << 32 | hash >> 32;
            entry.low = hash << 32 | ~(u32)at;
        }
    }
    entries[at] = entry;
}

// Bitonic sorting, greatest first (Batcher, "Sorting networks and their applications", AFIPS 1968). Blocks hold SORTED
// entries, and do the distances within them.
static const u32 SORTED = 1024;

__device__ __forceinline__ void order(Entry& a, Entry& b, bool falling) {
    if (less(a, b) == falling) {
        Entry swap = a;
        a = b;
        b = swap;
    }
}

// The first of the two that the pair `at` compares at distance `j`, a power of two.
__device__ __forceinline__ u64 first_of(u64 at, u32 j) { return (at & ~(u64)(j - 1)) << 1 | (at & (j - 1)); }

// Runs of `least` up to `most` entries.
extern "C" __global__ void __launch_bounds__(512) farthest_sort(u32 least, u32 most, Entry* entries) {
    __shared__ Entry own[SORTED];
    u64 base = (u64)blockIdx.x * SORTED;
    u32 low = threadIdx.x, high = threadIdx.x + SORTED / 2;
    own[low] = entries[base + low];
    own[high] = entries[base + high];
    __syncthreads();
    for (u32 run = least; run <= most; run <<= 1)
        for (u32 j = min(run, SORTED) >> 1; j > 0; j >>= 1) {
            u32 first = (u32)first_of(threadIdx.x, j);
            order(own[first], own[first + j], ((base + first) & run) == 0);
            __syncthreads();
        }
    entries[base + low] = own[low];
    entries[base + high] = own[high];
}

// Runs of `run` entries, the pairs at distance `j` of a block's size or more.
extern "C" __global__ void __launch_bounds__(256) farthest_step(u32 padded, u32 run, u32 j, Entry* entries) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= padded / 2) return;
    u64 first = first_of(at, j);
    order(entries[first], entries[first + j], (first & run) == 0);
}

// The first `room` distinct ones of the sorted entries, by one block; none behind them.
extern "C" __global__ void __launch_bounds__(1024) farthest_choose(const Entry* entries, u32 padded, u32 room,
                                                                   Entry* chosen) {
    __shared__ Room sums;
    u32 kept = 0;
    for (u64 base = 0; base < padded && kept < room; base += 1024) {
        u64 at = base + threadIdx.x;
        Entry entry = {0, 0};
        if (at < padded) entry = entries[at];
        bool first = there(entry);
        if (first && at > 0) {
            Entry former = entries[at - 1];
            first = former.high != entry.high || former.low >> 32 != entry.low >> 32;
        }
        u32 all, rank = kept + before_in_block(first, sums, all);
        if (first && rank < room) chosen[rank] = entry;
        kept += all;
    }
    for (u64 slot = kept + threadIdx.x; slot < room; slot += 1024) chosen[slot] = {0, 0};
}

// The chosen rows and their nearest centres, from among those kept and the batch.
extern "C" __global__ void __launch_bounds__(256) farthest_take(const Entry* chosen, u32 room, u32 dim, const float* x,
                                                                const u32* codes, const float* kept,
                                                                const u32* nearest, float* to, u32* to_nearest) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)room * dim) return;
    u64 slot = at / dim, i = at % dim;
    bool some = there(chosen[slot]);
    u64 index = index_of(chosen[slot]);
    bool old = index < room;
    to[at] = !some ? 0.0f : old ? kept[index * dim + i] : x[(index - room) * dim + i];
    if (i == 0) to_nearest[slot] = !some ? NO_CODE : old ? nearest[index] : codes[index - room];
}

extern "C" __global__ void __launch_bounds__(256) farthest_keep(const Entry* chosen, const float* rows,
                                                                const u32* of_rows, u32 room, u32 dim, Entry* entries,
                                                                float* kept, u32* nearest) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)room * dim) return;
    kept[at] = rows[at];
    if (at % dim != 0) return;
    entries[at / dim] = chosen[at / dim];
    nearest[at / dim] = of_rows[at / dim];
}

// -- empty centres

// Kept rows that may become one: their centre has not moved onto them.
extern "C" __global__ void __launch_bounds__(256) refill_usable(const Entry* kept, const float* rows,
                                                                const u32* nearest, u32 room, u32 dim,
                                                                const float* centres, u32* usable) {
    u64 slot = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (slot >= room) return;
    bool differs = false;
    if (there(kept[slot])) {
        const float* centre = centres + (u64)nearest[slot] * dim;
        for (u32 i = 0; i < dim && !differs; i++) differs = centre[i] != rows[slot * dim + i];
    }
    usable[slot] = differs;
}

// Of rows of one value, kept at several distances, only the farthest.
extern "C" __global__ void __launch_bounds__(256) refill_distinct(const Entry* kept, const u32* usable, u32 room,
                                                                  u32* distinct) {
    u64 slot = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (slot >= room) return;
    bool first = usable[slot];
    for (u64 earlier = 0; earlier < slot && first; earlier++)
        first = !(usable[earlier] && hash_of(kept[earlier]) == hash_of(kept[slot]));
    distinct[slot] = first;
}

// Lists the rows and the empty centres, both in order, by one block; and writes the pass's report.
extern "C" __global__ void __launch_bounds__(1024) refill_list(const u32* distinct, u32 room, const u64* hits,
                                                               u32 count, const Sums* sums, u32* list, u32* empty,
                                                               u64* report) {
    __shared__ Room scanned;
    u32 usable = 0, empties = 0, all;
    for (u64 base = 0; base < room; base += 1024) {
        u64 slot = base + threadIdx.x;
        bool some = slot < room && distinct[slot];
        u32 rank = usable + before_in_block(some, scanned, all);
        if (some) list[rank] = (u32)slot;
        usable += all;
    }
    for (u64 base = 0; base < count; base += 1024) {
        u64 k = base + threadIdx.x;
        bool none = k < count && hits[k] == 0;
        u32 rank = empties + before_in_block(none, scanned, all);
        if (none) empty[rank] = (u32)k;
        empties += all;
    }
    if (threadIdx.x != 0) return;
    report[0] = sums->rows;
    report[1] = (u64)__double_as_longlong(sums->weight);
    report[2] = (u64)__double_as_longlong(sums->squared);
    report[3] = empties;
    report[4] = min(empties, usable);
}

extern "C" __global__ void __launch_bounds__(256) refill(const u32* list, const u32* empty, const u64* report, u32 room,
                                                         u32 dim, const float* rows, double* seen, float* centres) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u64 j = at / dim, i = at % dim;
    if (j >= room || j >= report[4]) return;
    u64 k = empty[j];
    centres[k * dim + i] = rows[(u64)list[j] * dim + i];
    if (i == 0) seen[k] = 0.0;
}

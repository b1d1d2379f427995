// Exact sums per code, and moving averages over steps: src/ops/ema.rs has the contract.
#include "common/atomics.cuh"
#include "common/scan.cuh"
#include "common/unit.cuh"

// The integer that stands for a weight of 1, and the most weight that a code takes.
static const i64 ONE = 1ll << FRACTION_BITS, FULL = 1ll << (FRACTION_BITS + 22);
static const u32 INFINITE = 0x7F800000u;

// `value` rounded to an integer, to even, for |value| < 2^51: in [2^52, 2^53) the spacing of f64 is 1.
__device__ __forceinline__ i64 rounded(double value) {
    const double SHIFT = 6755399441055744.0;
    return __double_as_longlong(value + SHIFT) - __double_as_longlong(SHIFT);
}

__device__ __forceinline__ u32 magnitude_bits(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }

// Bits of 2^exponent, above which an element is refused; those of infinity for 128.
__device__ __forceinline__ u32 limit_bits(int exponent) {
    return exponent > 127 ? INFINITE : __float_as_uint(power_of_two(exponent));
}

// high · 2^32 + low in rows, rounded once to f64.
__device__ __forceinline__ double total_in_rows(u64 high, u64 low) {
    high += low >> 32;
    low &= 0xFFFFFFFFull;
    int bits = high ? 96 - __clzll((i64)high) : 0, shift = bits > 63 ? bits - 63 : 0;
    // 63 bits, the last of which says whether there was anything below: more than f64 holds.
    u64 top = high << (32 - shift) | low >> shift;
    top |= (low & ((1ull << shift) - 1)) != 0;
    return (double)top * wide_power_of_two(shift - FRACTION_BITS);
}

// Whether two totals are more than a code takes. Those that no rows give may be too large to add.
__device__ __forceinline__ bool too_much(i64 a, i64 b) { return b > 0 ? a > FULL - b : a + b > FULL; }

// An average that moves; below 2^-100 it becomes 0.
__device__ __forceinline__ float moved(double decay, float average, double value) {
    float to = (float)(decay * (double)average + (1.0 - decay) * value);
    return to < 7.88860905e-31f ? 0.0f : to;
}

// -- reference: one thread a row, a code, or for everything

extern "C" __global__ void exponent_ref(
    const float* x, const u32* codes, const float* weights, u32 rows, u32 dim, u32 op, u32* largest, Status* status) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    float w = weight_of(weights, row, status, op);
    if (codes[row] == NO_CODE || w == 0.0f) return;
    u32 most = 0;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) most = max(most, magnitude_bits(x[row * dim + i]));
    if (most < INFINITE) max_u32(largest, most);
}

extern "C" __global__ void accumulate_ref(const float* x, const u32* codes, const float* weights, u32 rows, u32 dim,
                                          u32 count, int exponent, u32 op, i64* totals, i64* sums, u32* left_out,
                                          Status* status) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    u32 k = code_of(codes, row, count, status, op);
    float w = weight_of(weights, row, status, op);
    if (k == NO_CODE || w == 0.0f) return;
    x += row * dim;
    u32 most = 0, beyond = dim;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) {
        u32 bits = magnitude_bits(x[i]);
        most = max(most, bits);
        if (beyond == dim && bits > limit_bits(exponent)) beyond = i;
    }
    if (most >= INFINITE) {
        if (left_out) count_u32(left_out, 1);
        return;
    }
    if (beyond < dim) {
        refuse(status, BEYOND_EXPONENT, op, row * dim + beyond, 0, 0);
        return;
    }
    i64 n = rounded((double)w * (double)ONE);
    if (fetch_add_i64(totals + k, n) > FULL - ONE) {
        add_i64(totals + k, -n);
        refuse(status, OVERFLOWN, op, row, k, count);
        return;
    }
    double scale = (double)w * wide_power_of_two(FRACTION_BITS - exponent);
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) add_i64(sums + (u64)k * dim + i, rounded((double)x[i] * scale));
}

extern "C" __global__ void clear_ref(u32 count, u32 dim, i64* totals, i64* sums) {
    u64 k = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count || totals[k] == 0) return;
    totals[k] = 0;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) sums[k * dim + i] = 0;
}

extern "C" __global__ void merge_ref(const i64* other_totals, const i64* other_sums, u32 count, u32 dim, u32 op,
                                     i64* totals, i64* sums, Status* status) {
    u64 k = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    if (too_much(totals[k], other_totals[k])) {
        refuse(status, OVERFLOWN, op, k, (u32)k, count);
        return;
    }
    totals[k] += other_totals[k];
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) sums[k * dim + i] += other_sums[k * dim + i];
}

extern "C" __global__ void update_means_ref(double decay, const i64* totals, const i64* sums, u32 count, u32 dim,
                                            int exponent, const float* cluster_size, float* mean, float* direction) {
    u64 k = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count || totals[k] <= 0) return;
    mean += k * dim;
    double old = decay * (double)cluster_size[k], fresh = (1.0 - decay) * weight_in_rows(totals[k]);
    bool some = false;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) {
        double sum = (double)sums[k * dim + i] * wide_power_of_two(exponent - FRACTION_BITS);
        mean[i] = (float)((old * (double)mean[i] + (1.0 - decay) * sum) / (old + fresh));
        some = some || mean[i] != 0.0f;
    }
    if (!direction || !some) return;
    direction += k * dim;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) direction[i] = mean[i];
    unit_ref(direction, dim);
}

extern "C" __global__ void observe_ref(double decay, const i64* totals, u32 count, float* cluster_size, float* exposure,
                                       double* last_seen, double* rows_seen) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    u64 high = 0, low = 0;
    #pragma unroll 1
    for (u32 k = 0; k < count; k++) {
        high += (u64)totals[k] >> 32;
        low += (u64)totals[k] & 0xFFFFFFFFull;
    }
    double total = total_in_rows(high, low), seen = *rows_seen + total;
    *rows_seen = seen;
    #pragma unroll 1
    for (u32 k = 0; k < count; k++) {
        exposure[k] = moved(decay, exposure[k], total);
        cluster_size[k] = moved(decay, cluster_size[k], weight_in_rows(totals[k]));
        if (totals[k] > 0) last_seen[k] = seen;
    }
}

// -- tuned: a warp takes 32 rows. First a thread knows one row's code and weight; the elements are then read by
// `width` threads a row, so that 32 / width groups of threads walk `width` rows each.

// Rows whose elements a thread holds at a time.
static const u32 BATCH = 8;

struct Tile {
    u64 first;
    u64 rows;
    u32 lane;
    // The thread's place in its group, the group's first thread (its first row, too) and all of its threads.
    u32 at;
    u32 base;
    u32 mine;
    u32 width;
};

__device__ __forceinline__ Tile tile_of(u32 rows, u32 width) {
    Tile tile;
    tile.first = ((u64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * 32;
    tile.rows = rows;
    tile.lane = threadIdx.x & 31;
    tile.at = tile.lane & (width - 1);
    tile.base = tile.lane & ~(width - 1);
    tile.mine = width == 32 ? ALL : ((1u << width) - 1) << tile.base;
    tile.width = width;
    return tile;
}

// Element `i` of the group's rows from the `from`-th on; 0 beyond the group, the rows or the row.
__device__ __forceinline__ void load(const Tile& tile, const float* x, u32 from, u32 i, u32 dim, float (&a)[BATCH]) {
    #pragma unroll
    for (u32 u = 0; u < BATCH; u++) {
        u64 row = tile.first + tile.base + from + u;
        a[u] = from + u < tile.width && row < tile.rows && i < dim ? x[row * dim + i] : 0.0f;
    }
}

extern "C" __global__ void exponent_start(u32* largest) { *largest = 0; }

extern "C" __global__ void __launch_bounds__(128) exponent_most(const float* x, const u32* codes, const float* weights,
                                                                u32 rows, u32 dim, u32 width, u32 op, u32* largest,
                                                                Status* status) {
    Tile tile = tile_of(rows, width);
    if (tile.first >= rows) return;
    u64 row = tile.first + tile.lane;
    bool counts = row < rows && weight_of(weights, row, status, op) > 0.0f && codes[row] != NO_CODE;
    u32 counted = __ballot_sync(ALL, counts), most = 0;
    for (u32 from = 0; from < width; from += BATCH) {
        u32 bits[BATCH] = {};
        for (u32 i = tile.at; i < dim; i += 32) {
            float a[BATCH];
            load(tile, x, from, i, dim, a);
            #pragma unroll
            for (u32 u = 0; u < BATCH; u++) bits[u] = max(bits[u], magnitude_bits(a[u]));
        }
        #pragma unroll
        for (u32 u = 0; u < BATCH; u++) {
            u32 odd = __ballot_sync(ALL, bits[u] >= INFINITE);
            bool in = from + u < width && counted >> ((tile.base + from + u) & 31) & 1;
            if (in && !(odd & tile.mine)) most = max(most, bits[u]);
        }
    }
    most = __reduce_max_sync(ALL, most);
    if (tile.lane == 0 && most) max_u32(largest, most);
}

// From the bits of the largest magnitude to the smallest E with magnitude <= 2^E.
extern "C" __global__ void exponent_finish(int* out) {
    u32 bits = (u32)*out;
    bool power = bits >> 23 ? (bits & 0x7FFFFFu) == 0 : (bits & (bits - 1)) == 0;
    *out = bits == 0 ? -149 : place(__uint_as_float(bits)) + (power ? 0 : 1);
}

extern "C" __global__ void __launch_bounds__(128) accumulate(
    const float* x, const u32* codes, const float* weights, u32 rows, u32 dim, u32 width, u32 count, int exponent,
    const int* exponent_there, u32 op, i64* totals, i64* sums, u32* left_out, Status* status) {
    Tile tile = tile_of(rows, width);
    if (tile.first >= rows) return;
    if (exponent_there) exponent = *exponent_there;
    u32 lane = tile.lane;
    u64 row = tile.first + lane;
    u32 k = NO_CODE, limit = limit_bits(exponent);
    float w = 0.0f;
    if (row < rows) {
        k = code_of(codes, row, count, status, op);
        w = weight_of(weights, row, status, op);
        if (w == 0.0f) k = NO_CODE;
    }
    // -- which rows count
    bool finite = true, within = true;
    for (u32 from = 0; from < width; from += BATCH) {
        u32 bits[BATCH] = {};
        for (u32 i = tile.at; i < dim; i += 32) {
            float a[BATCH];
            load(tile, x, from, i, dim, a);
            #pragma unroll
            for (u32 u = 0; u < BATCH; u++) bits[u] = max(bits[u], magnitude_bits(a[u]));
        }
        #pragma unroll
        for (u32 u = 0; u < BATCH; u++) {
            u32 odd = __ballot_sync(ALL, bits[u] >= INFINITE), beyond = __ballot_sync(ALL, bits[u] > limit);
            if (tile.at == from + u) {
                finite = !(odd & tile.mine);
                within = !(beyond & tile.mine);
            }
        }
    }
    u32 left = __popc(__ballot_sync(ALL, k != NO_CODE && !finite));
    if (lane == 0 && left && left_out) count_u32(left_out, left);
    if (!finite) k = NO_CODE;
    if (k != NO_CODE && !within) {
        u32 i = 0;
        while (i + 1 < dim && magnitude_bits(x[row * dim + i]) <= limit) i++;
        refuse(status, BEYOND_EXPONENT, op, row * dim + i, 0, 0);
        k = NO_CODE;
    }
    // -- weights: a run of rows of one code adds once
    u32 former = __shfl_up_sync(ALL, k, 1);
    u32 heads = __ballot_sync(ALL, lane == 0 || former != k);
    u32 after = lane == 31 ? 0 : heads >> (lane + 1), end = after ? lane + __ffs((int)after) : 32;
    i64 n = k == NO_CODE ? 0 : rounded((double)w * (double)ONE), sum = n;
    for (u32 d = 1; d < 32; d <<= 1) {
        i64 other = __shfl_down_sync(ALL, sum, d);
        if (lane + d < end) sum += other;
    }
    i64 last = __shfl_sync(ALL, n, (int)end - 1);
    int fits = 1;
    if (heads >> lane & 1 && k != NO_CODE && fetch_add_i64(totals + k, sum) + sum - last > FULL - ONE) {
        add_i64(totals + k, -sum);
        refuse(status, OVERFLOWN, op, row, k, count);
        fits = 0;
    }
    u32 head = 31 - __clz((int)(heads & ((2u << lane) - 1)));
    if (!__shfl_sync(ALL, fits, (int)head)) k = NO_CODE;
    // -- sums: w·x is exact in f64, and so is its product with a power of two: one rounding. A thread holds its
    // element's sum while the code stays the same.
    double scale = (double)w * wide_power_of_two(FRACTION_BITS - exponent);
    for (u32 start = 0; start < dim; start += 32) {
        u32 i = start + tile.at, held = NO_CODE;
        bool there = i < dim;
        i64 terms = 0;
        for (u32 from = 0; from < width; from += BATCH) {
            float a[BATCH];
            load(tile, x, from, i, dim, a);
            #pragma unroll
            for (u32 u = 0; u < BATCH; u++) {
                int source = (int)((tile.base + from + u) & 31);
                u32 code = __shfl_sync(ALL, k, source);
                double factor = __shfl_sync(ALL, scale, source);
                if (from + u >= width) code = NO_CODE;
                if (code != held) {
                    if (held != NO_CODE && there) add_i64(sums + (u64)held * dim + i, terms);
                    held = code;
                    terms = 0;
                }
                // A row that does not count may hold NaN.
                if (code != NO_CODE) terms += rounded((double)a[u] * factor);
            }
        }
        if (held != NO_CODE && there) add_i64(sums + (u64)held * dim + i, terms);
    }
}

// A warp looks at 32 codes and writes the rows of those that were hit.
extern "C" __global__ void __launch_bounds__(256) clear(u32 count, u32 dim, i64* totals, i64* sums) {
    Tile tile = tile_of(count, 32);
    if (tile.first >= count) return;
    u64 k = tile.first + tile.lane;
    bool hit = k < count && totals[k] != 0;
    if (hit) totals[k] = 0;
    u32 hits = __ballot_sync(ALL, hit);
    while (hits) {
        i64* row = sums + (tile.first + __ffs((int)hits) - 1) * dim;
        hits &= hits - 1;
        for (u32 i = tile.lane; i < dim; i += 32) row[i] = 0;
    }
}

extern "C" __global__ void __launch_bounds__(256) merge(
    const i64* other_totals, const i64* other_sums, u32 count, u32 dim, u32 op, i64* totals, i64* sums,
    Status* status) {
    Tile tile = tile_of(count, 32);
    if (tile.first >= count) return;
    u64 k = tile.first + tile.lane;
    i64 n = k < count ? other_totals[k] : 0;
    bool hit = n != 0;
    if (hit) {
        if (too_much(totals[k], n)) {
            refuse(status, OVERFLOWN, op, k, (u32)k, count);
            hit = false;
        } else {
            totals[k] += n;
        }
    }
    u32 hits = __ballot_sync(ALL, hit);
    while (hits) {
        u64 at = (tile.first + __ffs((int)hits) - 1) * dim;
        hits &= hits - 1;
        for (u32 i = tile.lane; i < dim; i += 32) sums[at + i] += other_sums[at + i];
    }
}

// A sum to the coarser unit 2^shift, rounded once to even.
__device__ __forceinline__ i64 coarsened(i64 sum, u32 shift) {
    // Magnitudes are up to 2^62: nothing of them, nor a half that is rounded up, is left after 63 places.
    i64 coarse = 0;
    if (shift < 63) {
        coarse = sum >> shift;
        u64 rest = (u64)sum - ((u64)coarse << shift), half = 1ull << shift >> 1;
        coarse += rest > half || (rest == half && half > 0 && coarse & 1) ? 1 : 0;
    }
    return coarse;
}

extern "C" __global__ void __launch_bounds__(256) coarsen(u64 len, u32 shift, i64* sums) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < len && sums[at] != 0) sums[at] = coarsened(sums[at], shift);
}

// As `coarsen`, by exponents that only the device knows: the sums' own, and the one that is needed.
extern "C" __global__ void __launch_bounds__(256) coarsen_there(u64 len, const int* exponent, const int* needed,
                                                                i64* sums) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    int shift = min(*needed - *exponent, 100);
    if (at < len && shift > 0 && sums[at] != 0) sums[at] = coarsened(sums[at], (u32)shift);
}

extern "C" __global__ void exponent_raise(const int* needed, int* exponent) {
    if (threadIdx.x == 0 && *needed > *exponent) *exponent = *needed;
}

extern "C" __global__ void __launch_bounds__(256) zero(u64 words, u32* room) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < words) room[at] = 0;
}

extern "C" __global__ void __launch_bounds__(256) update_means(
    double decay, const i64* totals, const i64* sums, u32 count, u32 dim, u32 width, int exponent,
    const int* exponent_there, const float* cluster_size, float* mean, float* direction) {
    Lane lane = lane_of(count, width);
    if (exponent_there) exponent = *exponent_there;
    i64 n = totals[lane.row];
    lane.active = lane.active && n > 0;
    if (!__any_sync(ALL, lane.active)) return;
    mean += lane.row * dim;
    sums += lane.row * dim;
    float square = 0.0f;
    bool some = false;
    if (lane.active) {
        double fresh = 1.0 - decay, unit = wide_power_of_two(exponent - FRACTION_BITS);
        double old = decay * (double)cluster_size[lane.row], all = old + fresh * weight_in_rows(n);
        for (u32 i = lane.at; i < dim; i += 32) {
            float to = (float)((old * (double)mean[i] + fresh * ((double)sums[i] * unit)) / all);
            mean[i] = to;
            square = __fmaf_rn(to, to, square);
            some = some || to != 0.0f;
        }
    }
    if (!direction) return;
    square = tree32(lane, square);
    // A mean of zero length leaves the direction as it is.
    lane.active = any32(lane, some) && lane.active;
    unit(lane, mean, dim, lane.active ? square : 1.0f, direction + lane.row * dim);
}

// The weight of all codes, in halves, by block.
extern "C" __global__ void __launch_bounds__(256) observe_total(const i64* totals, u32 count, u64* parts) {
    __shared__ u64 halves[2][8];
    u64 high = 0, low = 0;
    for (u64 k = (u64)blockIdx.x * 256 + threadIdx.x; k < count; k += (u64)gridDim.x * 256) {
        u64 n = (u64)totals[k];
        high += n >> 32;
        low += n & 0xFFFFFFFFull;
    }
    high = warp_sum(high);
    low = warp_sum(low);
    if ((threadIdx.x & 31) == 0) {
        halves[0][threadIdx.x / 32] = high;
        halves[1][threadIdx.x / 32] = low;
    }
    __syncthreads();
    if (threadIdx.x < 2) {
        u64 sum = 0;
        for (u32 w = 0; w < 8; w++) sum += halves[threadIdx.x][w];
        parts[2 * blockIdx.x + threadIdx.x] = sum;
    }
}

// All blocks' halves to one f64, which goes to the place of the first; the rows seen move on.
extern "C" __global__ void __launch_bounds__(32) observe_seen(u64* parts, u32 blocks, double* rows_seen) {
    u64 high = 0, low = 0;
    for (u32 b = threadIdx.x; b < blocks; b += 32) {
        high += parts[2 * b];
        low += parts[2 * b + 1];
    }
    high = warp_sum(high);
    low = warp_sum(low);
    __syncwarp();
    if (threadIdx.x == 0) {
        double total = total_in_rows(high, low);
        parts[0] = (u64)__double_as_longlong(total);
        *rows_seen += total;
    }
}

extern "C" __global__ void __launch_bounds__(256) observe(
    double decay, const i64* totals, u32 count, const double* total, const double* rows_seen, float* cluster_size,
    float* exposure, double* last_seen) {
    u64 k = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    i64 n = totals[k];
    exposure[k] = moved(decay, exposure[k], *total);
    cluster_size[k] = moved(decay, cluster_size[k], weight_in_rows(n));
    if (n > 0) last_seen[k] = *rows_seen;
}

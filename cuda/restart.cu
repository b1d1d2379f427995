// Stale codes are replaced by rows of the batch: src/ops/restart.rs has the contract.
//
// The j-th stale code takes the j-th donor in the order of a keyed permutation. Everything here is a function of
// positions in that order and of ranks, so that no timing can show: of rows of one value the lowest position counts
// (an atomic minimum). One case remains that only the sequential loop decides: a row that equals its own code's old
// value, where that code is itself replaced before the row is asked. Such rows raise a flag, and then the sequential
// kernel does the work.
#include "common/atomics.cuh"
#include "common/philox.cuh"
#include "common/scan.cuh"

static const u32 EMPTY = 0xFFFFFFFFu, NO_SLOT = 0xFFFFFFFFu;
// Words of the scratch's head.
static const u32 STALE = 0, FLAG = 1;

struct Activity {
    float* cluster_size;
    float* exposure;
    double* last_seen;
    const double* rows_seen;
};

struct Rule { double share, patience; };

// DeviceRestarted of src/cuda/ops/restart.rs.
struct Restarted {
    u32 code, row;
    float relative_use, expected_hits;
};

// Whether code `k` is to be replaced, and why.
__device__ __forceinline__ bool is_stale(const Activity& of, u64 k, u32 count, const Rule& rule, Restarted& why) {
    double hits = (*of.rows_seen - of.last_seen[k]) / (double)count;
    if (hits < rule.patience) return false;
    float exposure = of.exposure[k];
    double use = exposure > 0.0f ? (double)of.cluster_size[k] * (double)count / (double)exposure : 0.0;
    why.code = (u32)k;
    why.relative_use = (float)use;
    why.expected_hits = (float)hits;
    return !(use >= rule.share);
}

__device__ __forceinline__ void reset(const Activity& of, u32 k) {
    of.cluster_size[k] = 0.0f;
    of.exposure[k] = 0.0f;
    of.last_seen[k] = *of.rows_seen;
}

// A share of a row's hash, which is the sum over its elements; -0 counts as +0.
__device__ __forceinline__ u32 mixed(float x, u32 i) {
    u32 h = __float_as_uint(__fadd_rn(x, 0.0f)) + (i + 1) * 0x9E3779B9u;
    h = (h ^ h >> 16) * 0x85EBCA6Bu;
    h = (h ^ h >> 13) * 0xC2B2AE35u;
    return h ^ h >> 16;
}

__device__ __forceinline__ bool equal(const float* a, const float* b, u32 dim) {
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++)
        if (a[i] != b[i]) return false;
    return true;
}

// The order of donors in a step, whose number is the host's, or the device's where `step_there` is given.
__device__ __forceinline__ Permutation order_of(u64 seed, u64 step, const u64* step_there, u32 rows, u32 half_bits) {
    if (step_there) step = *step_there;
    return {(u32)seed, (u32)(seed >> 32), (u32)step, (u32)(step >> 32), rows, half_bits};
}

// -- reference: the loop of the CPU, by one thread. The op launches it, too, with a flag that must be set.

extern "C" __global__ void __launch_bounds__(256) restart_ref(
    const float* x, const u32* codes, const float* weights, u32 rows, u32 dim, u32 count, double share, double patience,
    u64 seed, u64 step, const u64* step_there, u32 half_bits, float* cluster_size, float* exposure, double* last_seen,
    const double* rows_seen, float* codebook, float* mean, const u32* head, u32 slots, u32* table, Restarted* log,
    u32 room, u32 op, u32* summary, Status* status) {
    if (blockIdx.x != 0 || (head && (!head[STALE] || !head[FLAG]))) return;
    for (u32 slot = threadIdx.x; slot < slots; slot += blockDim.x) table[slot] = EMPTY;
    __syncthreads();
    if (threadIdx.x != 0) return;
    Activity activity = {cluster_size, exposure, last_seen, rows_seen};
    Rule rule = {share, patience};
    u32 stale = 0, restarted = 0, position = 0;
    #pragma unroll 1
    for (u32 k = 0; k < count; k++) {
        Restarted why;
        if (!is_stale(activity, k, count, rule, why)) continue;
        stale++;
        bool found = false;
        while (!found && restarted < room && position < rows) {
            u32 row = permuted(order_of(seed, step, step_there, rows, half_bits), position++);
            u32 code = code_of(codes, row, count, status, op), hash = 0;
            const float* value = x + (u64)row * dim;
            bool usable = weight_of(weights, row, status, op) > 0.0f && code != NO_CODE;
            #pragma unroll 1
            for (u32 i = 0; i < dim; i++) {
                usable = usable && is_finite(value[i]);
                hash += mixed(value[i], i);
            }
            if (!usable || equal(value, codebook + (u64)code * dim, dim)) continue;
            u32 slot = hash & (slots - 1);
            while (table[slot] != EMPTY && !equal(x + (u64)table[slot] * dim, value, dim))
                slot = (slot + 1) & (slots - 1);
            if (table[slot] != EMPTY) continue;
            table[slot] = row;
            why.row = row;
            found = true;
        }
        if (!found) continue;
        #pragma unroll 1
        for (u32 i = 0; i < dim; i++) {
            float value = x[(u64)why.row * dim + i];
            codebook[(u64)k * dim + i] = value;
            if (mean) mean[(u64)k * dim + i] = value;
        }
        reset(activity, k);
        log[restarted++] = why;
    }
    summary[0] = stale;
    summary[1] = restarted;
}

// -- parallel: six launches, the last of which is the loop above. All but the first return at once where no code is
// stale.

static const u32 TILE = 512;

// How many codes of each tile are stale.
extern "C" __global__ void __launch_bounds__(512) restart_judge(float* cluster_size, float* exposure, double* last_seen,
                                                                const double* rows_seen, u32 count, double share,
                                                                double patience, u32* stale_of_tile) {
    u64 k = (u64)blockIdx.x * TILE + threadIdx.x;
    Activity activity = {cluster_size, exposure, last_seen, rows_seen};
    Rule rule = {share, patience};
    Restarted why;
    u32 stale = (u32)__syncthreads_count(k < count && is_stale(activity, k, count, rule, why));
    if (threadIdx.x == 0) stale_of_tile[blockIdx.x] = stale;
}

// Stale codes in ascending order; the row at each position; an empty table.
extern "C" __global__ void __launch_bounds__(512) restart_list(
    float* cluster_size, float* exposure, double* last_seen, const double* rows_seen, u32 count, double share,
    double patience, u64 seed, u64 step, const u64* step_there, u32 half_bits, u32 rows, const u32* stale_of_tile,
    u32 tiles, u32* head, u32* list, u32* row_at, u32 slots, u32* table) {
    __shared__ Room room;
    u32 all, before = before_block(stale_of_tile, tiles, room, all), unused;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        head[STALE] = all;
        head[FLAG] = 0;
    }
    if (!all) return;
    u64 at = (u64)blockIdx.x * TILE + threadIdx.x;
    Activity activity = {cluster_size, exposure, last_seen, rows_seen};
    Rule rule = {share, patience};
    Restarted why;
    bool stale = at < count && is_stale(activity, at, count, rule, why);
    u32 rank = before + before_in_block(stale, room, unused);
    if (stale) list[rank] = (u32)at;
    Permutation order = order_of(seed, step, step_there, rows, half_bits);
    if (at < rows) row_at[at] = permuted(order, (u32)at);
    for (u64 slot = at; slot < slots; slot += (u64)gridDim.x * TILE) table[slot] = EMPTY;
}

// Of rows of one value, the lowest position gets the value's place in the table. A warp takes 32 positions: `width`
// threads look at a row's elements, then each thread finds its own row's place.
extern "C" __global__ void __launch_bounds__(128) restart_claim(
    const float* x, const u32* codes, const float* weights, u32 rows, u32 dim, u32 width, u32 count, double share,
    double patience, float* cluster_size, float* exposure, double* last_seen, const double* rows_seen,
    const float* codebook, u32* head, const u32* row_at, u32* slot_at, u32 slots, u32* table, u32 op, Status* status) {
    static const u32 BATCH = 4;
    u32 lane = threadIdx.x & 31;
    u64 first = ((u64)blockIdx.x * 4 + threadIdx.x / 32) * 32, position = first + lane;
    if (first >= rows || !head[STALE]) return;
    u32 row = 0, k = NO_CODE;
    if (position < rows) {
        row = row_at[position];
        k = code_of(codes, row, count, status, op);
        if (!(weight_of(weights, row, status, op) > 0.0f)) k = NO_CODE;
    }
    u32 at = lane & (width - 1), base = lane & ~(width - 1);
    u32 mine = width == 32 ? ALL : ((1u << width) - 1) << base;
    bool finite = true, differs = false;
    u32 hash = 0;
    for (u32 from = 0; from < width; from += BATCH) {
        bool odd[BATCH] = {}, other[BATCH] = {};
        u32 sum[BATCH] = {};
        const float* values[BATCH];
        const float* own[BATCH];
        bool there[BATCH];
        #pragma unroll
        for (u32 u = 0; u < BATCH; u++) {
            int source = (int)((base + from + u) & 31);
            u32 code = __shfl_sync(ALL, k, source);
            values[u] = x + (u64)__shfl_sync(ALL, row, source) * dim;
            own[u] = codebook + (u64)code * dim;
            there[u] = code != NO_CODE && from + u < width;
        }
        for (u32 i = at; i < dim; i += 32) {
            float a[BATCH], b[BATCH];
            #pragma unroll
            for (u32 u = 0; u < BATCH; u++) {
                a[u] = there[u] ? values[u][i] : 0.0f;
                b[u] = there[u] ? own[u][i] : 0.0f;
            }
            #pragma unroll
            for (u32 u = 0; u < BATCH; u++) {
                odd[u] = odd[u] || !is_finite(a[u]);
                other[u] = other[u] || a[u] != b[u];
                sum[u] += mixed(a[u], i);
            }
        }
        #pragma unroll
        for (u32 u = 0; u < BATCH; u++) {
            u32 odds = __ballot_sync(ALL, odd[u]), others = __ballot_sync(ALL, other[u]);
            for (u32 d = width >> 1; d > 0; d >>= 1) sum[u] += __shfl_xor_sync(ALL, sum[u], (int)d);
            if (at == from + u) {
                finite = !(odds & mine);
                differs = others & mine;
                hash = sum[u];
            }
        }
    }
    if (k != NO_CODE && finite && !differs) {
        Activity activity = {cluster_size, exposure, last_seen, rows_seen};
        Rule rule = {share, patience};
        Restarted why;
        if (is_stale(activity, k, count, rule, why)) max_u32(head + FLAG, 1);
    }
    u32 slot = NO_SLOT;
    if (k != NO_CODE && finite && differs) {
        slot = hash & (slots - 1);
        for (;;) {
            // A place once taken stays with its value: rows of one value all walk to the same.
            u32 there = atomicCAS(table + slot, EMPTY, (u32)position);
            if (there == EMPTY) break;
            if (equal(x + (u64)row_at[there] * dim, x + (u64)row * dim, dim)) {
                min_u32(table + slot, (u32)position);
                break;
            }
            slot = (slot + 1) & (slots - 1);
        }
    }
    if (position < rows) slot_at[position] = slot;
}

__device__ __forceinline__ bool is_donor(u64 position, u32 rows, const u32* slot_at, const u32* table) {
    if (position >= rows) return false;
    u32 slot = slot_at[position];
    return slot != NO_SLOT && table[slot] == (u32)position;
}

// How many positions of each tile hold donors.
extern "C" __global__ void __launch_bounds__(512) restart_count(u32 rows, const u32* head, const u32* slot_at,
                                                                const u32* table, u32* donors_of_tile) {
    if (!head[STALE]) return;
    u32 donors = (u32)__syncthreads_count(is_donor((u64)blockIdx.x * TILE + threadIdx.x, rows, slot_at, table));
    if (threadIdx.x == 0) donors_of_tile[blockIdx.x] = donors;
}

// The j-th stale code becomes the j-th donor.
extern "C" __global__ void __launch_bounds__(512) restart_apply(
    const float* x, u32 rows, u32 dim, u32 count, float* cluster_size, float* exposure, double* last_seen,
    const double* rows_seen, float* codebook, float* mean, const u32* head, const u32* list, const u32* row_at,
    const u32* slot_at, const u32* table, const u32* donors_of_tile, u32 tiles, Restarted* log, u32 places,
    u32* summary) {
    __shared__ Room room;
    __shared__ u32 code_of_donor[TILE], row_of_donor[TILE];
    u32 stale = head[STALE], wanted = min(stale, places), donors = 0, before = 0, here;
    if (stale && head[FLAG]) return;
    if (stale) before = before_block(donors_of_tile, tiles, room, donors);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        summary[0] = stale;
        summary[1] = min(wanted, donors);
    }
    if (before >= wanted) return;
    u64 position = (u64)blockIdx.x * TILE + threadIdx.x;
    bool donor = is_donor(position, rows, slot_at, table);
    u32 own = before_in_block(donor, room, here), rank = before + own;
    here = min(here, wanted - before);
    if (donor && own < here) {
        Activity activity = {cluster_size, exposure, last_seen, rows_seen};
        // That it is stale is known: no share is too high, and any patience has passed.
        Rule any = {__longlong_as_double(0x7FF0000000000000ll), __longlong_as_double((i64)0xFFF0000000000000ull)};
        Restarted why;
        is_stale(activity, list[rank], count, any, why);
        why.row = row_at[position];
        log[rank] = why;
        reset(activity, why.code);
        code_of_donor[own] = why.code;
        row_of_donor[own] = why.row;
    }
    __syncthreads();
    for (u32 j = threadIdx.x / 32; j < here; j += TILE / 32) {
        const float* value = x + (u64)row_of_donor[j] * dim;
        u64 to = (u64)code_of_donor[j] * dim;
        for (u32 i = threadIdx.x & 31; i < dim; i += 32) {
            codebook[to + i] = value[i];
            if (mean) mean[to + i] = value[i];
        }
    }
}

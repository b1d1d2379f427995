// The m best codes of each row, best first: src/ops/search/top.rs has the contract. One block a row.
//
// The m-th best key is found digit by digit, from the highest: scores are computed again for each digit rather than
// kept, so memory stays what the output takes. Then those above it are collected and sorted in the output itself.
#include "common/lanes.cuh"
#include "common/score.cuh"

struct Candidate {
    float score;
    u32 code;
};

// -- reference: one thread a row; each next best is looked for among all codes

template <typename E>
__device__ void top_ref(const E* x, const float* weights, const float* codebook, const float* half_norms, u32 rows,
                        u32 codes, u32 dim, u32 m, Candidate* best, Status* status, u32 op) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    bool searched = weight_of(weights, row, status, op) > 0.0f;
    u64 last = ~0ull;
    for (u32 j = 0; j < m; j++) {
        u64 next = 0;
        for (u32 k = 0; k < codes && searched && last != 0; k++) {
            float s = chain(x + row * dim, codebook + (u64)k * dim, dim, half_norms ? half_norms[k] : 0.0f, 0);
            u64 key = s == s ? key_of(s, k) : 0;
            if (key < last && key > next) next = key;
        }
        best[row * m + j] = {next ? score_of(next) : NO_SCORE, next ? ~(u32)next : NO_CODE};
        last = next;
    }
}

static const u32 THREADS = 256;

// -- tuned: `rows` rows from `begin` on

template <typename E>
__device__ __forceinline__ void top(const E* x, const float* weights, const float* codebook, const float* half_norms, u32 begin,
                                    u32 rows, u32 codes, u32 dim, u32 vector, u32 m, u64* keys, Status* status, u32 op) {
    __shared__ u32 histogram[256], wanted, digit, found;
    for (u64 at = blockIdx.x; at < rows; at += gridDim.x) {
        u64 row = begin + at;
        const E* q = x + row * dim;
        u64* mine = keys + at * m;
        bool searched = weight_of(weights, row, status, op) > 0.0f;
        auto key = [&](u32 k) -> u64 {
            float s = chain(q, codebook + (u64)k * dim, dim, half_norms ? half_norms[k] : 0.0f, vector);
            return s == s ? key_of(s, k) : 0;
        };
        // -- the m-th best key, or 1 where there are fewer
        u64 prefix = 0;
        u32 shift = 64;
        if (threadIdx.x == 0) wanted = m;
        bool all = !searched;
        while (shift > 0 && !all) {
            shift -= 8;
            histogram[threadIdx.x] = 0;
            __syncthreads();
            for (u32 k = threadIdx.x; k < codes; k += THREADS) {
                u64 of = key(k);
                if (of != 0 && (shift == 56 || of >> (shift + 8) == prefix)) atomicAdd(&histogram[(u32)(of >> shift) & 255], 1u);
            }
            __syncthreads();
            if (threadIdx.x == 0) {
                // From the highest digit down to the one that the m-th best has; 256 where there are fewer keys.
                u32 left = wanted, at = 256;
                for (u32 d = 256; d-- > 0 && at == 256;) {
                    if (histogram[d] >= left)
                        at = d;
                    else
                        left -= histogram[d];
                }
                digit = at;
                wanted = left;
                // All of this digit's keys are wanted: the lower digits do not matter.
                found = at < 256 && histogram[at] == left;
            }
            __syncthreads();
            if (digit == 256) {
                // Only possible at the first digit.
                prefix = 0;
                all = true;
            } else {
                prefix = prefix << 8 | digit;
                all = found != 0;
            }
            __syncthreads();
        }
        u64 least = prefix << shift;
        least = least == 0 ? 1 : least;
        // -- all from it on, in any order
        if (threadIdx.x == 0) found = 0;
        __syncthreads();
        for (u32 k = threadIdx.x; k < codes && searched; k += THREADS) {
            u64 of = key(k);
            if (of >= least) mine[atomicAdd(&found, 1u)] = of;
        }
        __syncthreads();
        for (u32 j = found + threadIdx.x; j < m; j += THREADS) mine[j] = 0;
        __syncthreads();
        // -- sorted by Batcher's odd-even merging, whose comparisons all go one way, so that any m will do
        for (u32 p = 1; p < m; p <<= 1)
            for (u32 s = p; s > 0; s >>= 1) {
                for (u32 i = threadIdx.x; i + s < m; i += THREADS) {
                    bool compared = i >= s % p && ((i - s % p) / s) % 2 == 0 && i / (2 * p) == (i + s) / (2 * p);
                    if (compared && mine[i] < mine[i + s]) {
                        u64 swap = mine[i];
                        mine[i] = mine[i + s];
                        mine[i + s] = swap;
                    }
                }
                __syncthreads();
            }
        // A key becomes its candidate in place.
        for (u32 j = threadIdx.x; j < m; j += THREADS) {
            u64 of = mine[j];
            ((Candidate*)mine)[j] = {of ? score_of(of) : NO_SCORE, of ? ~(u32)of : NO_CODE};
        }
        __syncthreads();
    }
}

// The m-th candidate's code.
extern "C" __global__ void __launch_bounds__(256) search_mth(const Candidate* best, u32 rows, u32 m, u32* codes) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row < rows) codes[row] = best[row * m + m - 1].code;
}

#define TOP(SUFFIX, E)                                                                                                   \
    extern "C" __global__ void search_top_ref_##SUFFIX(const E* x, const float* weights, const float* codebook,          \
                                                       const float* half_norms, u32 rows, u32 codes, u32 dim, u32 m,     \
                                                       Candidate* best, Status* status, u32 op) {                        \
        top_ref(x, weights, codebook, half_norms, rows, codes, dim, m, best, status, op);                                \
    }                                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) search_top_##SUFFIX(                                               \
        const E* x, const float* weights, const float* codebook, const float* half_norms, u32 begin, u32 rows,           \
        u32 codes, u32 dim, u32 vector, u32 m, u64* keys, Status* status, u32 op) {                                      \
        top(x, weights, codebook, half_norms, begin, rows, codes, dim, vector, m, keys, status, op);                     \
    }
TOP(f32, float)
TOP(f16, f16)
TOP(bf16, bf16)

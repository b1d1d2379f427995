// The nearest code of each row, exactly: src/ops/search.rs has the contract, certificate.md the proof.
//
//   search_rows     rows to f16, in the order in which mma reads them, with what the bound needs
//   search_coarse_* every score in f16 by mma; only maxima of groups of codes are kept
//   search_rescore  groups that could hold the nearest code, in f32; rows for which that is not clear are listed
//   search_exact    listed rows against all codes in f32
//   search_finish   their codes
//
// Nothing here waits for the host: what a row needs is decided on the device.
#include "common/coarse.cuh"
#include "common/lanes.cuh"
#include "common/ptx.cuh"
#include "common/score.cuh"

// Codes are stored as u32, or as u16 where `wide` is 0.
struct Found {
    void* codes;
    float* scores;
    u32 wide;
    __device__ __forceinline__ void put(u64 row, u32 code, float score) const {
        if (wide)
            ((u32*)codes)[row] = code;
        else
            ((u16*)codes)[row] = (u16)code;
        if (scores) scores[row] = score;
    }
};

// -- reference: one thread a row, the contract's loops

template <typename E>
__device__ void search_ref(const E* x, const float* weights, const float* codebook, const float* half_norms, u32 rows,
                           u32 codes, u32 dim, Found found, Status* status, u32 op) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    float best = NO_SCORE;
    u32 code = NO_CODE;
    if (weight_of(weights, row, status, op) > 0.0f) {
        for (u32 k = 0; k < codes; k++) {
            float s = half_norms ? half_norms[k] : 0.0f;
            #pragma unroll 1
            for (u32 i = 0; i < dim; i++) s = __fmaf_rn(to_f32(x[row * dim + i]), codebook[(u64)k * dim + i], s);
            if (s > best || (code == NO_CODE && s == s)) {
                best = s;
                code = k;
            }
        }
    }
    found.put(row, code, best);
}

// -- rows

// Rows up to `padded` as f16, `width` threads each; zeros beyond the last.
template <typename E>
__device__ void search_rows(const E* x, u32 rows, u32 padded, u32 dim, u32 width, u32 steps, const Header* header, u32 l2,
                            u32* fragments, Row* infos) {
    Lane lane = lane_of(padded, width);
    bool real = lane.row < rows;
    const E* q = x + (real ? lane.row : 0) * dim;
    double square = 0.0;
    for (u32 i = lane.at; i < dim; i += width) {
        double v = real ? to_f32(q[i]) : 0.0f;
        square += v * v;
    }
    for (u32 w = width >> 1; w > 0; w >>= 1) square += __shfl_xor_sync(ALL, square, (int)w, (int)width);
    float norm = root_up(square);
    // Cosine: any scale serves. L2: h is in the codes' units, so rows must be.
    bool good = real && usable(header) && usual(norm);
    float scale = !good ? 0.0f : l2 ? scale_of(header) : scale_of(norm);
    double residual = 0.0, coarse = 0.0;
    for (u32 i = 2 * lane.at; i < 16 * steps; i += 2 * width) {
        float a = i < dim && good ? to_f32(q[i]) : 0.0f, b = i + 1 < dim && good ? to_f32(q[i + 1]) : 0.0f;
        u32 packed = pack_f16(__fmul_rn(a, scale), __fmul_rn(b, scale));
        if (lane.active) fragments[row_word(lane.row, i, steps)] = packed;
        double l = low_f16(packed), h = high_f16(packed);
        double dl = (double)a * (double)scale - l, dh = (double)b * (double)scale - h;
        residual += dl * dl + dh * dh;
        coarse += l * l + h * h;
    }
    for (u32 w = width >> 1; w > 0; w >>= 1) {
        residual += __shfl_xor_sync(ALL, residual, (int)w, (int)width);
        coarse += __shfl_xor_sync(ALL, coarse, (int)w, (int)width);
    }
    // An element beyond f16's range has made these infinite or NaN.
    good = good && coarse < 1e9 && residual < 1e9;
    if (lane.active && lane.at == 0) {
        Row info;
        info.residual = good ? root_up(residual) : -1.0f;
        info.norm = good ? root_up(square * (double)scale * (double)scale) : 0.0f;
        info.coarse_norm = good ? root_up(coarse) : 0.0f;
        info.pad = 0.0f;
        infos[lane.row] = info;
    }
}

// -- the coarse pass

// A class of columns' maxima over chunks, for one row.
template <bool L2>
struct Maxima {
    int best, second;
    u32 chunk;
    __device__ __forceinline__ void clear() {
        best = second = lowest();
        chunk = 0;
    }
    static __device__ __forceinline__ int lowest() { return L2 ? (int)0xFF800000 : 0; }
    // Cosine scores are biased above zero, where integers order as floats do.
    static __device__ __forceinline__ int larger(int a, int b) {
        return L2 ? __float_as_int(fmaxf(__int_as_float(a), __int_as_float(b))) : max(a, b);
    }
    static __device__ __forceinline__ int largest(int m, float a, float b) {
        return larger(larger(m, __float_as_int(a)), __float_as_int(b));
    }
    __device__ __forceinline__ void take(int value, u32 at) {
        bool beats = L2 ? __int_as_float(value) > __int_as_float(best) : value > best;
        second = larger(second, beats ? best : value);
        best = beats ? value : best;
        chunk = beats ? at : chunk;
    }
};

static const u32 NARROW_TILES = 4;  // 16-row tiles of a warp; a block has eight warps

static const u32 STAGES = 4;

// Up to 64 dimensions: rows stay in registers, codes stream through shared memory. WORDS: f16 pairs of a lane for 8
// codes, 1 for up to 8 dimensions, then 2 for each 16; CHUNK: codes of a stage.
template <u32 WORDS, u32 CHUNK, bool L2>
__device__ __forceinline__ void coarse_narrow(const uint4* rows, const uint4* copy, const float* half_norms,
                                              const Header* header, u32 padded_rows, u32 chunks, u32 per_split,
                                              Entry* entries) {
    const u32 STEPS = (WORDS + 1) / 2, PIECES = CHUNK / 8 * WORDS / 4, TILES = NARROW_TILES;
    __shared__ __align__(16) uint4 stage[STAGES][PIECES * 32];
    __shared__ __align__(16) float halves[L2 ? STAGES : 1][L2 ? CHUNK : 4];
    if (!usable(header)) return;
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u32 first_tile = (blockIdx.x * 8 + warp) * TILES;
    u32 a[TILES][STEPS][4];
    #pragma unroll
    for (u32 m = 0; m < TILES; m++)
        #pragma unroll
        for (u32 s = 0; s < STEPS; s++) {
            uint4 piece = rows[((u64)(first_tile + m) * STEPS + s) * 32 + lane];
            a[m][s][0] = piece.x;
            a[m][s][1] = piece.y;
            a[m][s][2] = piece.z;
            a[m][s][3] = piece.w;
        }
    Maxima<L2> maxima[TILES][2];
    #pragma unroll
    for (u32 m = 0; m < TILES; m++) {
        maxima[m][0].clear();
        maxima[m][1].clear();
    }
    u32 first = blockIdx.y * per_split, end = min(first + per_split, chunks);
    auto fetch = [&](u32 chunk) {
        if (chunk < end) {
            const uint4* from = copy + (u64)chunk * (PIECES * 32);
            for (u32 i = threadIdx.x; i < PIECES * 32; i += 256) cp_async16(shared_address(&stage[chunk % STAGES][i]), from + i);
            if (L2 && threadIdx.x < CHUNK / 4)
                cp_async16(shared_address(&halves[chunk % STAGES][threadIdx.x * 4]),
                           half_norms + (u64)chunk * CHUNK + threadIdx.x * 4);
        }
        cp_async_commit();
    };
    for (u32 s = 0; s + 1 < STAGES; s++) fetch(first + s);
    for (u32 chunk = first; chunk < end; chunk++) {
        cp_async_wait<STAGES - 2>();
        // The chunk is there for all, and all have left the stage that is fetched into next.
        __syncthreads();
        fetch(chunk + STAGES - 1);
        const uint4* pieces = stage[chunk % STAGES];
        int most[TILES][2];
        #pragma unroll
        for (u32 m = 0; m < TILES; m++) most[m][0] = most[m][1] = Maxima<L2>::lowest();
        #pragma unroll 2
        for (u32 n = 0; n < CHUNK / 8; n += WORDS < 4 ? 4 / WORDS : 1) {
            // The tiles that the next piece has words of: four, two, or one that takes WORDS / 4 pieces.
            uint4 piece[WORDS < 4 ? 1 : WORDS / 4];
            #pragma unroll
            for (u32 p = 0; p < (WORDS < 4 ? 1 : WORDS / 4); p++) piece[p] = pieces[(n * WORDS / 4 + p) * 32 + lane];
            #pragma unroll
            for (u32 t = 0; t < (WORDS < 4 ? 4 / WORDS : 1); t++) {
                float start[4] = {BIAS, BIAS, BIAS, BIAS};
                if (L2) {
                    float2 h = *(const float2*)&halves[chunk % STAGES][(n + t) * 8 + 2 * (lane & 3)];
                    start[0] = start[2] = h.x;
                    start[1] = start[3] = h.y;
                }
                #pragma unroll
                for (u32 m = 0; m < TILES; m++) {
                    float d[4];
                    if (WORDS == 1) {
                        u32 b = t == 0 ? piece[0].x : t == 1 ? piece[0].y : t == 2 ? piece[0].z : piece[0].w;
                        mma_m16n8k8(d, a[m][0][0], a[m][0][1], b, start);
                    } else if (WORDS == 2) {
                        mma_m16n8k16(d, a[m][0], t == 0 ? piece[0].x : piece[0].z, t == 0 ? piece[0].y : piece[0].w, start);
                    } else {
                        mma_m16n8k16(d, a[m][0], piece[0].x, piece[0].y, start);
                        #pragma unroll
                        for (u32 s = 1; s < STEPS; s++) {
                            const uint4& of = piece[s / 2];
                            mma_m16n8k16(d, a[m][s], s & 1 ? of.z : of.x, s & 1 ? of.w : of.y, d);
                        }
                    }
                    most[m][0] = Maxima<L2>::largest(most[m][0], d[0], d[1]);
                    most[m][1] = Maxima<L2>::largest(most[m][1], d[2], d[3]);
                }
            }
        }
        #pragma unroll
        for (u32 m = 0; m < TILES; m++) {
            maxima[m][0].take(most[m][0], chunk);
            maxima[m][1].take(most[m][1], chunk);
        }
    }
    #pragma unroll
    for (u32 m = 0; m < TILES; m++)
        #pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u64 row = (u64)(first_tile + m) * 16 + half * 8 + lane / 4;
            const Maxima<L2>& of = maxima[m][half];
            entries[((u64)blockIdx.y * padded_rows + row) * 4 + (lane & 3)] = {(u32)of.best, (u32)of.second, of.chunk, 0};
        }
}

static const u32 WIDE_ROWS = 256, WIDE_CHUNK = 128;

// More than 64 dimensions: rows and codes stream through shared memory, 32 dimensions at a time. Warps stand 4 along
// the rows and 2 along the codes; a warp takes 64 rows × 64 codes.
template <bool L2>
__device__ __forceinline__ void coarse_wide(const uint4* rows, const uint4* copy, const float* half_norms,
                                            const Header* header, u32 padded_rows, u32 chunks, u32 per_split, u32 slices,
                                            Entry* entries) {
    const u32 A = WIDE_ROWS / 16 * 2 * 32, B = WIDE_CHUNK / 8 * 32;
    __shared__ __align__(16) uint4 stage[2][A + B];
    if (!usable(header)) return;
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, along = warp >> 1, across = warp & 1;
    u32 first_tile = blockIdx.x * (WIDE_ROWS / 16);
    Maxima<L2> maxima[4][2];
    #pragma unroll
    for (u32 m = 0; m < 4; m++) {
        maxima[m][0].clear();
        maxima[m][1].clear();
    }
    u32 first = blockIdx.y * per_split, end = min(first + per_split, chunks);
    // What is fetched next: 16 rows' two steps of a slice lie together, and so do 8 codes' words of a slice.
    u32 next_chunk = first, next_slice = 0, filled = 0;
    const uint4* a_from = rows + ((u64)(first_tile + threadIdx.x / 64) * slices) * 64 + threadIdx.x % 64;
    const uint4* b_from = copy + ((u64)(first * (WIDE_CHUNK / 8) + threadIdx.x / 32) * slices) * 32 + lane;
    auto fetch = [&]() {
        if (next_chunk < end) {
            u32 to = shared_address(stage[filled] + threadIdx.x);
            #pragma unroll
            for (u32 i = 0; i < A / 256; i++)
                cp_async16(to + i * 4096, a_from + (u64)(i * 4) * slices * 64 + next_slice * 64);
            #pragma unroll
            for (u32 i = 0; i < B / 256; i++)
                cp_async16(to + (A + i * 256) * 16, b_from + (u64)(i * 8) * slices * 32 + next_slice * 32);
            if (++next_slice == slices) {
                next_slice = 0;
                next_chunk++;
                b_from += (u64)(WIDE_CHUNK / 8) * slices * 32;
            }
        }
        filled ^= 1;
        cp_async_commit();
    };
    float d[4][8][4];
    u32 turn = 0;
    // One slice; the first of a chunk starts from the codes' h, or the bias.
    auto slice = [&](bool starts, u32 chunk) {
        cp_async_wait<0>();
        // The slice is there for all, and all have left the stage that is fetched into next.
        __syncthreads();
        fetch();
        const uint4* from = stage[turn];
        turn ^= 1;
        u32 a[4][2][4];
        #pragma unroll
        for (u32 m = 0; m < 4; m++)
            #pragma unroll
            for (u32 s = 0; s < 2; s++) {
                uint4 piece = from[((along * 4 + m) * 2 + s) * 32 + lane];
                a[m][s][0] = piece.x;
                a[m][s][1] = piece.y;
                a[m][s][2] = piece.z;
                a[m][s][3] = piece.w;
            }
        #pragma unroll
        for (u32 n = 0; n < 8; n++) {
            uint4 b = from[A + (across * 8 + n) * 32 + lane];
            float2 h = {BIAS, BIAS};
            if (L2 && starts) h = *(const float2*)&half_norms[(u64)chunk * WIDE_CHUNK + across * 64 + n * 8 + 2 * (lane & 3)];
            const float start[4] = {h.x, h.y, h.x, h.y};
            #pragma unroll
            for (u32 m = 0; m < 4; m++) {
                if (starts)
                    mma_m16n8k16(d[m][n], a[m][0], b.x, b.y, start);
                else
                    mma_m16n8k16(d[m][n], a[m][0], b.x, b.y, d[m][n]);
                mma_m16n8k16(d[m][n], a[m][1], b.z, b.w, d[m][n]);
            }
        }
    };
    fetch();
    for (u32 chunk = first; chunk < end; chunk++) {
        slice(true, chunk);
        #pragma unroll 1
        for (u32 s = 1; s < slices; s++) slice(false, chunk);
        #pragma unroll
        for (u32 m = 0; m < 4; m++) {
            int upper = Maxima<L2>::lowest(), lower = upper;
            #pragma unroll
            for (u32 n = 0; n < 8; n++) {
                upper = Maxima<L2>::largest(upper, d[m][n][0], d[m][n][1]);
                lower = Maxima<L2>::largest(lower, d[m][n][2], d[m][n][3]);
            }
            maxima[m][0].take(upper, chunk);
            maxima[m][1].take(lower, chunk);
        }
    }
    #pragma unroll
    for (u32 m = 0; m < 4; m++)
        #pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u64 row = (u64)(first_tile + along * 4 + m) * 16 + half * 8 + lane / 4;
            const Maxima<L2>& of = maxima[m][half];
            entries[((u64)blockIdx.y * padded_rows + row) * 8 + across * 4 + (lane & 3)] = {(u32)of.best, (u32)of.second,
                                                                                            of.chunk, 0};
        }
}

// -- exact scores of the groups that are left

struct Best {
    float score;
    u32 code;
    __device__ __forceinline__ void offer(float s, u32 k) {
        // NaN compares as false everywhere, and is not offered to an empty place either.
        if (s > score || (s == score && k < code) || (code == NO_CODE && s == s)) {
            score = s;
            code = k;
        }
    }
};

// How columns are grouped: `classes` of 4 a row tile's warps, `splits` of the codebook, chunks of `chunk` codes.
struct Groups {
    u32 classes, splits, chunk, padded_rows;
};

static const u32 MOST_ENTRIES = 128;

// One warp a row.
template <typename E>
__device__ __forceinline__ void rescore(const E* x, const float* weights, const float* codebook, const float* half_norms,
                                        u32 rows, u32 codes, u32 dim, u32 vector, u32 inner, const Header* header,
                                        const Row* infos, const Entry* entries, Groups groups, Found found, u32* count,
                                        u32* list, u64* keys, Status* status, u32 op) {
    u64 row = (u64)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    u32 lane = threadIdx.x & 31;
    if (row >= rows) return;
    if (!(weight_of(weights, row, status, op) > 0.0f)) {
        if (lane == 0) found.put(row, NO_CODE, NO_SCORE);
        return;
    }
    const E* q = x + row * dim;
    Row info = infos[row];
    bool hard = !usable(header) || info.residual < 0.0f;
    Best best = {NO_SCORE, NO_CODE};
    if (!hard) {
        double norm = info.norm, coarse = info.coarse_norm, scale = scale_of(header);
        double code_norm = (double)__uint_as_float(header->norm) * scale;
        double code_coarse = __uint_as_float(header->coarse_norm);
        double half = half_norms ? (double)__uint_as_float(header->half_norm) * scale * scale : (double)BIAS;
        double bound = info.residual * code_norm + coarse * (double)__uint_as_float(header->residual);
        bound += (double)(dim + 1) * 6e-8 * (half + norm * code_norm);
        bound += (double)inner * 2.38418579e-7 * (half + coarse * code_coarse) + 1e-17;
        float eps = __double2float_ru(bound * (1.0 + 1e-9));
        u32 total = 4 * groups.classes * groups.splits, of_split = 4 * groups.classes;
        // What some code's score is at least.
        Entry mine[MOST_ENTRIES / 32];
        float least = -__int_as_float(0x7F800000);
        #pragma unroll
        for (u32 e = 0; e < MOST_ENTRIES / 32; e++) {
            u32 at = e * 32 + lane;
            if (at < total) {
                mine[e] = entries[((u64)(at / of_split) * groups.padded_rows + row) * of_split + at % of_split];
                least = fmaxf(least, __fsub_rd(__uint_as_float(mine[e].best), eps));
            }
        }
        for (u32 w = 16; w > 0; w >>= 1) least = fmaxf(least, __shfl_xor_sync(ALL, least, (int)w));
        // A second group of a class that could hold the nearest code is not known by name.
        bool unclear = false;
        #pragma unroll
        for (u32 e = 0; e < MOST_ENTRIES / 32; e++)
            unclear = unclear || (e * 32 + lane < total && __fadd_ru(__uint_as_float(mine[e].second), eps) >= least);
        hard = __any_sync(ALL, unclear);
        if (!hard) {
            u32 members = groups.chunk / of_split;
            #pragma unroll
            for (u32 e = 0; e < MOST_ENTRIES / 32; e++) {
                bool near = e * 32 + lane < total && __fadd_ru(__uint_as_float(mine[e].best), eps) >= least;
                u32 chunk = e * 32 + lane < total ? mine[e].chunk : 0;
                for (u32 left = __ballot_sync(ALL, near); left != 0; left &= left - 1) {
                    u32 from = (u32)__ffs((int)left) - 1, at_class = (e * 32 + from) % of_split;
                    u64 base = (u64)__shfl_sync(ALL, chunk, (int)from) * groups.chunk;
                    base += (u64)(at_class / 4) * (groups.chunk / groups.classes) + 2 * (at_class & 3);
                    for (u32 i = lane; i < members; i += 32) {
                        u64 k = base + (u64)(i / 2) * 8 + (i & 1);
                        if (k < codes)
                            best.offer(chain(q, codebook + k * dim, dim, half_norms ? half_norms[k] : 0.0f, vector), (u32)k);
                    }
                }
            }
        }
    }
    for (u32 w = 16; w > 0; w >>= 1) {
        float score = __shfl_xor_sync(ALL, best.score, (int)w);
        u32 code = __shfl_xor_sync(ALL, best.code, (int)w);
        if (code != NO_CODE) best.offer(score, code);
    }
    if (lane == 0) {
        if (hard) {
            keys[row] = 0;
            list[atomicAdd(count, 1u)] = (u32)row;
        } else {
            found.put(row, best.code, best.score);
        }
    }
}

// -- all scores in f32

static const u32 EXACT_ROWS = 64, EXACT_CODES = 128, EXACT_INNER = 8;

// Every row, or those of `list`, against `piece` codes at a time. A thread holds 4 rows × 8 codes.
template <typename E>
__device__ __forceinline__ void exact(const E* x, const float* codebook, const float* half_norms, u32 rows, u32 codes,
                                      u32 dim, u32 piece, const u32* count, const u32* list, u64* keys) {
    __shared__ __align__(16) float xs[2][EXACT_INNER][EXACT_ROWS];
    __shared__ __align__(16) float cs[2][EXACT_INNER][EXACT_CODES];
    u32 total = list ? *count : rows;
    u32 pieces = (codes + piece - 1) / piece, tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    u64 items = (u64)((total + EXACT_ROWS - 1) / EXACT_ROWS) * pieces;
    for (u64 item = blockIdx.x; item < items; item += gridDim.x) {
        u32 first_row = (u32)(item / pieces) * EXACT_ROWS, first_code = (u32)(item % pieces) * piece;
        u32 end_code = min(first_code + piece, codes);
        Best best[4];
        #pragma unroll
        for (u32 r = 0; r < 4; r++) best[r] = {-__int_as_float(0x7F800000), NO_CODE};
        // Two elements of rows and four of codes a thread and slice.
        u32 load_row = threadIdx.x >> 2, load_at = (threadIdx.x & 3) * 2;
        bool row_real = first_row + load_row < total;
        u64 row = row_real ? (list ? list[first_row + load_row] : first_row + load_row) : 0;
        u32 load_code = threadIdx.x >> 1, code_at = (threadIdx.x & 1) * 4;
        for (u32 tile = first_code; tile < end_code; tile += EXACT_CODES) {
            float sums[4][8];
            #pragma unroll
            for (u32 c = 0; c < 8; c++) {
                u32 k = tile + (c < 4 ? tx * 4 + c : 64 + tx * 4 + c - 4);
                float h = half_norms && k < end_code ? half_norms[k] : 0.0f;
                #pragma unroll
                for (u32 r = 0; r < 4; r++) sums[r][c] = h;
            }
            u64 k = tile + load_code;
            bool code_real = k < end_code;
            float next_x[2], next_c[4];
            auto read = [&](u32 first) {
                #pragma unroll
                for (u32 i = 0; i < 2; i++)
                    next_x[i] = row_real && first + load_at + i < dim ? to_f32(x[row * dim + first + load_at + i]) : 0.0f;
                // Codes beyond the last are NaN, which never wins.
                #pragma unroll
                for (u32 i = 0; i < 4; i++)
                    next_c[i] = !code_real                   ? NO_SCORE
                                : first + code_at + i < dim ? codebook[k * dim + first + code_at + i]
                                                            : 0.0f;
            };
            read(0);
            for (u32 first = 0, turn = 0; first < dim; first += EXACT_INNER, turn ^= 1) {
                #pragma unroll
                for (u32 i = 0; i < 2; i++) xs[turn][load_at + i][load_row] = next_x[i];
                #pragma unroll
                for (u32 i = 0; i < 4; i++) cs[turn][code_at + i][load_code] = next_c[i];
                __syncthreads();
                if (first + EXACT_INNER < dim) read(first + EXACT_INNER);
                #pragma unroll
                for (u32 i = 0; i < EXACT_INNER; i++) {
                    float4 v = *(const float4*)&xs[turn][i][ty * 4];
                    float4 low = *(const float4*)&cs[turn][i][tx * 4], high = *(const float4*)&cs[turn][i][64 + tx * 4];
                    float a[4] = {v.x, v.y, v.z, v.w};
                    float b[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                    #pragma unroll
                    for (u32 r = 0; r < 4; r++)
                        #pragma unroll
                        for (u32 c = 0; c < 8; c++) sums[r][c] = __fmaf_rn(a[r], b[c], sums[r][c]);
                }
            }
            // The next tile's first slice may go where the slowest warp still reads.
            __syncthreads();
            #pragma unroll
            for (u32 r = 0; r < 4; r++) {
                float most = sums[r][0];
                #pragma unroll
                for (u32 c = 1; c < 8; c++) most = fmaxf(most, sums[r][c]);
                if (most > best[r].score || best[r].code == NO_CODE) {
                    #pragma unroll
                    for (u32 c = 0; c < 8; c++) best[r].offer(sums[r][c], tile + (c < 4 ? tx * 4 + c : 64 + tx * 4 + c - 4));
                }
            }
        }
        #pragma unroll
        for (u32 r = 0; r < 4; r++) {
            u64 key = best[r].code == NO_CODE ? 0 : key_of(best[r].score, best[r].code);
            for (u32 w = 8; w > 0; w >>= 1) {
                u64 other = __shfl_xor_sync(ALL, key, (int)w);
                key = other > key ? other : key;
            }
            u32 at = first_row + ty * 4 + r;
            if (tx == 0 && at < total && key != 0) atomicMax(&keys[list ? list[at] : at], key);
        }
    }
}

// Before a search: nothing is listed; where all rows take the f32 pass, no row has a key.
extern "C" __global__ void __launch_bounds__(256) search_begin(u32 rows, u32* count, u64* keys) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row == 0) *count = 0;
    if (keys && row < rows) keys[row] = 0;
}

// Codes of the rows that took the f32 pass.
extern "C" __global__ void __launch_bounds__(256) search_finish(const float* weights, u32 rows, const u32* count,
                                                                const u32* list, const u64* keys, void* codes, float* scores,
                                                                u32 wide, Status* status, u32 op) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (list ? *count : rows)) return;
    u64 row = list ? list[at] : at, key = keys[row];
    bool none = key == 0 || !(weight_of(weights, row, status, op) > 0.0f);
    Found{codes, scores, wide}.put(row, none ? NO_CODE : ~(u32)key, none ? NO_SCORE : score_of(key));
}

#define ROWS_KERNELS(SUFFIX, E)                                                                                             \
    extern "C" __global__ void search_ref_##SUFFIX(const E* x, const float* weights, const float* codebook,                 \
                                                   const float* half_norms, u32 rows, u32 codes, u32 dim, void* found,      \
                                                   float* scores, u32 wide, Status* status, u32 op) {                       \
        search_ref(x, weights, codebook, half_norms, rows, codes, dim, Found{found, scores, wide}, status, op);             \
    }                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) search_rows_##SUFFIX(                                                 \
        const E* x, u32 rows, u32 padded, u32 dim, u32 width, u32 steps, const Header* header, u32 l2, u32* fragments,      \
        Row* infos) {                                                                                                       \
        search_rows(x, rows, padded, dim, width, steps, header, l2, fragments, infos);                                      \
    }                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) search_rescore_##SUFFIX(                                              \
        const E* x, const float* weights, const float* codebook, const float* half_norms, u32 rows, u32 codes, u32 dim,     \
        u32 vector, u32 inner, const Header* header, const Row* infos, const Entry* entries, u32 classes, u32 splits,       \
        u32 chunk, u32 padded_rows, void* found, float* scores, u32 wide, u32* count, u32* list, u64* keys, Status* status, \
        u32 op) {                                                                                                           \
        rescore(x, weights, codebook, half_norms, rows, codes, dim, vector, inner, header, infos, entries,                  \
                Groups{classes, splits, chunk, padded_rows}, Found{found, scores, wide}, count, list, keys, status, op);    \
    }                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) search_exact_##SUFFIX(                                                \
        const E* x, const float* codebook, const float* half_norms, u32 rows, u32 codes, u32 dim, u32 piece,                \
        const u32* count, const u32* list, u64* keys) {                                                                     \
        exact(x, codebook, half_norms, rows, codes, dim, piece, count, list, keys);                                         \
    }
ROWS_KERNELS(f32, float)
ROWS_KERNELS(f16, f16)
ROWS_KERNELS(bf16, bf16)

#define NARROW(NAME, WORDS, CHUNK, L2)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME(const uint4* rows, const uint4* copy, const float* half_norms, \
                                                              const Header* header, u32 padded_rows, u32 chunks,             \
                                                              u32 per_split, u32 slices, Entry* entries) {                   \
        coarse_narrow<WORDS, CHUNK, L2>(rows, copy, half_norms, header, padded_rows, chunks, per_split, entries);            \
    }
NARROW(search_coarse_8, 1, 256, false)
NARROW(search_coarse_16, 2, 256, false)
NARROW(search_coarse_32, 4, 128, false)
NARROW(search_coarse_64, 8, 64, false)
NARROW(search_coarse_l2_8, 1, 256, true)
NARROW(search_coarse_l2_16, 2, 256, true)
NARROW(search_coarse_l2_32, 4, 128, true)
NARROW(search_coarse_l2_64, 8, 64, true)

#define WIDE(NAME, L2)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME(const uint4* rows, const uint4* copy, const float* half_norms, \
                                                              const Header* header, u32 padded_rows, u32 chunks,             \
                                                              u32 per_split, u32 slices, Entry* entries) {                   \
        coarse_wide<L2>(rows, copy, half_norms, header, padded_rows, chunks, per_split, slices, entries);                    \
    }
WIDE(search_coarse_wide, false)
WIDE(search_coarse_l2_wide, true)

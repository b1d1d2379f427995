// Factorization, its gradients, and factorization with unit rows: src/ops/project.rs has the contract.
//
// All are matrix products in which an element of the output is one f32 chain over the inner extent. A thread keeps
// TM × TN chains in registers; tiles of both operands, 32 deep, come into shared memory while the ones before are used.
#include "common/lanes.cuh"
#include "common/powers.cuh"
#include "common/ptx.cuh"

// -- reference: one thread an element, plain loops

template <typename E>
__device__ void project_ref(const E* x, const float* weight, const float* bias, u32 rows, u32 inputs, u32 outputs,
                            float* y) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)rows * outputs) return;
    u64 row = at / outputs, j = at % outputs;
    float sum = bias ? bias[j] : 0.0f;
    #pragma unroll 1
    for (u32 k = 0; k < inputs; k++) sum = __fmaf_rn(to_f32(x[row * inputs + k]), weight[j * inputs + k], sum);
    y[at] = sum;
}

extern "C" __global__ void project_ref_f32(const float* x, const float* weight, const float* bias, u32 rows,
                                           u32 inputs, u32 outputs, float* y) {
    project_ref(x, weight, bias, rows, inputs, outputs, y);
}
extern "C" __global__ void project_ref_f16(const f16* x, const float* weight, const float* bias, u32 rows, u32 inputs,
                                           u32 outputs, float* y) {
    project_ref(x, weight, bias, rows, inputs, outputs, y);
}
extern "C" __global__ void project_ref_bf16(const bf16* x, const float* weight, const float* bias, u32 rows,
                                            u32 inputs, u32 outputs, float* y) {
    project_ref(x, weight, bias, rows, inputs, outputs, y);
}

extern "C" __global__ void project_backward_input_ref(const float* dy, const float* weight, u32 rows, u32 outputs,
                                                      u32 inputs, float* dx) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)rows * inputs) return;
    u64 row = at / inputs, i = at % inputs;
    float sum = 0.0f;
    #pragma unroll 1
    for (u64 j = 0; j < outputs; j++) sum = __fmaf_rn(dy[row * outputs + j], weight[j * inputs + i], sum);
    dx[at] = sum;
}

// An element of dw, or of db after all of those.
extern "C" __global__ void project_backward_weight_ref(const float* dy, const float* x, u32 rows, u32 outputs,
                                                       u32 inputs, double* dw, double* db) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x, weights = (u64)outputs * inputs;
    if (at >= weights + (db ? outputs : 0)) return;
    bool bias = at >= weights;
    u64 j = bias ? at - weights : at / inputs, i = bias ? 0 : at % inputs;
    double total = bias ? db[j] : dw[at];
    #pragma unroll 1
    for (u64 first = 0; first < rows; first += ROW_BLOCK) {
        u64 end = first + ROW_BLOCK < rows ? first + ROW_BLOCK : rows;
        float sum = 0.0f;
        #pragma unroll 1
        for (u64 m = first; m < end; m++) {
            float g = dy[m * outputs + j];
            sum = bias ? __fadd_rn(sum, g) : __fmaf_rn(g, x[m * inputs + i], sum);
        }
        total += (double)sum;
    }
    if (bias) db[j] = total;
    else dw[at] = total;
}

// -- tuned

// Inner extent of a tile. Its rows are padded so that eight of them, 16 bytes each, lie in different banks.
static const u32 DEEP = 32;

__device__ __forceinline__ u32 tiles_of(u32 extent, u32 tile) { return extent / tile + (extent % tile != 0); }

// What may be accessed by 16 bytes: the left operand, the right one, the output.
enum Vectors : u32 { LEFT = 1, RIGHT = 2, OUTPUT = 4 };

// Four elements that lie aligned to their size, as f32.
__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
template <typename E> __device__ __forceinline__ float4 load4(const E* p) {
    uint2 v = *reinterpret_cast<const uint2*>(p);
    return make_float4(to_f32(E{(u16)v.x}), to_f32(E{(u16)(v.x >> 16)}), to_f32(E{(u16)v.y}),
                       to_f32(E{(u16)(v.y >> 16)}));
}

__device__ __forceinline__ void copy1(float* to, const float* from) { cp_async4(shared_address(to), from); }
template <typename E> __device__ __forceinline__ void copy1(E* to, const E* from) { *to = *from; }

// A rows × cols matrix in global memory.
template <typename E> struct Matrix {
    const E* data;
    u32 rows, cols;
    bool vectors;
};

// Starts to bring TR × TC elements from (row, col) on into shared memory, where a row has PITCH elements and lies at
// `place(row)`; zeros stand where the matrix has ended, and leave a chain as it is.
template <u32 TR, u32 TC, u32 PITCH, u32 THREADS, typename E, typename Place>
__device__ __forceinline__ void bring(E* to, const Matrix<E>& m, u64 row, u64 col, Place place) {
    constexpr u32 EACH = 16 / sizeof(E), ACROSS = TC / EACH, DOWN = THREADS / ACROSS;
    static_assert(TC % EACH == 0 && THREADS % ACROSS == 0 && PITCH % EACH == 0, "chunks of 16 bytes, whole passes");
    u32 r0 = threadIdx.x / ACROSS, c = threadIdx.x % ACROSS * EACH;
    if (m.vectors && TR % DOWN == 0 && row + TR <= m.rows && col + TC <= m.cols) {
        const E* from = m.data + (row + r0) * m.cols + col + c;
        u64 step = (u64)DOWN * m.cols;
        // `place` only moves bits, so that it can be taken of each part; a pass is then at a constant offset.
        u32 base = shared_address(to) + (place(r0) * PITCH + c) * (u32)sizeof(E);
        #pragma unroll
        for (u32 r = 0; r < TR; r += DOWN, from += step) cp_async16(base + place(r) * PITCH * (u32)sizeof(E), from);
    } else if (m.vectors) {
        #pragma unroll 1
        for (u32 r = r0; r < TR; r += DOWN) {
            E* p = to + place(r) * PITCH + c;
            if (row + r < m.rows && col + c < m.cols)
                cp_async16(shared_address(p), m.data + (row + r) * m.cols + col + c);
            else
                *reinterpret_cast<uint4*>(p) = make_uint4(0, 0, 0, 0);
        }
    } else {
        #pragma unroll 1
        for (u32 e = threadIdx.x; e < TR * TC; e += THREADS) {
            u32 r = e / TC, k = e % TC;
            E* p = to + place(r) * PITCH + k;
            if (row + r < m.rows && col + k < m.cols) copy1(p, m.data + (row + r) * m.cols + col + k);
            else *p = E();
        }
    }
}

// Where a thread of a warp works: 8 threads along rows, 4 along columns. Lanes are dealt so that neighbours in bit 0
// read the same columns and neighbours in bit 1 the same rows: a 16-byte load of a warp then takes two passes, not four.
__device__ __forceinline__ u32 lane_row() {
    u32 l = threadIdx.x;
    return (l & 1) | (l >> 1 & 6);
}
__device__ __forceinline__ u32 lane_col() {
    u32 l = threadIdx.x;
    return (l >> 1 & 1) | (l >> 3 & 2);
}

// The columns of a thread are VEC neighbours at a time.
template <u32 TN> __device__ __forceinline__ u32 column(u32 across, u32 c) {
    constexpr u32 VEC = TN < 4 ? TN : 4;
    return VEC * across + c % VEC + 4 * VEC * (c / VEC);
}

// Σ over a row's columns by the tree 16-8-4-2-1; each of its four threads gets it.
template <u32 TN> __device__ __forceinline__ float tree(const float (&v)[TN]) {
    float s[TN < 4 ? TN : 4];
    constexpr u32 VEC = TN < 4 ? TN : 4;
    #pragma unroll
    for (u32 c = 0; c < VEC; c++) {
        s[c] = TN == 8 ? __fadd_rn(v[c], v[(c + 4) % TN]) : v[c];
        s[c] = __fadd_rn(s[c], __shfl_xor_sync(ALL, s[c], 16));
        s[c] = __fadd_rn(s[c], __shfl_xor_sync(ALL, s[c], 2));
    }
    if (VEC == 4) s[0] = __fadd_rn(s[0], s[2 % VEC]), s[1] = __fadd_rn(s[1], s[3 % VEC]);
    return __fadd_rn(s[0], s[1]);
}

// y to unit length, as src/ops/normalize.rs; v are the columns of this thread, zeros past the last. Returns the norm.
template <u32 TN> __device__ __forceinline__ float to_unit(float (&v)[TN]) {
    float squares[TN];
    #pragma unroll
    for (u32 c = 0; c < TN; c++) squares[c] = __fmul_rn(v[c], v[c]);
    float n = tree<TN>(squares), norm, root = __fsqrt_rn(n);
    norm = root;
    bool usual = n >= SMALLEST_SQUARE && is_finite(n), fixed = false;
    float value = 0.0f;
    if (!__all_sync(ALL, usual)) {
        // Rare. All rows of the warp go together; the usual ones are scaled by 2^0.
        float largest = 0.0f;
        bool finite = true;
        #pragma unroll
        for (u32 c = 0; c < TN; c++) {
            float a = fabsf(v[c]);
            finite = finite && is_finite(a);
            largest = a > largest ? a : largest;
        }
        #pragma unroll
        for (u32 m = 2; m <= 16; m += 14) {
            float other = __shfl_xor_sync(ALL, largest, (int)m);
            largest = other > largest ? other : largest;
            finite = __shfl_xor_sync(ALL, (int)finite, (int)m) && finite;
        }
        fixed = !finite || largest == 0.0f;
        value = finite ? 0.0f : __uint_as_float(0x7FFFFFFFu);
        int power = usual || fixed ? 0 : place(largest) + 1;
        float half = power_of_two(-(power / 2)), rest = power_of_two(-(power - power / 2));
        #pragma unroll
        for (u32 c = 0; c < TN; c++) {
            v[c] = __fmul_rn(__fmul_rn(v[c], half), rest);
            squares[c] = __fmul_rn(v[c], v[c]);
        }
        root = __fsqrt_rn(tree<TN>(squares));
        norm = fixed ? value : (float)((double)root * wide_power_of_two(power));
    }
    #pragma unroll
    for (u32 c = 0; c < TN; c++) v[c] = fixed ? value : __fdiv_rn(v[c], root);
    return norm;
}

// Writes a thread's columns of a row.
template <u32 TN>
__device__ __forceinline__ void put(float* row, const float (&v)[TN], u64 col, u32 across, u32 cols, bool vectors) {
    constexpr u32 VEC = TN < 4 ? TN : 4;
    #pragma unroll
    for (u32 c = 0; c < TN; c += VEC) {
        u64 j = col + column<TN>(across, c);
        if (VEC == 4 && vectors) {
            if (j < cols)
                *reinterpret_cast<float4*>(row + j) = make_float4(v[c], v[c + 1], v[(c + 2) % TN], v[(c + 3) % TN]);
        } else {
            #pragma unroll
            for (u32 e = 0; e < VEC; e++)
                if (j + e < cols) row[j + e] = v[c + e];
        }
    }
}

// c = left · right + bias: left [rows, inner]; right [cols, inner], or [inner, cols] where WIDE; c [rows, cols].
// A block takes 8·TM·WARPS rows and the `per` tiles of 4·TN columns of its turn; unit rows and norms are written
// where they are asked for, which needs all columns in one tile.
template <typename E, u32 TM, u32 TN, u32 WARPS, bool WIDE>
__device__ __forceinline__ void product(const E* left, const float* right, const float* bias, u32 rows, u32 inner,
                                        u32 cols, u32 turns, u32 per, u32 vectors, float* c, float* unit,
                                        float* norms) {
    constexpr u32 THREADS = 32 * WARPS, TR = 8 * TM * WARPS, TC = 4 * TN, VEC = TN < 4 ? TN : 4;
    constexpr u32 LP = DEEP + 16 / sizeof(E), RP = WIDE ? TC : DEEP + 4;
    __shared__ __align__(16) E lefts[2][TR * LP];
    __shared__ __align__(16) float rights[2][WIDE ? DEEP * RP : TC * RP];

    u32 tiles = tiles_of(cols, TC), steps = tiles_of(inner, DEEP);
    u64 first = (u64)(blockIdx.x / turns) * TR;
    u32 tile = blockIdx.x % turns * per, last = tile + per < tiles ? tile + per : tiles;
    Matrix<E> l = {left, rows, inner, (vectors & LEFT) != 0};
    Matrix<float> r = {right, WIDE ? inner : cols, WIDE ? cols : inner, (vectors & RIGHT) != 0};
    u32 down = lane_row(), across = lane_col();
    // Row `down + 8i` of a warp's 8·TM, so that the eight of a load are neighbours.
    u32 warp_row = threadIdx.x / 32 * 8 * TM;

    // A right operand's row j lies where its thread's neighbours lie next to it.
    auto as_is = [](u32 at) { return at; };
    auto dealt = [](u32 j) { return j / VEC % 4 + 4 * (j % VEC + j / (4 * VEC) * VEC); };
    auto bring_left = [&](u32 stage, u32 step) {
        bring<TR, DEEP, LP, THREADS>(lefts[stage], l, first, (u64)step * DEEP, as_is);
    };
    auto bring_right = [&](u32 stage, u32 step, u32 tile) {
        if (WIDE) bring<DEEP, TC, RP, THREADS>(rights[stage], r, (u64)step * DEEP, (u64)tile * TC, as_is);
        else bring<TC, DEEP, RP, THREADS>(rights[stage], r, (u64)tile * TC, (u64)step * DEEP, dealt);
    };

    if (steps > 0) bring_left(0, 0), bring_right(0, 0, tile);
    cp_async_commit();
    u32 stage = 0;
    #pragma unroll 1
    for (; tile < last; tile++) {
        u64 col = (u64)tile * TC;
        float sums[TM][TN];
        #pragma unroll
        for (u32 v = 0; v < TN; v++) {
            u64 j = col + column<TN>(across, v);
            float start = bias && j < cols ? bias[j] : 0.0f;
            #pragma unroll
            for (u32 i = 0; i < TM; i++) sums[i][v] = start;
        }
        #pragma unroll 1
        for (u32 step = 0; step < steps; step++) {
            // This step's tiles are here for all, and nobody reads the other stage any more.
            cp_async_wait<0>();
            __syncthreads();
            // A left tile that is the only one of its rows stays.
            u32 left_stage = steps > 1 ? stage : 0;
            stage ^= 1;
            u32 next = step + 1 < steps ? step + 1 : 0, next_tile = next ? tile : tile + 1;
            if (next_tile < last) {
                if (steps > 1) bring_left(stage, next);
                bring_right(stage, next, next_tile);
            }
            cp_async_commit();
            const E* lp = lefts[left_stage] + (warp_row + down) * LP;
            const float* rp = rights[stage ^ 1] + (WIDE ? VEC * across : across * RP);
            // Two groups of four at a time: more would leave the first instruction cache.
            #pragma unroll 1
            for (u32 rest = DEEP / 8; rest > 0; rest--, lp += 8, rp += WIDE ? 8 * RP : 8)
            #pragma unroll
            for (u32 k = 0; k < 8; k += 4) {
                float w[4][TN];
                if (WIDE) {
                    #pragma unroll
                    for (u32 d = 0; d < 4; d++)
                        #pragma unroll
                        for (u32 v = 0; v < TN; v += 4) {
                            float4 four = load4(rp + (k + d) * RP + 4 * v);
                            w[d][v] = four.x, w[d][v + 1] = four.y, w[d][v + 2] = four.z, w[d][v + 3] = four.w;
                        }
                } else {
                    #pragma unroll
                    for (u32 v = 0; v < TN; v++) {
                        float4 four = load4(rp + 4 * v * RP + k);
                        w[0][v] = four.x, w[1][v] = four.y, w[2][v] = four.z, w[3][v] = four.w;
                    }
                }
                #pragma unroll
                for (u32 i = 0; i < TM; i++) {
                    float4 four = load4(lp + 8 * i * LP + k);
                    float x[4] = {four.x, four.y, four.z, four.w};
                    #pragma unroll
                    for (u32 d = 0; d < 4; d++)
                        #pragma unroll
                        for (u32 v = 0; v < TN; v++) sums[i][v] = __fmaf_rn(x[d], w[d][v], sums[i][v]);
                }
            }
        }
        if (!unit) {
            #pragma unroll
            for (u32 i = 0; i < TM; i++) {
                u64 row = first + warp_row + down + 8 * i;
                if (row < rows) put<TN>(c + row * cols, sums[i], col, across, cols, vectors & OUTPUT);
            }
            continue;
        }
        // The only tile: shared memory is free, and holds the sums, each thread's own, so that rows can take turns.
        __syncthreads();
        float* kept = reinterpret_cast<float*>(lefts[0]) + threadIdx.x;
        static_assert(sizeof(lefts) >= sizeof(float) * THREADS * TM * TN, "the sums fit");
        #pragma unroll
        for (u32 i = 0; i < TM; i++)
            #pragma unroll
            for (u32 v = 0; v < TN; v++) kept[(i * TN + v) * THREADS] = sums[i][v];
        #pragma unroll 1
        for (u32 i = 0; i < TM; i++) {
            u64 row = first + warp_row + down + 8 * i;
            float mine[TN];
            #pragma unroll
            for (u32 v = 0; v < TN; v++) mine[v] = column<TN>(across, v) < cols ? kept[(i * TN + v) * THREADS] : 0.0f;
            if (row < rows) put<TN>(c + row * cols, mine, 0, across, cols, vectors & OUTPUT);
            float norm = to_unit<TN>(mine);
            if (row < rows) put<TN>(unit + row * cols, mine, 0, across, cols, vectors & OUTPUT);
            if (row < rows && norms && across == 0) norms[row] = norm;
        }
    }
}

// 128 rows × 32 outputs, 32 × 32 for few rows, 128 × 8 for few outputs.
#define PROJECT(name, E, TM, TN, WARPS)                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                         \
        name(const E* x, const float* weight, const float* bias, u32 rows, u32 inputs, u32 outputs, u32 turns,       \
             u32 per, u32 vectors, float* y, float* unit, float* norms) {                                            \
        product<E, TM, TN, WARPS, false>(x, weight, bias, rows, inputs, outputs, turns, per, vectors, y, unit,       \
                                         norms);                                                                     \
    }
PROJECT(project_128x32_f32, float, 8, 8, 2)
PROJECT(project_128x32_f16, f16, 8, 8, 2)
PROJECT(project_128x32_bf16, bf16, 8, 8, 2)
PROJECT(project_32x32_f32, float, 2, 8, 2)
PROJECT(project_32x32_f16, f16, 2, 8, 2)
PROJECT(project_32x32_bf16, bf16, 2, 8, 2)
PROJECT(project_128x8_f32, float, 4, 2, 4)
PROJECT(project_128x8_f16, f16, 4, 2, 4)
PROJECT(project_128x8_bf16, bf16, 4, 2, 4)

extern "C" __global__ void __launch_bounds__(64)
    project_backward_input_128x32(const float* dy, const float* weight, u32 rows, u32 outputs, u32 inputs, u32 turns,
                                  u32 per, u32 vectors, float* dx) {
    product<float, 8, 8, 2, true>(dy, weight, nullptr, rows, outputs, inputs, turns, per, vectors, dx, nullptr,
                                  nullptr);
}
extern "C" __global__ void __launch_bounds__(64)
    project_backward_input_32x32(const float* dy, const float* weight, u32 rows, u32 outputs, u32 inputs, u32 turns,
                                 u32 per, u32 vectors, float* dx) {
    product<float, 2, 8, 2, true>(dy, weight, nullptr, rows, outputs, inputs, turns, per, vectors, dx, nullptr,
                                  nullptr);
}

// The chains of a block of rows, into `dw` [blocks, outputs, inputs] and `db` [blocks, outputs]. A thread block takes
// 128 inputs × 32 outputs of it; a thread's 8 × 4 are two times four neighbours and four neighbours.
extern "C" __global__ void __launch_bounds__(128)
    project_backward_weight_blocks(const float* dy, const float* x, const u32* codes, u32 rows, u32 outputs, u32 inputs,
                                   u32 vectors, float* dw, float* db) {
    constexpr u32 TI = 128, TJ = 32;
    __shared__ __align__(16) float xs[2][DEEP * TI];
    __shared__ __align__(16) float gs[2][DEEP * TJ];
    u32 wide = inputs ? tiles_of(inputs, TI) : 1, high = tiles_of(outputs, TJ);
    u32 i0 = blockIdx.x % wide * TI, j0 = blockIdx.x / wide % high * TJ, block = blockIdx.x / wide / high;
    u64 first = (u64)block * ROW_BLOCK, end = first + ROW_BLOCK < rows ? first + ROW_BLOCK : rows;
    Matrix<float> xm = {x, (u32)end, inputs, (vectors & LEFT) != 0};
    Matrix<float> gm = {dy, (u32)end, outputs, (vectors & RIGHT) != 0};
    u32 warp = threadIdx.x / 32;
    u32 i = warp % 2 * 64 + 4 * lane_row(), j = warp / 2 * 16 + 4 * lane_col();
    auto as_is = [](u32 at) { return at; };
    auto bring_both = [&](u32 stage, u64 row) {
        bring<DEEP, TI, TI, 128>(xs[stage], xm, row, i0, as_is);
        bring<DEEP, TJ, TJ, 128>(gs[stage], gm, row, j0, as_is);
        cp_async_commit();
    };
    // The first warp of the first columns' block also adds up dy, a thread an output.
    bool bias = db && i0 == 0 && warp == 0;
    float sums[4][8], bias_sum = 0.0f;
    #pragma unroll
    for (u32 a = 0; a < 4; a++)
        #pragma unroll
        for (u32 b = 0; b < 8; b++) sums[a][b] = 0.0f;
    bring_both(0, first);
    u32 stage = 0;
    #pragma unroll 1
    for (u64 row = first; row < end; row += DEEP, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (row + DEEP < end) bring_both(stage ^ 1, row + DEEP);
        if (codes) {
            // Rows without a code have no gradient, but may hold infinities or NaN, and 0 · NaN is one.
            u64 at = row + (threadIdx.x & 31);
            u32 uncoded = __ballot_sync(ALL, at < end && codes[at] == NO_CODE);
            for (u32 left = uncoded; left != 0; left &= left - 1) xs[stage][(__ffs((int)left) - 1) * TI + threadIdx.x] = 0.0f;
            if (uncoded) __syncthreads();
        }
        const float *xp = xs[stage] + i, *gp = gs[stage] + j;
        #pragma unroll 8
        for (u32 m = 0; m < DEEP; m++) {
            float4 lo = load4(xp + m * TI), hi = load4(xp + m * TI + 32), g4 = load4(gp + m * TJ);
            float xv[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w}, g[4] = {g4.x, g4.y, g4.z, g4.w};
            #pragma unroll
            for (u32 a = 0; a < 4; a++)
                #pragma unroll
                for (u32 b = 0; b < 8; b++) sums[a][b] = __fmaf_rn(g[a], xv[b], sums[a][b]);
        }
        if (bias) {
            #pragma unroll 8
            for (u32 m = 0; m < DEEP; m++) bias_sum = __fadd_rn(bias_sum, gs[stage][m * TJ + threadIdx.x]);
        }
    }
    #pragma unroll
    for (u32 a = 0; a < 4; a++) {
        if (j0 + j + a >= outputs) continue;
        float* to = dw + ((u64)block * outputs + j0 + j + a) * inputs;
        #pragma unroll
        for (u32 b = 0; b < 8; b += 4) {
            u64 at = (u64)i0 + i + 8 * b;
            if (vectors & OUTPUT) {
                if (at < inputs)
                    *reinterpret_cast<float4*>(to + at) =
                        make_float4(sums[a][b], sums[a][b + 1], sums[a][b + 2], sums[a][b + 3]);
            } else {
                #pragma unroll
                for (u32 e = 0; e < 4; e++)
                    if (at + e < inputs) to[at + e] = sums[a][b + e];
            }
        }
    }
    if (bias && j0 + threadIdx.x < outputs) db[(u64)block * outputs + j0 + threadIdx.x] = bias_sum;
}

// Adds the blocks' sums, `count` each, to `total` in ascending order: a thread an element.
extern "C" __global__ void __launch_bounds__(256) project_backward_weight_total(const float* sums, u32 blocks,
                                                                                u64 count, double* total) {
    u64 at = (u64)blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    double sum = total[at];
    sums += at;
    #pragma unroll 8
    for (u32 b = 0; b < blocks; b++, sums += count) sum += (double)*sums;
    total[at] = sum;
}

// A codebook's copy in f16 for the coarse pass, and what its bound needs: src/cuda/codebook.rs has the layout.
#include "common/coarse.cuh"
#include "common/lanes.cuh"
#include "common/ptx.cuh"

// -- reference: one thread does it all

extern "C" __global__ void pack_ref(const float* codebook, u32 codes, u32 padded, u32 dim, u32 words, Header* header,
                                    u32* copy, float* scaled_half_norms, float* half_norms) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    float norm = 0.0f, half_norm = 0.0f, residual = 0.0f, coarse_norm = 0.0f;
    u32 bad = 0;
    #pragma unroll 1
    for (u64 k = 0; k < codes; k++) {
        float n = 0.0f;
        double sum = 0.0;
        bool finite = true;
        #pragma unroll 1
        for (u64 at = k * dim; at < (k + 1) * dim; at++) {
            finite = finite && is_finite(codebook[at]);
            n = __fmaf_rn(codebook[at], codebook[at], n);
            sum += (double)codebook[at] * (double)codebook[at];
        }
        if (half_norms) {
            half_norms[k] = __fmul_rn(n, -0.5f);
            finite = finite && is_finite(half_norms[k]);
        }
        if (!finite) bad = 1;
        if (finite) norm = fmaxf(norm, root_up(sum));
        if (finite && half_norms) half_norm = fmaxf(half_norm, -half_norms[k]);
    }
    *header = {__float_as_uint(norm), __float_as_uint(half_norm), bad};
    bool good = usable(header);
    float scale = good ? scale_of(header) : 0.0f;
    #pragma unroll 1
    for (u64 k = 0; k < padded; k++) {
        u64 code = k < codes ? k : codes - 1;
        double residuals = 0.0, squares = 0.0;
        #pragma unroll 1
        for (u32 i = 0; i < 8 * words; i += 2) {
            double own[2];
            #pragma unroll 1
            for (u32 j = 0; j < 2; j++)
                own[j] = good && i + j < dim ? (double)codebook[code * dim + i + j] * (double)scale : 0.0;
            u32 packed = pack_f16((float)own[0], (float)own[1]);
            double low = low_f16(packed), high = high_f16(packed);
            copy[code_word(k, i, words)] = packed;
            residuals += (own[0] - low) * (own[0] - low) + (own[1] - high) * (own[1] - high);
            squares += low * low + high * high;
        }
        residual = fmaxf(residual, root_up(residuals));
        coarse_norm = fmaxf(coarse_norm, root_up(squares));
        if (scaled_half_norms) scaled_half_norms[k] = __fmul_rn(__fmul_rn(half_norms[code], scale), scale);
    }
    header->residual = __float_as_uint(residual);
    header->coarse_norm = __float_as_uint(coarse_norm);
}

// -- tuned: several threads a code

// The header before any code is known.
extern "C" __global__ void pack_begin(Header* header) {
    if (threadIdx.x < HEADER_WORDS) ((u32*)header)[threadIdx.x] = 0;
}

// Norms of codes, and for L2 h = -1/2 n, n the chain fma(c, c, n): one thread a code.
extern "C" __global__ void __launch_bounds__(128) pack_measure(const float* codebook, u32 codes, u32 dim, Header* header,
                                                               float* half_norms) {
    u64 k = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    float norm = 0.0f, half = 0.0f;
    bool finite = true;
    if (k < codes) {
        const float* c = codebook + k * dim;
        float n = 0.0f;
        double sum = 0.0;
        for (u32 i = 0; i < dim; i++) {
            finite = finite && is_finite(c[i]);
            n = __fmaf_rn(c[i], c[i], n);
            sum += (double)c[i] * (double)c[i];
        }
        norm = root_up(sum);
        if (half_norms) {
            half = __fmul_rn(n, -0.5f);
            half_norms[k] = half;
            finite = finite && is_finite(half);
        }
    }
    // Numbers >= 0 compare as their bits do.
    u32 norm_bits = __reduce_max_sync(ALL, __float_as_uint(finite ? norm : 0.0f));
    u32 half_bits = __reduce_max_sync(ALL, __float_as_uint(finite ? fabsf(half) : 0.0f));
    bool bad = __any_sync(ALL, !finite);
    if ((threadIdx.x & 31) == 0) {
        atomicMax(&header->norm, norm_bits);
        atomicMax(&header->half_norm, half_bits);
        if (bad) atomicOr(&header->bad, 1u);
    }
}

// The copy: `width` threads a code. Codes beyond the last repeat it: a score that is some code's own does no harm.
extern "C" __global__ void __launch_bounds__(128) pack_copy(const float* codebook, u32 codes, u32 padded, u32 dim, u32 width,
                                                            u32 words, Header* header, u32* copy, float* scaled_half_norms,
                                                            const float* half_norms) {
    Lane lane = lane_of(padded, width);
    u64 k = lane.row < codes ? lane.row : codes - 1;
    const float* c = codebook + k * dim;
    bool good = usable(header);
    float scale = good ? scale_of(header) : 0.0f;
    double residual = 0.0, coarse = 0.0;
    for (u32 i = 2 * lane.at; i < 8 * words; i += 2 * width) {
        float low = i < dim && good ? __fmul_rn(c[i], scale) : 0.0f;
        float high = i + 1 < dim && good ? __fmul_rn(c[i + 1], scale) : 0.0f;
        u32 packed = pack_f16(low, high);
        if (lane.active) copy[code_word(lane.row, i, words)] = packed;
        double l = low_f16(packed), h = high_f16(packed);
        // c · scale is exact in f64.
        double dl = (i < dim && good ? (double)c[i] * (double)scale : 0.0) - l;
        double dh = (i + 1 < dim && good ? (double)c[i + 1] * (double)scale : 0.0) - h;
        residual += dl * dl + dh * dh;
        coarse += l * l + h * h;
    }
    for (u32 w = width >> 1; w > 0; w >>= 1) {
        residual += __shfl_xor_sync(ALL, residual, (int)w, (int)width);
        coarse += __shfl_xor_sync(ALL, coarse, (int)w, (int)width);
    }
    u32 residual_bits = __reduce_max_sync(ALL, __float_as_uint(root_up(residual)));
    u32 coarse_bits = __reduce_max_sync(ALL, __float_as_uint(root_up(coarse)));
    if ((threadIdx.x & 31) == 0) {
        atomicMax(&header->residual, residual_bits);
        atomicMax(&header->coarse_norm, coarse_bits);
    }
    if (scaled_half_norms && lane.active && lane.at == 0)
        scaled_half_norms[lane.row] = __fmul_rn(__fmul_rn(half_norms[k], scale), scale);
}

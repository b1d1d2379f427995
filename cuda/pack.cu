// A codebook's copy in f16 for the coarse pass, and what its bound needs. Plain but for several threads a code: no `_ref`; a wrong copy
// makes wrong codes, which tests/twins/search.rs finds.
#include "common/coarse.cuh"
#include "common/lanes.cuh"
#include "common/ptx.cuh"

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

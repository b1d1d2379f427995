// Codes to rows: src/ops/gather.rs has the contract.
#include "common/lanes.cuh"

// A u16 code, whose largest value stands for none.
__device__ __forceinline__ u32 code_of(const u16* codes, u64 row, u32 count, Status* status, u32 op) {
    u32 k = codes[row] == 0xFFFFu ? NO_CODE : codes[row];
    if (k < count || k == NO_CODE) return k;
    refuse(status, CODE_OUT_OF_RANGE, op, row, k, count);
    return NO_CODE;
}

// -- reference: one thread a row

template <typename C>
__device__ void gather_ref(const C* codes, const float* codebook, u32 count, u32 rows, u32 dim, float* out,
                           Status* status, u32 op) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    u32 k = code_of(codes, row, count, status, op);
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) out[row * dim + i] = k == NO_CODE ? 0.0f : codebook[(u64)k * dim + i];
}

extern "C" __global__ void gather_ref_u32(const u32* codes, const float* codebook, u32 count, u32 rows, u32 dim,
                                          float* out, Status* status, u32 op) {
    gather_ref(codes, codebook, count, rows, dim, out, status, op);
}
extern "C" __global__ void gather_ref_u16(const u16* codes, const float* codebook, u32 count, u32 rows, u32 dim,
                                          float* out, Status* status, u32 op) {
    gather_ref(codes, codebook, count, rows, dim, out, status, op);
}

// -- tuned: up to 32 threads a row, each on elements (V = float) or on four at a time (V = float4)

__device__ __forceinline__ float zero_of(float) { return 0.0f; }
__device__ __forceinline__ float4 zero_of(float4) { return make_float4(0.0f, 0.0f, 0.0f, 0.0f); }

// `dim` and the rows' pitch are counted in V.
template <typename C, typename V>
__device__ __forceinline__ void gather(const C* codes, const V* codebook, u32 count, u32 rows, u32 dim, u32 width,
                                       V* out, Status* status, u32 op) {
    Lane lane = lane_of(rows, width);
    if (!lane.active) return;
    u32 k = code_of(codes, lane.row, count, status, op);
    out += lane.row * dim;
    const V* code = codebook + (k == NO_CODE ? 0 : (u64)k * dim);
    #pragma unroll 4
    for (u32 i = lane.at; i < dim; i += width) {
        V value = zero_of(V());
        if (k != NO_CODE) value = code[i];
        out[i] = value;
    }
}

extern "C" __global__ void __launch_bounds__(256) gather_u32(const u32* codes, const float* codebook, u32 count,
                                                             u32 rows, u32 dim, u32 width, float* out, Status* status,
                                                             u32 op) {
    gather(codes, codebook, count, rows, dim, width, out, status, op);
}
extern "C" __global__ void __launch_bounds__(256) gather_u16(const u16* codes, const float* codebook, u32 count,
                                                             u32 rows, u32 dim, u32 width, float* out, Status* status,
                                                             u32 op) {
    gather(codes, codebook, count, rows, dim, width, out, status, op);
}
extern "C" __global__ void __launch_bounds__(256) gather_u32_by4(const u32* codes, const float4* codebook, u32 count,
                                                                 u32 rows, u32 dim, u32 width, float4* out,
                                                                 Status* status, u32 op) {
    gather(codes, codebook, count, rows, dim, width, out, status, op);
}
extern "C" __global__ void __launch_bounds__(256) gather_u16_by4(const u16* codes, const float4* codebook, u32 count,
                                                                 u32 rows, u32 dim, u32 width, float4* out,
                                                                 Status* status, u32 op) {
    gather(codes, codebook, count, rows, dim, width, out, status, op);
}

// Codes to rows: src/ops/gather.rs has the contract. Rows are bytes, whatever their elements; none is zeros.
#include "common/lanes.cuh"

// -- reference: one thread a row

template <typename C>
__device__ void gather_ref(const C* codes, const u8* codebook, u32 count, u32 rows, u64 row_bytes, u8* out,
                           Status* status, u32 op) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    u32 k = code_of(codes, row, count, status, op);
    #pragma unroll 1
    for (u64 i = 0; i < row_bytes; i++) out[row * row_bytes + i] = k == NO_CODE ? 0 : codebook[k * row_bytes + i];
}

extern "C" __global__ void gather_ref_u32(const u32* codes, const u8* codebook, u32 count, u32 rows, u64 row_bytes,
                                          u8* out, Status* status, u32 op) {
    gather_ref(codes, codebook, count, rows, row_bytes, out, status, op);
}
extern "C" __global__ void gather_ref_u16(const u16* codes, const u8* codebook, u32 count, u32 rows, u64 row_bytes,
                                          u8* out, Status* status, u32 op) {
    gather_ref(codes, codebook, count, rows, row_bytes, out, status, op);
}

// -- tuned: up to 32 threads a row, each on words of 16, 4, 2 bytes or 1, as rows and addresses are aligned

// A row is `words` of V.
template <typename C, typename V>
__device__ __forceinline__ void gather(const C* codes, const V* codebook, u32 count, u32 rows, u32 words, u32 width,
                                       V* out, Status* status, u32 op) {
    Lane lane = lane_of(rows, width);
    if (!lane.active) return;
    u32 k = code_of(codes, lane.row, count, status, op);
    out += lane.row * words;
    const V* code = codebook + (k == NO_CODE ? 0 : (u64)k * words);
    #pragma unroll 4
    for (u32 i = lane.at; i < words; i += width) {
        V value = V();
        if (k != NO_CODE) value = code[i];
        out[i] = value;
    }
}

#define GATHER(C, V, NAME)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) NAME(const C* codes, const V* codebook, u32 count, u32 rows,    \
                                                           u32 words, u32 width, V* out, Status* status, u32 op) {    \
        gather(codes, codebook, count, rows, words, width, out, status, op);                                          \
    }
GATHER(u32, uint4, gather_u32_by16)
GATHER(u32, u32, gather_u32_by4)
GATHER(u32, u16, gather_u32_by2)
GATHER(u32, u8, gather_u32_by1)
GATHER(u16, uint4, gather_u16_by16)
GATHER(u16, u32, gather_u16_by4)
GATHER(u16, u16, gather_u16_by2)
GATHER(u16, u8, gather_u16_by1)

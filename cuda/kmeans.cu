// What k-means on a device needs beyond search and exact sums: src/kmeans.rs has the contract.
#include "common/unit.cuh"

__device__ __forceinline__ bool is_finite(double x) {
    return ((u64)__double_as_longlong(x) & 0x7FF0000000000000ull) != 0x7FF0000000000000ull;
}

// -- reference: one thread a centre or a row

extern "C" __global__ void move_centres_ref(
    const i64* totals, const i64* sums, u32 count, u32 dim, int exponent, u32 keep, u32 cosine, double* seen,
    float* centres) {
    u64 k = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count || totals[k] <= 0) return;
    centres += k * dim;
    double old = keep ? seen[k] : 0.0, all = old + weight_in_rows(totals[k]);
    bool some = false;
    #pragma unroll 1
    for (u32 i = 0; i < dim; i++) {
        double sum = (double)sums[k * dim + i] * wide_power_of_two(exponent - FRACTION_BITS);
        centres[i] = (float)((old * (double)centres[i] + sum) / all);
        some = some || centres[i] != 0.0f;
    }
    seen[k] = all;
    if (cosine && some) unit_ref(centres, dim);
}

extern "C" __global__ void distances_ref(const float* x, const float* centres, u32 rows, u32 dim, u32 count, u32 op,
                                         u32* codes, double* distances, Status* status) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    u32 k = code_of(codes, row, count, status, op);
    double sum = 0.0;
    #pragma unroll 1
    for (u32 i = 0; k != NO_CODE && i < dim; i++) {
        double t = (double)x[row * dim + i] - (double)centres[(u64)k * dim + i];
        sum += t * t;
    }
    if (!is_finite(sum)) codes[row] = NO_CODE;
    distances[row] = is_finite(sum) ? sum : 0.0;
}

// -- tuned: up to 32 threads a centre

extern "C" __global__ void __launch_bounds__(256) move_centres(
    const i64* totals, const i64* sums, u32 count, u32 dim, u32 width, int exponent, const int* exponent_there, u32 keep,
    u32 cosine, double* seen, float* centres) {
    Lane lane = lane_of(count, width);
    if (exponent_there) exponent = *exponent_there;
    i64 n = totals[lane.row];
    lane.active = lane.active && n > 0;
    if (!__any_sync(ALL, lane.active)) return;
    centres += lane.row * dim;
    sums += lane.row * dim;
    double old = lane.active && keep ? seen[lane.row] : 0.0, all = old + weight_in_rows(n);
    __syncwarp();
    float square = 0.0f;
    bool some = false;
    if (lane.active) {
        double unit = wide_power_of_two(exponent - FRACTION_BITS);
        for (u32 i = lane.at; i < dim; i += 32) {
            float to = (float)((old * (double)centres[i] + (double)sums[i] * unit) / all);
            centres[i] = to;
            square = __fmaf_rn(to, to, square);
            some = some || to != 0.0f;
        }
        if (lane.at == 0) seen[lane.row] = all;
    }
    if (!cosine) return;
    square = tree32(lane, square);
    lane.active = any32(lane, some) && lane.active;
    unit(lane, centres, dim, lane.active ? square : 1.0f, centres);
}

// A warp takes 32 rows. Squares are made by as many threads as a row has elements, 32 elements at a time; a row's own
// thread then adds them in order.
extern "C" __global__ void __launch_bounds__(128) distances(
    const float* x, const float* centres, u32 rows, u32 dim, u32 count, u32 op, u32* codes, double* distances,
    Status* status) {
    __shared__ double squares[4][32][33];
    double (*own)[33] = squares[threadIdx.x / 32];
    u32 lane = threadIdx.x & 31;
    u64 first = ((u64)blockIdx.x * 4 + threadIdx.x / 32) * 32, row = first + lane;
    if (first >= rows) return;
    u32 k = row < rows ? code_of(codes, row, count, status, op) : NO_CODE;
    double sum = 0.0;
    for (u32 start = 0; start < dim; start += 32) {
        u32 i = start + lane, here = min(dim - start, 32u);
        for (u32 from = 0; from < 32; from += 8) {
            float a[8], b[8];
            #pragma unroll
            for (u32 u = 0; u < 8; u++) {
                u32 code = __shfl_sync(ALL, k, (int)(from + u));
                bool there = code != NO_CODE && lane < here;
                a[u] = there ? x[(first + from + u) * dim + i] : 0.0f;
                b[u] = there ? centres[(u64)code * dim + i] : 0.0f;
            }
            #pragma unroll
            for (u32 u = 0; u < 8; u++) {
                double t = (double)a[u] - (double)b[u];
                own[from + u][lane] = t * t;
            }
        }
        __syncwarp();
        for (u32 j = 0; j < here; j++) sum += own[lane][j];
        __syncwarp();
    }
    if (row >= rows) return;
    if (!is_finite(sum)) codes[row] = NO_CODE;
    distances[row] = is_finite(sum) ? sum : 0.0;
}

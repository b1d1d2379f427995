// What a training step needs between its ops: src/cuda/quantizer.rs. Plain, a thread an element or a few a row: no `_ref`.
#include "common/lanes.cuh"
#include "common/powers.cuh"

// Rows that are not finite are not trained on: they get no code.
extern "C" __global__ void __launch_bounds__(256) mask_rows(const float* seen, u32 rows, u32 dim, u32 width, u32* codes) {
    Lane lane = lane_of(rows, width);
    bool finite = true;
    for (u32 i = lane.at; i < dim; i += width) finite = finite && is_finite(seen[lane.row * dim + i]);
    bool wild = any32(lane, !finite);
    if (lane.active && lane.at == 0 && wild) codes[lane.row] = NO_CODE;
}

// Notes a code that does not exist and a weight outside 0..=1, by their rows in a batch that is then worked on in parts.
extern "C" __global__ void __launch_bounds__(256) check_rows(const u32* codes, const float* weights, u32 rows, u32 count,
                                                             u32 op, Status* status) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    if (codes) code_of(codes, row, count, status, op);
    weight_of(weights, row, status, op);
}

// Zeros the rows that have no code; where `wild` is set, those that are not finite, too.
extern "C" __global__ void __launch_bounds__(256) clear_rows(const u32* codes, u32 rows, u32 cols, u32 width, u32 wild,
                                                             float* values) {
    Lane lane = lane_of(rows, width);
    values += lane.row * cols;
    bool clear = codes[lane.row] == NO_CODE, finite = true;
    // Threads past the last row stand at it too: they must not read what its own threads write.
    if (wild && lane.active)
        for (u32 i = lane.at; i < cols; i += width) finite = finite && is_finite(values[i]);
    clear = any32(lane, !finite) || clear;
    for (u32 i = lane.at; i < cols && clear && lane.active; i += width) values[i] = 0.0f;
}

// The factor of the commitment term's gradient, 2 w / (Σ weights · dim), from [sum, weight]; 0 beyond f32.
extern "C" __global__ void commitment_scale(const double* total, double weight, u32 dim, float* scale) {
    double elements = total[1] * (double)dim;
    float s = elements > 0.0 ? (float)(2.0 * weight / elements) : 0.0f;
    if (threadIdx.x == 0) *scale = is_finite(s) ? s : 0.0f;
}

struct Part {
    double norms;
    u32 coded;
    u32 wanted;
};

// Of each block of 1,024 rows: the sum of the coded rows' norms, how many have a code, and how many should have.
extern "C" __global__ void __launch_bounds__(256) report_parts(const u32* codes, const float* weights, const float* norms,
                                                               u32 rows, Part* parts) {
    __shared__ double sums[256];
    __shared__ u32 coded, wanted;
    if (threadIdx.x == 0) coded = wanted = 0;
    __syncthreads();
    double sum = 0.0;
    u32 with_code = 0, with_weight = 0;
    for (u32 i = 0; i < ROW_BLOCK; i += 256) {
        u64 row = (u64)blockIdx.x * ROW_BLOCK + i + threadIdx.x;
        if (row < rows) {
            bool has = codes[row] != NO_CODE;
            sum += has ? (double)norms[row] : 0.0;
            with_code += has;
            with_weight += !weights || weights[row] > 0.0f;
        }
    }
    sums[threadIdx.x] = sum;
    atomicAdd(&coded, with_code);
    atomicAdd(&wanted, with_weight);
    __syncthreads();
    for (u32 w = 128; w > 0; w >>= 1) {
        if (threadIdx.x < w) sums[threadIdx.x] += sums[threadIdx.x + w];
        __syncthreads();
    }
    if (threadIdx.x == 0) parts[blockIdx.x] = {sums[0], coded, wanted};
}

// The report's words, in the order of `decode` in src/cuda/quantizer/report.rs; and the step is taken, where there is one.
extern "C" __global__ void report_words(const Part* parts, u32 count, const double* codebook, const double* commitment,
                                        const u32* active, const u32* restart, u64* words, u64* step) {
    if (threadIdx.x != 0) return;
    double norms = 0.0;
    u64 coded = 0, wanted = 0;
    for (u32 i = 0; i < count; i++) {
        norms += parts[i].norms;
        coded += parts[i].coded;
        wanted += parts[i].wanted;
    }
    words[0] = (u64)__double_as_longlong(codebook[0]);
    words[1] = (u64)__double_as_longlong(codebook[1]);
    words[2] = (u64)__double_as_longlong(commitment[0]);
    words[3] = (u64)__double_as_longlong(commitment[1]);
    words[4] = (u64)__double_as_longlong(norms);
    words[5] = coded;
    words[6] = wanted;
    words[7] = active ? active[0] : 0;
    words[8] = restart ? restart[0] : 0;
    words[9] = restart ? restart[1] : 0;
    if (step) *step += 1;
}

// No code is hit: every place of the list is free.
extern "C" __global__ void __launch_bounds__(256) clear_list(u32 len, u32* list) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < len) list[at] = NO_CODE;
}

// Hit codes, ascending: `place` numbers them, NO_CODE for the others.
extern "C" __global__ void __launch_bounds__(256) list_hits(const u32* place, u32 codes, u32 len, u32* list) {
    u64 k = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (k < codes && place[k] < len) list[place[k]] = (u32)k;
}

// The codebook term's gradient at each listed code of weight n and sum S, 2 w (n e - S) / (total · dim); zeros where the
// list is free.
extern "C" __global__ void __launch_bounds__(256) code_gradients(const i64* weights, const i64* sums, int exponent,
                                                                 const int* exponent_there, const u32* list, u32 len,
                                                                 u32 dim, const float* codebook, const double* total,
                                                                 double weight, float* gradients) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)len * dim) return;
    if (exponent_there) exponent = *exponent_there;
    u32 k = list[at / dim];
    float gradient = 0.0f;
    if (k != NO_CODE) {
        u64 element = (u64)k * dim + at % dim;
        double elements = *total * (double)dim, scale = elements > 0.0 ? 2.0 * weight / elements : 0.0;
        double n = weight_in_rows(weights[k]), s = (double)sums[element] * wide_power_of_two(exponent - FRACTION_BITS);
        gradient = (float)(scale * (n * (double)codebook[element] - s));
    }
    gradients[at] = gradient;
}

// Row i to the table's row list[i]; nowhere where the list is free.
extern "C" __global__ void __launch_bounds__(256) scatter_rows(const u32* list, u32 len, u32 dim, const float* rows,
                                                               float* table) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)len * dim) return;
    u32 k = list[at / dim];
    if (k != NO_CODE) table[(u64)k * dim + at % dim] = rows[at];
}

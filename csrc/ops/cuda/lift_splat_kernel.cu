// Lift and splat, forward, without the lifted volume. Pixels one under the other that fall into
// one cell at one depth are a run; runs are listed in the order of their columns, sorted by cell,
// and every cell is then summed by one warp, run after run.
#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "common/cuda/counted_sort.h"
#include "ops/cuda/lift_splat_pixel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kSumThreads = 128;
constexpr int64_t kMostBlocks = 4096;
// A run as 32 bits: number of its first point, then its length - 1, at most a warp's.
constexpr int kLengthBits = 5;
constexpr int64_t kPointLimit = int64_t{1} << (32 - kLengthBits);

// Columns that are worked on together: whole samples, or a part of one. Points in them are numbered
// (column, depth, row).
struct Part {
  int64_t first_column, columns, first_sample;
  bool resumes;  // earlier columns of the sample are in its sums
};

// Weights of the part's pixels, (column, row, depth).
template <class T>
__global__ void __launch_bounds__(kThreads)
    weigh(LiftGeometry g, Part part, Pictures<const T> logits, Sum<T>* weights) {
  const int64_t pixels = part.columns * g.height, warps = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; i < pixels; i += warps) {
    const T* pixel = pixel_of(g, logits, part.first_column + i / g.height, i % g.height);
    softmax(pixel, g.depths, weights + i * g.depths);
  }
}

// A block a column, a lane a row, a warp takes every kWarps-th depth. Counts the runs of each
// depth; or, when counts are added up, writes the runs.
template <bool kWrite>
__global__ void __launch_bounds__(kThreads, 4)
    find_runs(LiftGeometry g, Part part, uint32_t cells, uint32_t* counts, Pairs runs) {
  const int64_t column = part.first_column + blockIdx.x;
  const int64_t sample = column / (g.cameras * g.width) - part.first_sample;
  const unsigned lane = threadIdx.x % kWarp;
  const int64_t groups = (g.height + kWarp - 1) / kWarp;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t row = group * kWarp + lane;
    const LiftRay ray = load_ray(g, column, min(row, g.height - 1));
    for (int64_t d = threadIdx.x / kWarp; d < g.depths; d += kWarps) {
      const int32_t cell = row < g.height ? find_cell(g, ray, g.depths_m[d]) : -1;
      const int32_t above = __shfl_up_sync(kFullWarp, cell, 1);
      const unsigned starts = __ballot_sync(kFullWarp, lane == 0 || cell != above);
      const unsigned kept = starts & __ballot_sync(kFullWarp, cell >= 0);
      const int64_t column_depth = blockIdx.x * g.depths + d, item = column_depth * groups + group;
      if constexpr (!kWrite) {
        if (lane == 0) counts[item] = __popc(kept);
      } else if (kept >> lane & 1) {
        const unsigned later = lane + 1 < kWarp ? starts >> (lane + 1) : 0;
        const uint32_t length = later ? __ffs(later) : kWarp - lane;
        const uint32_t point = static_cast<uint32_t>(column_depth * g.height + row);
        const uint32_t place = (item ? counts[item - 1] : 0) + __popc(kept & ((1u << lane) - 1));
        runs.keys[place] = static_cast<uint32_t>(sample) * cells + static_cast<uint32_t>(cell);
        runs.values[place] = point << kLengthBits | (length - 1);
      }
    }
  }
}

// One warp adds a run to kVectors numbers a lane; the lane's channels are 32 apart.
template <class T, int kVectors>
__device__ void add_run(const T* context, int64_t row_stride, int channels, const Sum<T>* weights,
                        int64_t depths, int length, Sum<T> (&sum)[kVectors]) {
  const int lane = threadIdx.x % kWarp;
  const Sum<T> own = lane < length ? weights[lane * depths] : 0;
#pragma unroll 4
  for (int i = 0; i < length; ++i) {
    const Sum<T> weight = __shfl_sync(kFullWarp, own, i);
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      if (k * kWarp + lane < channels) {
        sum[k] = multiply_add(weight, to_sum(context[k * kWarp + lane]), sum[k]);
      }
    }
    context += row_stride;
  }
}

// A warp owns each run that is the first of its cell, and the cell.
template <class T, int kVectors>
__global__ void __launch_bounds__(kSumThreads, 6)
    sum_cells(LiftGeometry g, Part part, Pictures<const T> logits, const Sum<T>* weights,
              Pairs runs, const uint32_t* count, Sum<T>* bev) {
  const int lane = threadIdx.x % kWarp;
  const int64_t total = *count, first_channel = int64_t{blockIdx.y} * kVectors * kWarp;
  const int channels = static_cast<int>(min(g.channels - first_channel, int64_t{kVectors} * kWarp));
  const int64_t warps = int64_t{gridDim.x} * (kSumThreads / kWarp);
  for (int64_t i = first_item() / kWarp; i < total; i += warps) {
    const uint32_t cell = runs.keys[i];
    if (i > 0 && runs.keys[i - 1] == cell) continue;
    Sum<T>* out = bev + cell * g.channels + first_channel;
    Sum<T> sum[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const bool has = part.resumes && k * kWarp + lane < channels;
      sum[k] = has ? out[k * kWarp + lane] : 0;
    }
    for (int64_t first = i, taken = kWarp; taken == kWarp; first += kWarp) {
      const bool own = first + lane < total && runs.keys[first + lane] == cell;
      taken = __popc(__ballot_sync(kFullWarp, own));
      const uint32_t run = own ? runs.values[first + lane] : 0, point = run >> kLengthBits;
      const auto height = static_cast<uint32_t>(g.height), depths = static_cast<uint32_t>(g.depths);
      const uint32_t column = point / height / depths, row = point % height;
      const T* context = pixel_of(g, logits, part.first_column + column, row) + g.depths;
      const int64_t from = context - logits.data;
      const int64_t weight = int64_t{column * height + row} * g.depths + point / height % depths;
      const int length = static_cast<int>(run & (kWarp - 1)) + 1;
      for (int r = 0; r < taken; ++r) {
        add_run(logits.data + __shfl_sync(kFullWarp, from, r) + first_channel, logits.row_stride,
                channels, weights + __shfl_sync(kFullWarp, weight, r), g.depths,
                __shfl_sync(kFullWarp, length, r), sum);
      }
    }
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      if (k * kWarp + lane < channels) out[k * kWarp + lane] = sum[k];
    }
  }
}

// Scratch memory of one part, used again for the next.
template <class T>
struct Workspace {
  Workspace(Context& context, const LiftGeometry& g, int64_t columns)
      : column_points(g.depths * g.height),
        column_items(g.depths * ((g.height + kWarp - 1) / kWarp)),
        weights(context.buffer<Sum<T>>(columns * column_points)),
        counts(context.buffer<uint32_t>(columns * column_items)) {
    for (Pairs* pairs : {&runs, &other}) {
      pairs->keys = context.buffer<uint32_t>(columns * column_points);
      pairs->values = context.buffer<uint32_t>(columns * column_points);
    }
  }

  int64_t column_points, column_items;
  Sum<T>* weights;
  uint32_t* counts;
  Pairs runs, other;
};

template <class T>
void splat_part(Context& context, const LiftGeometry& g, const Part& part, int64_t samples,
                const Pictures<const T>& logits, const Workspace<T>& space, Sum<T>* bev) {
  const auto cells = static_cast<uint32_t>(g.cells());
  const auto columns = static_cast<unsigned>(part.columns);
  uint32_t* counts = space.counts;
  launch(context, weigh<T>, blocks_for(part.columns * g.height, kWarps), kThreads, 0, g, part,
         logits, space.weights);
  launch(context, find_runs<false>, columns, kThreads, 0, g, part, cells, counts, space.runs);
  const int64_t items = part.columns * space.column_items;
  inclusive_sum(context, counts, counts, items);
  launch(context, find_runs<true>, columns, kThreads, 0, g, part, cells, counts, space.runs);

  const int64_t points = part.columns * space.column_points;
  const uint32_t* count = counts + items - 1;
  const int bits = std::bit_width(static_cast<uint64_t>(samples * g.cells() - 1));
  const Pairs sorted = sort_counted(context, space.runs, space.other, count, points, bits);
  const auto vectors = std::min<int64_t>((g.channels + kWarp - 1) / kWarp, 4);
  const dim3 grid(blocks_for(points, kSumThreads / kWarp, kMostBlocks),
                  blocks_for(g.channels, static_cast<int>(vectors) * kWarp));
  const std::array kernels = {sum_cells<T, 1>, sum_cells<T, 2>, sum_cells<T, 3>, sum_cells<T, 4>};
  launch(context, kernels[vectors - 1], grid, kSumThreads, 0, g, part, logits, space.weights,
         sorted, count, bev + part.first_sample * g.cells() * g.channels);
}

}  // namespace

template <class T>
void lift_splat(Context& context, const LiftGeometry& g, const Pictures<const T>& logits,
                Sum<T>* bev) {
  const int64_t sample_columns = g.cameras * g.width, column_points = g.depths * g.height;
  fill_bytes(context, bev, 0, g.samples * g.cells() * g.channels * sizeof(Sum<T>));
  if (g.samples * sample_columns * column_points == 0) return;
  if (column_points >= kPointLimit) {
    throw std::runtime_error("lift_splat: depths * height must be below 2^27, got " +
                             std::to_string(column_points));
  }
  // Keys number the cells of the samples together in 32 bits.
  const int64_t most_columns = std::max<int64_t>(kLiftPoints / column_points, 1);
  const int64_t most_samples =
      std::min(most_columns / sample_columns, (int64_t{1} << 32) / g.cells());
  const int64_t together = std::clamp<int64_t>(most_samples, 1, g.samples);
  const int64_t step = most_samples ? together * sample_columns : most_columns;
  const Workspace<T> space(context, g, step);
  for (int64_t sample = 0; sample < g.samples; sample += together) {
    const int64_t samples = std::min(together, g.samples - sample);
    const int64_t begin = sample * sample_columns, end = begin + samples * sample_columns;
    for (int64_t column = begin; column < end; column += step) {
      const Part part = {column, std::min(step, end - column), sample, column > begin};
      splat_part(context, g, part, samples, logits, space, bev);
    }
  }
}

#define ANYBEV_LIFT(T) \
  template void lift_splat(Context&, const LiftGeometry&, const Pictures<const T>&, Sum<T>*);
ANYBEV_LIFT(float)
ANYBEV_LIFT(double)
ANYBEV_LIFT(__half)
ANYBEV_LIFT(__nv_bfloat16)

}  // namespace anybev::cuda

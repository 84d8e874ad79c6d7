// BEV pooling: points are sorted by cell, stably, and every cell is summed by one warp, point after
// point; lanes are channels.
#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "common/cuda/algorithms.h"
#include "common/cuda/device.h"
#include "ops/cuda/bev_pool_kernel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int64_t kMostBlocks = 4096;
constexpr unsigned long long kNone = ~0ull;

__global__ void __launch_bounds__(kThreads)
    number_cells(const int32_t* coords, int64_t count, CellBounds bounds, uint32_t* cells,
                 unsigned long long* first_outside) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    const int32_t* at = coords + 4 * i;
    const auto b = static_cast<uint32_t>(at[0]), x = static_cast<uint32_t>(at[1]);
    const auto y = static_cast<uint32_t>(at[2]), z = static_cast<uint32_t>(at[3]);
    if (b >= bounds.b || x >= bounds.x || y >= bounds.y || z >= bounds.z) {
      atomicMin(first_outside, static_cast<unsigned long long>(i));
    }
    cells[i] = ((b * bounds.x + x) * bounds.y + y) * bounds.z + z;
  }
}

__global__ void __launch_bounds__(kThreads) number_points(uint32_t* points, int64_t count) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    points[i] = static_cast<uint32_t>(i);
  }
}

// A warp owns each place that is the first of its cell, and kVectors numbers a lane of the cell.
template <class T, int kVectors>
__global__ void __launch_bounds__(kThreads)
    sum_sorted(const T* features, const uint32_t* cells, const uint32_t* points, int64_t count,
               int64_t all_channels, Sum<T>* sums) {
  const int lane = threadIdx.x % kWarp;
  const int64_t first_channel = int64_t{blockIdx.y} * kVectors * kWarp;
  const int channels =
      static_cast<int>(min(all_channels - first_channel, int64_t{kVectors * kWarp}));
  for (int64_t i = first_item() / kWarp; i < count; i += int64_t{gridDim.x} * kWarps) {
    const uint32_t cell = cells[i];
    if (i > 0 && cells[i - 1] == cell) continue;
    Sum<T> sum[kVectors] = {};
    for (int64_t first = i, taken = kWarp; taken == kWarp; first += kWarp) {
      const bool own = first + lane < count && cells[first + lane] == cell;
      taken = __popc(__ballot_sync(kFullWarp, own));
      const uint32_t point = own ? points[first + lane] : 0;
#pragma unroll 4
      for (int r = 0; r < taken; ++r) {
        const T* row = features + __shfl_sync(kFullWarp, point, r) * all_channels + first_channel;
#pragma unroll
        for (int k = 0; k < kVectors; ++k) {
          if (k * kWarp + lane < channels) sum[k] += to_sum(row[k * kWarp + lane]);
        }
      }
    }
    Sum<T>* out = sums + cell * all_channels + first_channel;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      if (k * kWarp + lane < channels) out[k * kWarp + lane] = sum[k];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    copy_rows(const Sum<T>* rows, const uint32_t* cells, int64_t count, int64_t channels,
              T* features) {
  const int64_t lane = threadIdx.x % kWarp;
  for (int64_t i = first_item() / kWarp; i < count; i += int64_t{gridDim.x} * kWarps) {
    const Sum<T>* row = rows + cells[i] * channels;
    for (int64_t c = lane; c < channels; c += kWarp) {
      features[i * channels + c] = from_sum<T>(row[c]);
    }
  }
}

}  // namespace

int64_t find_cells(Context& context, const int32_t* coords, int64_t count, CellBounds bounds,
                   uint32_t* cells) {
  if (count == 0) return -1;
  auto* first_outside = context.buffer<unsigned long long>(1);
  fill_bytes(context, first_outside, 0xFF, sizeof(kNone));
  launch(context, number_cells, blocks_for(count, kThreads), kThreads, 0, coords, count, bounds,
         cells, first_outside);
  unsigned long long found = kNone;
  read_back(context, &found, first_outside, 1);
  return found == kNone ? -1 : static_cast<int64_t>(found);
}

template <class T>
void sum_points(Context& context, const T* features, const uint32_t* point_cells, int64_t count,
                int64_t channels, int64_t cells, Sum<T>* sums) {
  fill_bytes(context, sums, 0, cells * channels * sizeof(Sum<T>));
  if (count == 0 || channels == 0) return;
  if (count >> 32) {
    throw std::runtime_error("bev_pool: points must be fewer than 2^32, got " +
                             std::to_string(count));
  }
  auto* points = context.buffer<uint32_t>(count);
  auto* sorted_points = context.buffer<uint32_t>(count);
  auto* sorted_cells = context.buffer<uint32_t>(count);
  launch(context, number_points, blocks_for(count, kThreads), kThreads, 0, points, count);
  const int bits = std::bit_width(static_cast<uint64_t>(cells - 1));
  sort_pairs(context, point_cells, sorted_cells, points, sorted_points, count, 0,
             std::max(bits, 1));
  const auto vectors = std::min<int64_t>((channels + kWarp - 1) / kWarp, 4);
  const dim3 grid(blocks_for(count, kWarps, kMostBlocks),
                  blocks_for(channels, static_cast<int>(vectors) * kWarp));
  const std::array kernels = {sum_sorted<T, 1>, sum_sorted<T, 2>, sum_sorted<T, 3>,
                              sum_sorted<T, 4>};
  launch(context, kernels[vectors - 1], grid, kThreads, 0, features, sorted_cells, sorted_points,
         count, channels, sums);
}

template <class T>
void gather_rows(Context& context, const Sum<T>* rows, const uint32_t* point_cells, int64_t count,
                 int64_t channels, T* features) {
  launch(context, copy_rows<T>, blocks_for(count, kWarps, kMostBlocks), kThreads, 0, rows,
         point_cells, count, channels, features);
}

#define ANYBEV_BEV_POOL(T)                                                                 \
  template void sum_points(Context&, const T*, const uint32_t*, int64_t, int64_t, int64_t, \
                           Sum<T>*);                                                       \
  template void gather_rows(Context&, const Sum<T>*, const uint32_t*, int64_t, int64_t, T*);
ANYBEV_BEV_POOL(float)
ANYBEV_BEV_POOL(double)
ANYBEV_BEV_POOL(__half)
ANYBEV_BEV_POOL(__nv_bfloat16)

}  // namespace anybev::cuda

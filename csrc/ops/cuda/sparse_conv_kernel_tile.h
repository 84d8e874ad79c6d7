// A tile of the sparse convolution in a block: the neighbour table of its rows in shared memory,
// and where its threads keep their sums.
#pragma once

#include "ops/cuda/sparse_conv_kernel_products.h"

namespace anybev::cuda {

constexpr int kRows = SparsePairs::kTileRows, kSlabRows = 16;
constexpr int kOffsetsAtOnce = 32;  // rows of the table; their presence is one word

// Where threads keep their sums: four warps one below the other, each with two slabs of 16 rows, so
// that a warp skips what none of its rows has; wide tiles have eight, two side by side.
template <class T, int kColumns, int kDepth, Product kProduct>
struct TileProduct {
  static constexpr int kSlabs = 2, kDown = kRows / kSlabRows / kSlabs;
  static constexpr int kAcross = kColumns > 64 ? 2 : 1, kThreads = kDown * kAcross * kWarp;
  // Padding that keeps the lanes of a load in different banks.
  static constexpr int kLeftStride = kDepth + 16 / sizeof(T), kRightStride = kColumns + 8;
  using Warp = WarpProduct<T, kSlabs, kColumns / kAcross, false, true>;
  static constexpr int kSums = Warp::kSums;

  static __device__ int row(int i) { return first_slab() * kSlabRows + Warp::row(i); }
  static __device__ int column(int i) { return first_column() + Warp::column(i); }

  // Bit s of `slabs`: slab s of the tile has a pair at this offset; the rows of others are not set.
  static __device__ __forceinline__ void multiply(const T* left, const T* right, unsigned slabs,
                                                  float* sums) {
    const unsigned mine = slabs >> first_slab() & 3;
    left += first_slab() * kSlabRows * kLeftStride;
    right += first_column();
#pragma unroll
    for (int k = 0; k < kDepth; k += Warp::kInner) {
      const T* a = left + k;
      const T* b = right + k * kRightStride;
      if (mine == 3) {
        Warp::template multiply<3>(a, kLeftStride, b, kRightStride, sums);
      } else if (mine == 1) {
        Warp::template multiply<1>(a, kLeftStride, b, kRightStride, sums);
      } else if (mine == 2) {
        Warp::template multiply<2>(a, kLeftStride, b, kRightStride, sums);
      }
    }
  }

 private:
  static __device__ int first_slab() { return threadIdx.x / kWarp % kDown * kSlabs; }
  static __device__ int first_column() {
    return static_cast<int>(threadIdx.x) / kWarp / kDown * (kColumns / kAcross);
  }
};

// The same by threads: a warp has one slab, a thread 8 rows and kColumns / 16 columns of it.
template <class T, int kColumns, int kDepth>
  requires(sizeof(T) > 2)
struct TileProduct<T, kColumns, kDepth, Product::exact> {
  static constexpr int kThreads = kRows / kSlabRows * kWarp, kHigh = 8, kWide = kColumns / 16;
  static constexpr int kStep = 16 / sizeof(T);
  static constexpr int kLeftStride = kDepth + kStep, kRightStride = kColumns + kStep;
  static constexpr int kSums = kHigh * kWide;

  static __device__ int row(int i) { return threadIdx.x / 16 * kHigh + i / kWide; }
  static __device__ int column(int i) { return threadIdx.x % 16 * kWide + i % kWide; }

  static __device__ __forceinline__ void multiply(const T* left, const T* right, unsigned slabs,
                                                  T* sums) {
    if (!(slabs >> threadIdx.x / kWarp & 1)) return;
    left += row(0) * kLeftStride;
    right += column(0);
#pragma unroll 1
    for (int k = 0; k < kDepth; k += kStep) {
      Numbers<T, kStep> a[kHigh];
#pragma unroll
      for (int r = 0; r < kHigh; ++r) {
        a[r] = *reinterpret_cast<const Numbers<T, kStep>*>(left + r * kLeftStride + k);
      }
#pragma unroll
      for (int d = 0; d < kStep; ++d) {
        const auto b = *reinterpret_cast<const Numbers<T, kWide>*>(right + (k + d) * kRightStride);
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          sums[i] = multiply_add(a[i / kWide].x[d], b.x[i % kWide], sums[i]);
        }
      }
    }
  }
};

// Who feeds the rows of the tile, for some of the offsets.
struct Table {
  int32_t source[kOffsetsAtOnce][kRows];  // feature row, -1 without a neighbour
  unsigned slabs[kOffsetsAtOnce];         // bit s: slab s has a neighbour at this offset
  unsigned damaged[kRows / 32];           // bit by row
};

// Fill the table with offsets [first, first + count) of this block's tile.
__device__ inline void expand(const SparsePairs& pairs, int first, int count, Table& table) {
  const int lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int64_t tile = blockIdx.x;
  const auto height = static_cast<unsigned>(min(int64_t{kRows}, pairs.rows - tile * kRows));
  for (int i = threadIdx.x; i < count * kRows; i += blockDim.x) {
    table.source[i / kRows][i % kRows] = -1;
  }
  __syncthreads();
  for (int k = threadIdx.x / kWarp; k < count; k += warps) {
    const int64_t list = tile * pairs.offsets + first + k;
    const int64_t begin = pairs.start[list], end = pairs.start[list + 1];
    const bool joined = (list > 0 || begin == 0) &&
                        (list + 1 < pairs.tiles() * pairs.offsets || end == pairs.count);
    const bool sound = joined && 0 <= begin && begin <= end && end <= pairs.count;
    if (!sound && lane < kRows / 32) atomicOr(&table.damaged[lane], ~0u);
    unsigned slabs = 0;
    for (int64_t p = sound ? begin + lane : end; p < end; p += kWarp) {
      const auto row = static_cast<unsigned>(static_cast<int>(pairs.row[p]));
      const int32_t source = pairs.source[p];
      if (row >= height) {
        for (unsigned& word : table.damaged) atomicOr(&word, ~0u);
      } else if (source < 0 || source >= pairs.sources) {
        atomicOr(&table.damaged[row / 32], 1u << row % 32);
      } else {
        table.source[k][row] = source;
        slabs |= 1u << row / kSlabRows;
      }
    }
    slabs = __reduce_or_sync(kFullWarp, slabs);
    if (lane == 0) table.slabs[k] = slabs;
  }
  __syncthreads();
}

}  // namespace anybev::cuda

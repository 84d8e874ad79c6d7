// From windows to pair lists, and the memory that plans are built in.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "ops/cpu/sparse_neighbors_kernel.h"

namespace anybev::sparse_neighbors {

// Kernels for this processor.
const NeighborKernels& neighbor_kernels();

inline int64_t tiles_of(int64_t rows) { return (rows + kTile - 1) / kTile; }

// Memory that grows, keeps what it held, and is not filled.
template <class T>
class Buffer {
 public:
  T* data() const { return data_.get(); }
  T* grow(int64_t count) {
    if (count > capacity_) {
      std::unique_ptr<T[]> larger(new T[count]);
      std::copy_n(data_.get(), capacity_, larger.get());
      data_ = std::move(larger);
      capacity_ = count;
    }
    return data_.get();
  }

 private:
  std::unique_ptr<T[]> data_;
  int64_t capacity_ = 0;
};

// Windows of one plan, which grow by the rows of one sample after the other.
class WindowBuffer {
 public:
  Windows grow(const ConvGeometry& geometry, int64_t rows) {
    const int64_t tiles = tiles_of(rows);
    return {first_.grow(tiles * geometry.columns() * kTile),
            present_.grow(tiles * geometry.offsets() * kGroups), geometry.columns(),
            geometry.kernel[2]};
  }

 private:
  Buffer<int32_t> first_;
  Buffer<uint16_t> present_;
};

// pair_source, pair_row, tile_ptr.
std::vector<at::Tensor> emit_lists(const Windows& windows, int64_t rows,
                                   const int32_t* row_of_rank);

}  // namespace anybev::sparse_neighbors

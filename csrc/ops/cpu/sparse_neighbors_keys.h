// Neighbours by sorted 64-bit keys, for grids that the column index does not hold (deeper than 64
// cells, or a plane too wide) and for batches whose samples are not one after the other.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/cpu/sparse_neighbors_columns.h"
#include "ops/cpu/sparse_neighbors_kernel.h"

namespace anybev::sparse_neighbors {

class SortedSites {
 public:
  // `coords` is (rows, 4) in (b, x, y, z), in any order.
  SortedSites(const int32_t* coords, int64_t rows, const Shape3& shape);

  // Row of a site that is there twice, or -1.
  int64_t duplicate() const;
  // Null when rows ascend, so that ranks are rows.
  const int32_t* row_of_rank() const { return rows_.empty() ? nullptr : rows_.data(); }
  // (b, x, y, z) of every output that the sites reach, ascending.
  std::vector<int32_t> reached(const ConvGeometry& geometry) const;
  // As FindWindows of sparse_neighbors_kernel.h, for any kernel.
  void find_windows(const ConvGeometry& geometry, const int32_t* coords, int64_t begin, int64_t end,
                    const Windows& windows) const;

 private:
  int64_t key(int64_t b, int64_t x, int64_t y, int64_t z) const {
    return ((b * shape_.x + x) * shape_.y + y) * shape_.z + z;
  }
  // Rank of the first key that is at least `wanted`; quick when it lies just behind `hint`.
  int64_t lower_bound(int64_t wanted, int64_t hint) const;

  Shape3 shape_;
  std::vector<int64_t> keys_;
  std::vector<int32_t> rows_;
};

}  // namespace anybev::sparse_neighbors

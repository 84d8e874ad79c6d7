// Points in the order of their voxels: what the sums run along.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace anybev::scatter_points {

constexpr int64_t kRowsPerTask = 1 << 14;

// Points sorted by voxel, then by row. Voxel v holds words [starts[v], starts[v + 1]); the lower
// bits of a word, `row_mask`, are the row of its point. Words live in the calling thread's scratch.
struct Grouped {
  const uint64_t* words;
  uint64_t row_mask;
  std::vector<int64_t> starts;
  at::Tensor out_coords, point2voxel;

  int64_t voxels() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t row(int64_t i) const { return static_cast<int64_t>(words[i] & row_mask); }
};

// `coords` is (P, D) int32 or int64; rows with a negative number belong to no voxel.
Grouped group_points(const at::Tensor& coords);

}  // namespace anybev::scatter_points

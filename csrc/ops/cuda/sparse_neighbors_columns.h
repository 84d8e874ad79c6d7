// Column words of one level of sites, and the windows that rows see in them. For kernel files.
#pragma once

#include "ops/cuda/sparse_neighbors_windows.h"

namespace anybev::cuda::sparse_neighbors {

constexpr int kMaxDepth = 64;

// One level: its words and ranks are those of all levels from `first` on.
struct Columns {
  const Word* cells;
  const int32_t* rank;
  int32_t first_rank;  // rank of the level's first column, as ranks run through all levels
  int64_t x, y, z, batch;

  __host__ __device__ int64_t count() const { return batch * x * y; }
  __device__ bool holds(const int4& site) const {
    return site.x >= 0 && site.x < batch && site.y >= 0 && site.y < x && site.z >= 0 &&
           site.z < y && site.w >= 0 && site.w < z;
  }
  __device__ int64_t column(int64_t b, int64_t i, int64_t j) const { return (b * x + i) * y + j; }
};

// Bits of `cells` moved up by `cells_up`, which may be negative.
__device__ inline Word moved(Word cells, int64_t cells_up) {
  if (cells_up >= kMaxDepth || cells_up <= -kMaxDepth) return 0;
  return cells_up >= 0 ? cells << cells_up : cells >> -cells_up;
}
__device__ inline Word cells_below(int64_t z) {
  return z >= kMaxDepth ? ~Word{0} : (Word{1} << z) - 1;
}

// Windows of output rows among the sites of a level.
struct ColumnFinder {
  Columns in;
  ConvGeometry g;
  const int4* sites;           // of the outputs
  const int32_t* row_of_rank;  // null where ranks are rows

  __device__ Window window(int64_t row, int column, int first_tap, int taps) const {
    const int4 site = sites[row];
    const int64_t x = int64_t{site.y} * g.stride[0] - g.padding[0] + column / g.kernel[1];
    const int64_t y = int64_t{site.z} * g.stride[1] - g.padding[1] + column % g.kernel[1];
    Window found;
    if (x < 0 || x >= in.x || y < 0 || y >= in.y) return found;
    const int64_t at = in.column(site.x, x, y);
    const int64_t z = int64_t{site.w} * g.stride[2] - g.padding[2] + first_tap;
    const Word cells = in.cells[at];
    found.present = static_cast<unsigned>(moved(cells, -z) & cells_below(taps));
    if (found.present) {
      found.first = in.rank[at] - in.first_rank + __popcll(cells & cells_below(max(z, int64_t{0})));
    }
    return found;
  }
  __device__ int32_t row_of(int32_t rank) const { return row_of_rank ? row_of_rank[rank] : rank; }
};

}  // namespace anybev::cuda::sparse_neighbors

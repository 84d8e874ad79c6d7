// Plans of consecutive sparse convolutions: what the binding asks of the two indices of sites.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/cuda/context.h"
#include "common/sparse_pyramid.h"

namespace anybev::cuda::sparse_neighbors {

using anybev::sparse_neighbors::ConvGeometry;
using anybev::sparse_neighbors::kTile;
using anybev::sparse_neighbors::Layer;
using anybev::sparse_neighbors::Pyramid;
using anybev::sparse_neighbors::reaching;
using anybev::sparse_neighbors::Shape3;

inline int64_t tiles_of(int64_t rows) { return (rows + kTile - 1) / kTile; }

// What the host learns of a call before it allocates the results.
struct Counts {
  static constexpr uint64_t kNone = ~uint64_t{0};

  uint64_t row_outside = kNone;  // first row that is not in the batch and the grid
  uint64_t cell_twice = kNone;   // lowest cell, numbered along (b, x, y, z), with two rows
  std::vector<int64_t> sites;    // by level
  std::vector<int64_t> pairs;    // by layer
  bool is_refused() const { return row_outside != kNone || cell_twice != kNone; }
};

// Where the lists of one layer go, as PairLists in device/ops/sparse_neighbors.py.
struct Lists {
  int32_t* source;
  int16_t* row;
  int32_t* tile_ptr;
};

// Plans of one call: first `count`, which waits for the device, then, unless the rows are refused,
// the coordinates of every level but the first, then the lists. Pointers stay with the caller.
class Planner {
 public:
  virtual ~Planner() = default;
  virtual Counts count() = 0;
  virtual void write_coords(size_t level, int32_t* coords) = 0;
  virtual void write_lists(const std::vector<Lists>& layers) = 0;
};

// `coords` is (rows, 4) in (b, x, y, z), aligned to 16 bytes. By columns: one word a column (x, y)
// of the whole batch, bit z set where the cell is occupied; one wait for the device.
bool fits_columns(const Pyramid& pyramid);
std::unique_ptr<Planner> plan_by_columns(Context& context, const int32_t* coords, int64_t rows,
                                         const Pyramid& pyramid);
// By sorted 64-bit numbers of cells, for any grid; one wait, and one more a strided layer.
std::unique_ptr<Planner> plan_by_keys(Context& context, const int32_t* coords, int64_t rows,
                                      const Pyramid& pyramid);

// table[row * offsets + k]: source of the pair of that row and offset, or -1.
void write_table(Context& context, const int32_t* pair_source, const int16_t* pair_row,
                 const int32_t* tile_ptr, int64_t tiles, int offsets, int64_t rows, int32_t* table);
// Lists with the roles of rows and sources swapped; sources must lie in [0, in_rows), pairs that
// do not are left out.
void transpose_lists(Context& context, const int32_t* pair_source, const int16_t* pair_row,
                     const int32_t* tile_ptr, int64_t tiles, int offsets, int64_t in_rows,
                     const Lists& out);

}  // namespace anybev::cuda::sparse_neighbors

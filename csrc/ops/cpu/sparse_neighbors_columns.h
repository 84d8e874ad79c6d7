// Index of the occupied cells of one sample: one word a column (x, y), bit z set where occupied.
//
// The rank of a cell among all of the sample is the rank of its column plus a popcount, so nothing
// is sorted or hashed, and the cells of an output grid are bit operations on the words.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "ops/cpu/sparse_neighbors_kernel.h"

namespace anybev::sparse_neighbors {

struct Shape3 {
  int64_t x, y, z;
};

// Cells along each axis of the output grid.
Shape3 output_shape(const Shape3& shape, const ConvGeometry& geometry);

// Outputs along one axis whose kernel covers input position i, first to last; none when last is
// below first.
struct Span {
  int64_t first, last;
};
Span reaching(int64_t i, int axis, const ConvGeometry& geometry, int64_t size);

class ColumnIndex {
 public:
  // Widest plane, in columns, and deepest word: beyond either the index costs more than it saves.
  static constexpr int64_t kMaxColumns = int64_t{1} << 24;
  static constexpr int64_t kMaxDepth = 64;

  struct Column {
    int32_t x, y;
    int32_t base;  // rank of its lowest cell
    uint64_t cells;
  };

  // Prepares for a grid of x * y columns that kernels leave by at most the padding. The index is
  // empty before and after.
  void resize(int64_t x, int64_t y, int64_t pad_x, int64_t pad_y);

  // Adds rows (b, x, y, z) that ascend; their ranks start at first_rank.
  void insert_ascending(const int32_t* coords, int64_t rows, int32_t first_rank);
  // Adds rows in any order; rows that are there twice count once.
  void insert(const int32_t* coords, int64_t rows, int32_t first_rank);
  // Adds the outputs that the cells of `from` reach.
  void insert_reached(const ColumnIndex& from, const ConvGeometry& geometry, const Shape3& shape,
                      int32_t first_rank);

  int64_t cell_count() const { return cell_count_; }
  int64_t rank(int32_t x, int32_t y, int32_t z) const {
    const int64_t at = origin_ + x * pitch_ + y;
    return base_[at] + __builtin_popcountll(mask_[at] & ((uint64_t{1} << z) - 1));
  }
  // Writes (b, x, y, z) of every cell in rank order.
  void write_cells(int32_t sample, int32_t* coords) const;
  ColumnView view() const { return {mask_.get() + origin_, base_.get() + origin_, pitch_}; }
  // Empties the columns in use; the memory stays.
  void clear();

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  void mark(int64_t x, int64_t y, uint64_t cells) {
    mask_[origin_ + x * pitch_ + y] |= cells;
    in_use_[x * words_ + (y >> 6)] |= uint64_t{1} << (y & 63);
  }
  void append(int32_t x, int32_t y, uint64_t cells);
  void collect(int32_t first_rank);

  // Zeroed by calloc, so pages that no cell touches cost nothing.
  std::unique_ptr<uint64_t[], Free> mask_;
  std::unique_ptr<int32_t[], Free> base_;
  std::vector<uint64_t> in_use_;  // one bit a column, only while cells are being added
  std::vector<Column> columns_;   // ascending
  int64_t capacity_ = 0, size_x_ = 0, pitch_ = 0, words_ = 0, origin_ = 0;
  int64_t cell_count_ = 0;
  int32_t next_rank_ = 0;
};

}  // namespace anybev::sparse_neighbors

// Index of the occupied cells of one sample: one word a column (x, y), bit z set where occupied.
//
// The rank of a cell among all of the sample is the rank of its column, kept in the word's upper
// bits, plus a popcount: nothing is sorted or hashed, and the cells of an output grid are bit
// operations on the words.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "ops/cpu/sparse_neighbors_kernel.h"

namespace anybev::sparse_neighbors {

class ColumnIndex {
 public:
  // Widest plane, in columns: beyond it the index costs more than it saves.
  static constexpr int64_t kMaxColumns = int64_t{1} << 24;

  struct Column {
    int32_t x, y;
    uint64_t cells;
  };

  // Whether a word has room for `depth` cells and the rank of one of `sites`.
  static bool holds(int64_t depth, int64_t sites) {
    return depth < 64 && sites < int64_t{1} << std::min<int64_t>(64 - depth, 31);
  }

  // Prepares for a grid that kernels leave by at most the padding. The index is empty before and
  // after.
  void resize(const Shape3& shape, int64_t pad_x, int64_t pad_y);

  // Adds rows (b, x, y, z) that ascend.
  void insert_ascending(const int32_t* coords, int64_t rows);
  // Adds rows in any order; rows that are there twice count once.
  void insert(const int32_t* coords, int64_t rows);
  // Adds the outputs that the cells of `from` reach.
  void insert_reached(const ColumnIndex& from, const ConvGeometry& geometry, const Shape3& shape);

  int32_t cell_count() const { return cell_count_; }
  int32_t rank(int32_t x, int32_t y, int32_t z) const;
  // Writes (b, x, y, z) of every cell in rank order.
  void write_cells(int32_t sample, int32_t* coords) const;
  ColumnView view(int32_t first_rank) const {
    return {words_.get() + origin_, pitch_, depth_, first_rank};
  }
  // Empties the columns in use; the memory stays.
  void clear();

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  void mark(int64_t x, int64_t y, uint64_t cells) {
    words_[origin_ + x * pitch_ + y] |= cells;
    in_use_[x * in_use_pitch_ + (y >> 6)] |= uint64_t{1} << (y & 63);
  }
  void append(int32_t x, int32_t y, uint64_t cells);
  void collect();

  // Zero wherever no column is in use.
  std::unique_ptr<uint64_t[], Free> words_;
  std::vector<uint64_t> in_use_;  // one bit a column, only while cells are being added
  std::vector<Column> columns_;   // ascending
  int64_t capacity_ = 0, size_x_ = 0, pitch_ = 0, pad_y_ = 0, in_use_pitch_ = 0, origin_ = 0;
  int32_t depth_ = 0, cell_count_ = 0;
};

}  // namespace anybev::sparse_neighbors

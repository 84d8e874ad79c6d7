#include "ops/cpu/sparse_neighbors_columns.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

namespace anybev::sparse_neighbors {
namespace {

// Every second bit of the word, from bit 0.
uint64_t even_bits(uint64_t v) {
  v &= 0x5555555555555555u;
  v = (v | v >> 1) & 0x3333333333333333u;
  v = (v | v >> 2) & 0x0F0F0F0F0F0F0F0Fu;
  v = (v | v >> 4) & 0x00FF00FF00FF00FFu;
  v = (v | v >> 8) & 0x0000FFFF0000FFFFu;
  return (v | v >> 16) & 0x00000000FFFFFFFFu;
}

uint64_t every_nth_bit(uint64_t v, int32_t n) {
  if (n == 1) return v;
  if (n == 2) return even_bits(v);
  uint64_t out = 0;
  for (int32_t from = 0, to = 0; from < 64; from += n, ++to) out |= (v >> from & 1) << to;
  return out;
}

// Outputs along z that the occupied cells of a column reach.
uint64_t reached_cells(uint64_t cells, const ConvGeometry& g, int64_t depth) {
  uint64_t moved = 0;
  for (int32_t tap = 0; tap < g.kernel[2]; ++tap) {
    const int32_t up = g.padding[2] - tap;
    moved |= up >= 0 ? cells << up : cells >> -up;
  }
  const uint64_t inside = depth >= 64 ? ~uint64_t{0} : (uint64_t{1} << depth) - 1;
  return every_nth_bit(moved, g.stride[2]) & inside;
}

// Zeroed memory, in huge pages where the system has them, because readers jump about in it.
uint64_t* zeroed_words(int64_t count) {
#if defined(__linux__)
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t bytes = (count * sizeof(uint64_t) + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = std::aligned_alloc(kHugePage, bytes);
  if (!memory) return nullptr;
  madvise(memory, bytes, MADV_HUGEPAGE);  // advice: failure changes speed alone
  return static_cast<uint64_t*>(std::memset(memory, 0, bytes));
#else
  return static_cast<uint64_t*>(std::calloc(static_cast<size_t>(count), sizeof(uint64_t)));
#endif
}

}  // namespace

void ColumnIndex::resize(const Shape3& shape, int64_t pad_x, int64_t pad_y) {
  size_x_ = shape.x;
  depth_ = static_cast<int32_t>(shape.z);
  pad_y_ = pad_y;
  pitch_ = shape.y + 2 * pad_y;
  in_use_pitch_ = (shape.y + 63) / 64;
  origin_ = pad_x * pitch_ + pad_y;
  in_use_.resize(static_cast<size_t>(size_x_ * in_use_pitch_), 0);
  const int64_t needed = (size_x_ + 2 * pad_x) * pitch_ + kWordSlack;
  if (needed <= capacity_) return;
  capacity_ = 0;
  words_.reset(zeroed_words(needed));
  if (!words_) throw std::bad_alloc();
  capacity_ = needed;
}

void ColumnIndex::append(int32_t x, int32_t y, uint64_t cells) {
  words_[origin_ + x * pitch_ + y] = cells | static_cast<uint64_t>(cell_count_) << depth_;
  columns_.push_back({x, y, cells});
  cell_count_ += count_bits(cells);
}

int32_t ColumnIndex::rank(int32_t x, int32_t y, int32_t z) const {
  const uint64_t word = words_[origin_ + x * pitch_ + y];
  return static_cast<int32_t>(word >> depth_) + count_bits(word & ((uint64_t{1} << z) - 1));
}

void ColumnIndex::insert_ascending(const int32_t* coords, int64_t rows) {
  for (int64_t i = 0; i < rows;) {
    const int32_t x = coords[4 * i + 1], y = coords[4 * i + 2];
    uint64_t cells = 0;
    for (; i < rows && coords[4 * i + 1] == x && coords[4 * i + 2] == y; ++i) {
      cells |= uint64_t{1} << coords[4 * i + 3];
    }
    append(x, y, cells);
  }
}

void ColumnIndex::insert(const int32_t* coords, int64_t rows) {
  for (const int32_t* site = coords; site < coords + 4 * rows; site += 4) {
    mark(site[1], site[2], uint64_t{1} << site[3]);
  }
  collect();
}

void ColumnIndex::insert_reached(const ColumnIndex& from, const ConvGeometry& g,
                                 const Shape3& shape) {
  const std::vector<Column>& sources = from.columns_;
  std::vector<uint64_t> reached(sources.size());
  for (size_t i = 0; i < sources.size(); ++i) {
    reached[i] = reached_cells(sources[i].cells, g, shape.z);
  }
  // A table, because a division a column would cost as much as the rest.
  std::vector<Span> along_y(static_cast<size_t>(from.pitch_ - 2 * from.pad_y_));
  for (size_t y = 0; y < along_y.size(); ++y) {
    along_y[y] = reaching(static_cast<int64_t>(y), 1, g, shape.y);
  }
  // One row of outputs at a time, so that they meet in a buffer that stays in the first cache.
  std::vector<uint64_t> row(static_cast<size_t>(shape.y), 0);
  size_t begin = 0;
  for (int64_t x = 0; x < shape.x && begin < sources.size(); ++x) {
    const int64_t first = x * g.stride[0] - g.padding[0], last = first + g.kernel[0] - 1;
    while (begin < sources.size() && sources[begin].x < first) ++begin;
    for (size_t i = begin; i < sources.size() && sources[i].x <= last; ++i) {
      if (!reached[i]) continue;
      const Span ys = along_y[sources[i].y];
      for (int64_t y = ys.first; y <= ys.last; ++y) {
        row[y] |= reached[i];
        in_use_[y >> 6] |= uint64_t{1} << (y & 63);
      }
    }
    for (int64_t word = 0; word < in_use_pitch_; ++word) {
      for (; in_use_[word]; in_use_[word] &= in_use_[word] - 1) {
        const int64_t y = word * 64 + std::countr_zero(in_use_[word]);
        append(static_cast<int32_t>(x), static_cast<int32_t>(y), row[y]);
        row[y] = 0;
      }
    }
  }
}

void ColumnIndex::collect() {
  for (int64_t x = 0; x < size_x_; ++x) {
    for (int64_t word = 0; word < in_use_pitch_; ++word) {
      uint64_t& left = in_use_[x * in_use_pitch_ + word];
      for (; left; left &= left - 1) {
        const int64_t y = word * 64 + std::countr_zero(left);
        append(static_cast<int32_t>(x), static_cast<int32_t>(y), words_[origin_ + x * pitch_ + y]);
      }
    }
  }
}

void ColumnIndex::write_cells(int32_t sample, int32_t* coords) const {
  for (const Column& column : columns_) {
    for (uint64_t left = column.cells; left; left &= left - 1, coords += 4) {
      coords[0] = sample;
      coords[1] = column.x;
      coords[2] = column.y;
      coords[3] = std::countr_zero(left);
    }
  }
}

void ColumnIndex::clear() {
  for (const Column& column : columns_) words_[origin_ + column.x * pitch_ + column.y] = 0;
  columns_.clear();
  cell_count_ = 0;
}

}  // namespace anybev::sparse_neighbors

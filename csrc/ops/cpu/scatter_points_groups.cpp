// Groups points by coordinate: each row becomes one 64-bit word, its linear cell above its row
// number, and the words are sorted by radix. A spread of coordinates that leaves no room for the
// row number is sorted by comparison instead.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "common/copy_row.h"
#include "common/radix_sort.h"
#include "ops/cpu/scatter_points_kernel.h"

namespace anybev::scatter_points {
namespace {

constexpr int64_t kMostCells = int64_t{1} << 62;
constexpr int64_t kWordsAhead = 16;  // words between a prefetch and its use

// Lowest and highest number of each column over the rows without a negative one.
struct Bounds {
  std::vector<int64_t> low, high;
  int64_t rows = 0;

  explicit Bounds(int64_t columns)
      : low(columns, std::numeric_limits<int64_t>::max()), high(columns, -1) {}
};

template <class Number>
bool is_valid(const Number* row, int64_t columns) {
  Number bits = 0;
  for (int64_t d = 0; d < columns; ++d) bits |= row[d];
  return bits >= 0;
}

template <class Number>
Bounds find_bounds(const Number* coords, int64_t count, int64_t columns) {
  const int64_t tasks = (count + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<Bounds> parts(static_cast<size_t>(tasks), Bounds(columns));
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      Bounds part(columns);
      const int64_t last = std::min(count, (task + 1) * kRowsPerTask);
      for (int64_t i = task * kRowsPerTask; i < last; ++i) {
        const Number* row = coords + i * columns;
        if (!is_valid(row, columns)) continue;
        ++part.rows;
        for (int64_t d = 0; d < columns; ++d) {
          part.low[d] = std::min<int64_t>(part.low[d], row[d]);
          part.high[d] = std::max<int64_t>(part.high[d], row[d]);
        }
      }
      parts[task] = part;
    }
  });
  Bounds all(columns);
  for (const Bounds& part : parts) {
    all.rows += part.rows;
    for (int64_t d = 0; d < columns; ++d) {
      all.low[d] = std::min(all.low[d], part.low[d]);
      all.high[d] = std::max(all.high[d], part.high[d]);
    }
  }
  return all;
}

// Linear cells: sum of (number - low) * stride; `cells` of them in all.
struct Linear {
  std::vector<int64_t> low, stride;
  int64_t cells = 1;

  explicit Linear(const Bounds& bounds) : low(bounds.low), stride(bounds.low.size()) {
    if (bounds.rows == 0) return;
    for (size_t d = low.size(); d-- > 0;) {
      stride[d] = cells;
      const auto extent = static_cast<unsigned __int128>(bounds.high[d] - low[d]) + 1;
      const unsigned __int128 all = static_cast<unsigned __int128>(cells) * extent;
      TORCH_CHECK_VALUE(all <= static_cast<unsigned __int128>(kMostCells),
                        "scatter_points: coords must span at most 2^62 cells, got ",
                        at::ArrayRef<int64_t>(bounds.low), " to ",
                        at::ArrayRef<int64_t>(bounds.high));
      cells = static_cast<int64_t>(all);
    }
  }

  // A row without a voxel comes after all cells.
  template <class Number>
  int64_t key(const Number* row) const {
    const auto columns = static_cast<int64_t>(low.size());
    if (!is_valid(row, columns)) return cells;
    int64_t sum = 0;
    for (int64_t d = 0; d < columns; ++d) sum += (row[d] - low[d]) * stride[d];
    return sum;
  }
};

// Rows by key where key and row do not fit one word; keys become ranks, which do.
template <class Number>
void sort_wide(const Number* coords, int64_t count, const Linear& linear, int row_bits,
               std::vector<uint64_t>& words) {
  const auto columns = static_cast<int64_t>(linear.low.size());
  std::vector<int64_t> keys(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) keys[i] = linear.key(coords + i * columns);
  std::vector<int64_t> rows(keys.size());
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(),
                   [&](int64_t a, int64_t b) { return keys[a] < keys[b]; });
  uint64_t rank = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i && keys[rows[i]] != keys[rows[i - 1]]) ++rank;
    words[i] = rank << row_bits | static_cast<uint64_t>(rows[i]);
  }
}

struct Scratch {
  std::vector<uint64_t> words, spare;
};

// Sorted words of all rows; the valid ones come first.
template <class Number>
void sort_rows(const Number* coords, int64_t count, const Linear& linear, int row_bits,
               Scratch& scratch) {
  const auto columns = static_cast<int64_t>(linear.low.size());
  const int key_bits = std::bit_width(static_cast<uint64_t>(linear.cells));
  scratch.words.resize(static_cast<size_t>(count));
  if (key_bits + row_bits > 64) {
    sort_wide(coords, count, linear, row_bits, scratch.words);
    return;
  }
  uint64_t* const words = scratch.words.data();
  at::parallel_for(0, count, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto key = static_cast<uint64_t>(linear.key(coords + i * columns));
      words[i] = key << row_bits | static_cast<uint64_t>(i);
    }
  });
  radix_sort(scratch.words, scratch.spare, row_bits, row_bits + key_bits);
}

// Numbers the voxels and writes the voxel of each point and the coordinates of each voxel.
template <class Number>
void number_voxels(const Number* coords, int64_t columns, int64_t count, int64_t valid,
                   int row_bits, Grouped& grouped) {
  const uint64_t* const words = grouped.words;
  const auto opens = [&](int64_t i) {
    return i == 0 || words[i] >> row_bits != words[i - 1] >> row_bits;
  };
  const int64_t tasks = (valid + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<int64_t> first(static_cast<size_t>(tasks) + 1);  // voxel at the start of each task
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t last = std::min(valid, (task + 1) * kRowsPerTask);
      for (int64_t i = task * kRowsPerTask; i < last; ++i) first[task + 1] += opens(i);
    }
  });
  std::partial_sum(first.begin(), first.end(), first.begin());
  const int64_t voxels = first.back();
  grouped.starts.resize(static_cast<size_t>(voxels) + 1, valid);
  grouped.out_coords = at::empty({voxels, columns}, grouped.out_coords.options());
  Number* const out = grouped.out_coords.mutable_data_ptr<Number>();
  int32_t* const voxel_of = grouped.point2voxel.mutable_data_ptr<int32_t>();
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t last = std::min(valid, (task + 1) * kRowsPerTask);
      int64_t voxel = first[task] - 1;
      for (int64_t i = task * kRowsPerTask; i < last; ++i) {
        if (i + kWordsAhead < last) {
          const int64_t next = grouped.row(i + kWordsAhead);
          __builtin_prefetch(coords + next * columns);
          __builtin_prefetch(voxel_of + next, 1);
        }
        if (opens(i)) {
          grouped.starts[++voxel] = i;
          copy_row(coords + grouped.row(i) * columns, columns, out + voxel * columns);
        }
        voxel_of[grouped.row(i)] = static_cast<int32_t>(voxel);
      }
    }
  });
  at::parallel_for(valid, count, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) voxel_of[grouped.row(i)] = -1;
  });
}

template <class Number>
Grouped group_rows(const at::Tensor& coords) {
  const int64_t count = coords.size(0), columns = coords.size(1);
  const Number* const source = coords.const_data_ptr<Number>();
  const Bounds bounds = find_bounds(source, count, columns);
  const int row_bits = std::bit_width(static_cast<uint64_t>(count));
  static thread_local Scratch scratch;
  sort_rows(source, count, Linear(bounds), row_bits, scratch);
  Grouped grouped;
  grouped.words = scratch.words.data();
  grouped.row_mask = (uint64_t{1} << row_bits) - 1;
  grouped.out_coords = coords;
  grouped.point2voxel = at::empty({count}, coords.options().dtype(at::kInt));
  number_voxels(source, columns, count, bounds.rows, row_bits, grouped);
  return grouped;
}

}  // namespace

Grouped group_points(const at::Tensor& coords) {
  TORCH_CHECK_VALUE(coords.size(0) < (int64_t{1} << 31),
                    "scatter_points: coords must have fewer than 2^31 rows, got ", coords.size(0));
  const at::Tensor rows = coords.contiguous();
  return rows.scalar_type() == at::kLong ? group_rows<int64_t>(rows) : group_rows<int32_t>(rows);
}

}  // namespace anybev::scatter_points

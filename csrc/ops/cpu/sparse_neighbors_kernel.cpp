// Plans of consecutive sparse convolutions on the CPU. Sample after sample, so that one index a
// level serves the whole batch; the rows of a sample in parallel. A tile has one owner, and where
// its pairs go follows from counts alone, so the number of threads cannot change a bit.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "ops/cpu/sparse_neighbors_columns.h"
#include "ops/cpu/sparse_neighbors_keys.h"
#include "ops/cpu/sparse_neighbors_lists.h"
#include "ops/cpu/sparse_neighbors_pyramid.h"

namespace anybev::sparse_neighbors {
namespace {

constexpr int64_t kTilesPerTask = 8;

// What one pass over the input rows tells.
struct RowOrder {
  bool ascending = true, by_sample = true;
  std::vector<int64_t> sample_start;  // batch + 1; valid when by_sample

  int64_t largest_sample() const {
    int64_t rows = 0;
    for (size_t b = 1; b < sample_start.size(); ++b) {
      rows = std::max(rows, sample_start[b] - sample_start[b - 1]);
    }
    return rows;
  }
};

RowOrder check_rows(const int32_t* coords, int64_t rows, const Pyramid& pyramid) {
  const Shape3& shape = pyramid.levels[0].shape;
  RowOrder order;
  order.sample_start.assign(static_cast<size_t>(pyramid.batch + 1), 0);
  int64_t last_key = -1;
  int32_t last_sample = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t b = coords[4 * i], x = coords[4 * i + 1];
    const int32_t y = coords[4 * i + 2], z = coords[4 * i + 3];
    const bool inside = b >= 0 && b < pyramid.batch && x >= 0 && x < shape.x && y >= 0 &&
                        y < shape.y && z >= 0 && z < shape.z;
    TORCH_CHECK_VALUE(inside, "sparse_neighbors: coords must be (b, x, y, z) below (",
                      pyramid.batch, ", ", shape.x, ", ", shape.y, ", ", shape.z,
                      ") and not negative, got (", b, ", ", x, ", ", y, ", ", z, ") in row ", i);
    const int64_t key = ((b * shape.x + x) * shape.y + y) * shape.z + z;
    order.ascending &= key > last_key;
    order.by_sample &= b >= last_sample;
    last_key = key;
    last_sample = b;
    ++order.sample_start[b + 1];
  }
  for (int64_t b = 0; b < pyramid.batch; ++b) order.sample_start[b + 1] += order.sample_start[b];
  return order;
}

[[noreturn]] void fail_duplicate(const int32_t* site) {
  TORCH_CHECK_VALUE(false, "sparse_neighbors: coords must be unique rows, got (", site[0], ", ",
                    site[1], ", ", site[2], ", ", site[3],
                    ") more than once; try torch.unique(coords, dim=0)");
}

// Memory of one call, kept for the next.
struct Scratch {
  std::vector<std::unique_ptr<ColumnIndex>> indices;
  std::vector<std::unique_ptr<WindowBuffer>> windows;
  std::vector<std::unique_ptr<Buffer<int32_t>>> coords;
  Buffer<int32_t> row_of_rank;
};

template <class T>
T& at_grown(std::vector<std::unique_ptr<T>>& items, size_t i) {
  while (items.size() <= i) items.push_back(std::make_unique<T>());
  return *items[i];
}

// Holds the process's scratch, or one of its own when another thread has it.
class ScratchLease {
 public:
  ScratchLease() {
    const std::lock_guard<std::mutex> lock(mutex());
    held_ = std::move(spare());
    if (!held_) held_ = std::make_unique<Scratch>();
  }
  ~ScratchLease() {
    for (const auto& index : held_->indices) index->clear();
    const std::lock_guard<std::mutex> lock(mutex());
    spare() = std::move(held_);
  }
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  Scratch* operator->() const { return held_.get(); }

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  static std::unique_ptr<Scratch>& spare() {
    static std::unique_ptr<Scratch> instance;
    return instance;
  }
  std::unique_ptr<Scratch> held_;
};

// Runs find(begin, end) on rows [first, last), one call a tile or part of one.
template <class Find>
void for_each_tile(int64_t first, int64_t last, const Find& find) {
  at::parallel_for(first / kTile, tiles_of(last), kTilesPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      find(std::max(first, tile * kTile), std::min(last, (tile + 1) * kTile));
    }
  });
}

at::Tensor coords_tensor(const int32_t* coords, int64_t rows) {
  at::Tensor result = at::empty({rows, 4}, at::TensorOptions(at::kInt));
  std::copy_n(coords, 4 * rows, result.mutable_data_ptr<int32_t>());
  return result;
}

void append(std::vector<at::Tensor>& results, at::Tensor coords, std::vector<at::Tensor> lists) {
  results.push_back(std::move(coords));
  for (at::Tensor& list : lists) results.push_back(std::move(list));
}

// Fills row_of_rank for one sample whose rows do not ascend.
void number_rows(const int32_t* coords, int64_t begin, int64_t end, const ColumnIndex& index,
                 int32_t* row_of_rank) {
  std::fill(row_of_rank + begin, row_of_rank + end, -1);
  for (int64_t row = begin; row < end; ++row) {
    const int32_t* site = coords + 4 * row;
    int32_t& slot = row_of_rank[begin + index.rank(site[1], site[2], site[3])];
    if (slot >= 0) fail_duplicate(site);
    slot = static_cast<int32_t>(row);
  }
}

std::vector<at::Tensor> plans_by_columns(const int32_t* coords, const Pyramid& pyramid,
                                         const RowOrder& order) {
  const ScratchLease scratch;
  const size_t level_count = pyramid.levels.size();
  std::vector<int64_t> rows(level_count, 0), before(level_count, 0);
  std::vector<const int32_t*> sites(level_count, coords);
  for (size_t i = 0; i < level_count; ++i) {
    const Level& level = pyramid.levels[i];
    at_grown(scratch->indices, i).resize(level.shape, level.pad_x, level.pad_y);
  }
  int32_t* row_of_rank =
      order.ascending ? nullptr : scratch->row_of_rank.grow(order.sample_start.back());
  std::vector<at::Tensor> results;
  for (int64_t b = 0; b < pyramid.batch; ++b) {
    ColumnIndex& input = *scratch->indices[0];
    before[0] = rows[0];
    rows[0] = order.sample_start[b + 1];
    const int32_t* own = coords + 4 * before[0];
    if (order.ascending) {
      input.insert_ascending(own, rows[0] - before[0]);
    } else {
      input.insert(own, rows[0] - before[0]);
      number_rows(coords, before[0], rows[0], input, row_of_rank);
    }
    for (size_t i = 0; i < pyramid.layers.size(); ++i) {
      const Layer& layer = pyramid.layers[i];
      const ConvGeometry& g = layer.geometry;
      const ColumnIndex& cells = *scratch->indices[layer.level];
      const size_t out = layer.level + (g.subm ? 0 : 1);
      if (!g.subm) {
        ColumnIndex& made = *scratch->indices[out];
        before[out] = rows[out];
        made.insert_reached(cells, g, pyramid.levels[out].shape);
        rows[out] += made.cell_count();
        int32_t* all = at_grown(scratch->coords, out).grow(4 * rows[out]);
        made.write_cells(static_cast<int32_t>(b), all + 4 * before[out]);
        sites[out] = all;
      }
      // One sample: a plan is emitted before the next one starts, so they share memory.
      WindowBuffer& buffer = at_grown(scratch->windows, pyramid.batch == 1 ? 0 : i);
      const Windows windows = buffer.grow(g, rows[out]);
      const ColumnView view = cells.view(static_cast<int32_t>(before[layer.level]));
      for_each_tile(before[out], rows[out], [&](int64_t begin, int64_t end) {
        neighbor_kernels().find_windows(view, g, sites[out], begin, end, windows);
      });
      if (b + 1 < pyramid.batch) continue;
      append(results, coords_tensor(sites[out], g.subm ? 0 : rows[out]),
             emit_lists(windows, rows[out], layer.level == 0 ? row_of_rank : nullptr));
    }
    for (size_t i = 0; i < level_count; ++i) scratch->indices[i]->clear();
  }
  return results;
}

std::vector<at::Tensor> plans_by_keys(const int32_t* coords, int64_t rows, const Pyramid& pyramid) {
  SortedSites sites(coords, rows, pyramid.levels[0].shape);
  if (const int64_t row = sites.duplicate(); row >= 0) fail_duplicate(coords + 4 * row);
  std::vector<int32_t> in(coords, coords + 4 * rows), made;
  std::vector<at::Tensor> results;
  for (const Layer& layer : pyramid.layers) {
    const ConvGeometry& g = layer.geometry;
    if (!g.subm) made = sites.reached(g);
    const std::vector<int32_t>& out = g.subm ? in : made;
    const int64_t count = static_cast<int64_t>(out.size() / 4);
    WindowBuffer buffer;
    const Windows windows = buffer.grow(g, count);
    for_each_tile(0, count, [&](int64_t begin, int64_t end) {
      sites.find_windows(g, out.data(), begin, end, windows);
    });
    append(results, coords_tensor(out.data(), g.subm ? 0 : count),
           emit_lists(windows, count, sites.row_of_rank()));
    if (g.subm) continue;
    in.swap(made);
    sites = SortedSites(in.data(), count, pyramid.levels[layer.level + 1].shape);
  }
  return results;
}

std::vector<at::Tensor> plans(const at::Tensor& coords, at::IntArrayRef spatial_shape,
                              int64_t batch_size, at::IntArrayRef specs) {
  TORCH_CHECK_VALUE(coords.dim() == 2 && coords.size(1) == 4,
                    "sparse_neighbors: coords must be (N, 4), got ", coords.sizes());
  TORCH_CHECK_VALUE(coords.size(0) <= std::numeric_limits<int32_t>::max(),
                    "sparse_neighbors: coords must have fewer than 2^31 rows, got ",
                    coords.size(0));
  TORCH_CHECK_VALUE(spatial_shape.size() == 3 && specs.size() % Pyramid::kPacked == 0,
                    "sparse_neighbors: specs must hold ", Pyramid::kPacked,
                    " integers a layer, got ", specs.size());
  const Pyramid pyramid(spatial_shape.data(), batch_size, specs.data(),
                        specs.size() / Pyramid::kPacked);
  const at::Tensor rows = coords.contiguous();
  const int32_t* sites = rows.const_data_ptr<int32_t>();
  const RowOrder order = check_rows(sites, rows.size(0), pyramid);
  if (order.by_sample && fits_columns(pyramid, order.largest_sample()))
    return plans_by_columns(sites, pyramid, order);
  return plans_by_keys(sites, rows.size(0), pyramid);
}

}  // namespace

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("sparse_neighbors", &plans); }

}  // namespace anybev::sparse_neighbors

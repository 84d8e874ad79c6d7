#include <limits>
#include <tuple>

#include "ops/cuda/binding.h"
#include "ops/cuda/sparse_neighbors_kernel.h"

namespace anybev::cuda::sparse_neighbors {
namespace {

constexpr int64_t kMostRows = std::numeric_limits<int32_t>::max();

// (rows, 4) in memory that 16-byte loads may read.
at::Tensor aligned(const at::Tensor& coords) {
  const at::Tensor rows = coords.contiguous();
  const bool is_aligned = reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 16 == 0;
  return is_aligned ? rows : rows.clone();
}

void refuse_rows(TorchContext& context, const Counts& counts, const int32_t* coords,
                 const Pyramid& pyramid) {
  const Shape3& shape = pyramid.levels[0].shape;
  if (counts.row_outside != Counts::kNone) {
    int32_t site[4];
    read_back(context, site, coords + 4 * counts.row_outside, 4);
    TORCH_CHECK_VALUE(false, "sparse_neighbors: coords must be (b, x, y, z) below (", pyramid.batch,
                      ", ", shape.x, ", ", shape.y, ", ", shape.z, ") and not negative, got (",
                      site[0], ", ", site[1], ", ", site[2], ", ", site[3], ") in row ",
                      counts.row_outside);
  }
  const int64_t cell = static_cast<int64_t>(counts.cell_twice);
  const int64_t column = cell / shape.z, line = column / shape.y;
  TORCH_CHECK_VALUE(counts.cell_twice == Counts::kNone,
                    "sparse_neighbors: coords must be unique rows, got (", line / shape.x, ", ",
                    line % shape.x, ", ", column % shape.y, ", ", cell % shape.z,
                    ") more than once; try torch.unique(coords, dim=0)");
}

void check_sizes(const Counts& counts) {
  int64_t sites = 0;
  for (const int64_t rows : counts.sites) sites += rows;
  TORCH_CHECK_VALUE(sites <= kMostRows,
                    "sparse_neighbors: sites of all layers must be fewer than 2^31, got ", sites,
                    "; try a smaller batch");
  for (const int64_t pairs : counts.pairs) {
    TORCH_CHECK_VALUE(pairs <= kMostRows,
                      "sparse_neighbors: pairs of a plan must be fewer than 2^31, got more; try a "
                      "smaller batch");
  }
}

struct ListTensors {
  at::Tensor source, row, tile_ptr;

  ListTensors(const at::TensorOptions& options, int64_t pairs, int64_t rows, int64_t offsets)
      : source(at::empty({pairs}, options.dtype(at::kInt))),
        row(at::empty({pairs}, options.dtype(at::kShort))),
        tile_ptr(at::empty({tiles_of(rows) * offsets + 1}, options.dtype(at::kInt))) {}
  Lists pointers() const {
    return {source.mutable_data_ptr<int32_t>(), row.mutable_data_ptr<int16_t>(),
            tile_ptr.mutable_data_ptr<int32_t>()};
  }
};

std::vector<at::Tensor> plans(const at::Tensor& coords, at::IntArrayRef spatial_shape,
                              int64_t batch_size, at::IntArrayRef specs) {
  TORCH_CHECK_VALUE(coords.dim() == 2 && coords.size(1) == 4,
                    "sparse_neighbors: coords must be (N, 4), got ", coords.sizes());
  TORCH_CHECK_VALUE(coords.size(0) <= kMostRows,
                    "sparse_neighbors: coords must have fewer than 2^31 rows, got ",
                    coords.size(0));
  TORCH_CHECK_VALUE(spatial_shape.size() == 3 && specs.size() % Pyramid::kPacked == 0,
                    "sparse_neighbors: specs must hold ", Pyramid::kPacked,
                    " integers a layer, got ", specs.size());
  TorchContext context(coords);
  const at::Tensor rows = aligned(coords);
  const int32_t* sites = rows.const_data_ptr<int32_t>();
  const Pyramid pyramid(spatial_shape.data(), batch_size, specs.data(),
                        specs.size() / Pyramid::kPacked);
  const auto planner = (fits_columns(pyramid) ? plan_by_columns : plan_by_keys)(
      context, sites, rows.size(0), pyramid);
  Counts counts = planner->count();
  if (counts.is_refused()) refuse_rows(context, counts, sites, pyramid);
  check_sizes(counts);

  const at::TensorOptions options = rows.options();
  std::vector<at::Tensor> results;
  std::vector<ListTensors> tensors;
  std::vector<Lists> lists;
  for (size_t i = 0; i < pyramid.layers.size(); ++i) {
    const Layer& layer = pyramid.layers[i];
    const size_t out = layer.out_level();
    at::Tensor made = at::empty({layer.geometry.subm ? 0 : counts.sites[out], 4}, options);
    if (!layer.geometry.subm) planner->write_coords(out, made.mutable_data_ptr<int32_t>());
    tensors.emplace_back(options, counts.pairs[i], counts.sites[out], layer.geometry.offsets());
    lists.push_back(tensors.back().pointers());
    results.insert(results.end(), {made, tensors[i].source, tensors[i].row, tensors[i].tile_ptr});
  }
  planner->write_lists(lists);
  return results;
}

// Pair lists as kernels take them.
struct Pairs {
  at::Tensor source, row, tile_ptr;
  int64_t tiles;

  Pairs(const at::Tensor& pair_source, const at::Tensor& pair_row, const at::Tensor& ptr,
        int64_t offsets)
      : source(pair_source.contiguous()), row(pair_row.contiguous()), tile_ptr(ptr.contiguous()) {
    TORCH_CHECK_VALUE(offsets > 0 && (tile_ptr.numel() - 1) % offsets == 0 &&
                          pair_row.numel() == pair_source.numel(),
                      "sparse_neighbors: pair lists must belong to this kernel, got ",
                      tile_ptr.numel(), " list ends for ", offsets, " offsets");
    tiles = (tile_ptr.numel() - 1) / offsets;
  }
};

at::Tensor table(const at::Tensor& pair_source, const at::Tensor& pair_row,
                 const at::Tensor& tile_ptr, int64_t rows, int64_t offsets) {
  TorchContext context(pair_source);
  const Pairs pairs(pair_source, pair_row, tile_ptr, offsets);
  at::Tensor result = at::empty({rows, offsets}, pair_source.options());
  write_table(context, pairs.source.const_data_ptr<int32_t>(), pairs.row.const_data_ptr<int16_t>(),
              pairs.tile_ptr.const_data_ptr<int32_t>(), pairs.tiles, static_cast<int>(offsets),
              rows, result.mutable_data_ptr<int32_t>());
  return result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> transpose(const at::Tensor& pair_source,
                                                         const at::Tensor& pair_row,
                                                         const at::Tensor& tile_ptr,
                                                         int64_t in_rows, int64_t offsets) {
  TorchContext context(pair_source);
  const Pairs pairs(pair_source, pair_row, tile_ptr, offsets);
  const ListTensors out(pair_source.options(), pairs.source.numel(), in_rows, offsets);
  transpose_lists(context, pairs.source.const_data_ptr<int32_t>(),
                  pairs.row.const_data_ptr<int16_t>(), pairs.tile_ptr.const_data_ptr<int32_t>(),
                  pairs.tiles, static_cast<int>(offsets), in_rows, out.pointers());
  return {out.source, out.row, out.tile_ptr};
}

}  // namespace
}  // namespace anybev::cuda::sparse_neighbors

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("sparse_neighbors", &anybev::cuda::sparse_neighbors::plans);
  m.impl("sparse_neighbors_table", &anybev::cuda::sparse_neighbors::table);
  m.impl("sparse_neighbors_transpose", &anybev::cuda::sparse_neighbors::transpose);
}

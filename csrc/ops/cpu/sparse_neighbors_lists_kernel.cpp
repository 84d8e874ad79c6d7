// Pair lists of a plan, the neighbour table that they stand for, and the same pairs transposed.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <cstring>
#include <limits>
#include <tuple>

#include "common/isa.h"
#include "ops/cpu/sparse_neighbors_lists.h"

namespace anybev::sparse_neighbors {

const NeighborKernels& neighbor_kernels() {
  static const NeighborKernels portable = neighbor_kernels_portable();
#if defined(__x86_64__)
  static const NeighborKernels avx2 = neighbor_kernels_avx2(), avx512 = neighbor_kernels_avx512();
  if (best_isa() == Isa::kAvx512) return avx512;
  if (best_isa() == Isa::kAvx2) return avx2;
#endif
  return portable;
}

std::vector<at::Tensor> emit_lists(const Windows& windows, int64_t rows,
                                   const int32_t* row_of_rank) {
  const int64_t tiles = tiles_of(rows), offsets = windows.offsets(), lists = tiles * offsets;
  const auto options = at::TensorOptions(at::kInt);
  // Groups behind the last row were never written.
  const int64_t used = (rows - (tiles - 1) * kTile + kGroup - 1) / kGroup;
  for (int offset = 0; tiles && offset < offsets; ++offset) {
    std::fill(windows.present_of(tiles - 1, offset) + used,
              windows.present_of(tiles - 1, offset) + kGroups, uint16_t{0});
  }
  at::Tensor tile_ptr = at::empty({lists + 1}, options);
  int32_t* start = tile_ptr.mutable_data_ptr<int32_t>();
  int64_t pairs = 0;
  for (int64_t list = 0; list < lists; ++list) {
    start[list] = static_cast<int32_t>(pairs);
    uint64_t present[2];
    static_assert(sizeof present == kGroups * sizeof(uint16_t));
    std::memcpy(present, windows.present + list * kGroups, sizeof present);
    pairs += count_bits(present[0]) + count_bits(present[1]);
    TORCH_CHECK_VALUE(pairs <= std::numeric_limits<int32_t>::max(),
                      "sparse_neighbors: pairs of a plan must be fewer than 2^31, got more; try a "
                      "smaller batch");
  }
  start[lists] = static_cast<int32_t>(pairs);
  at::Tensor pair_source = at::empty({pairs}, options);
  at::Tensor pair_row = at::empty({pairs}, options.dtype(at::kShort));
  int32_t* source = pair_source.mutable_data_ptr<int32_t>();
  int16_t* row = pair_row.mutable_data_ptr<int16_t>();
  at::parallel_for(0, tiles, 8, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      neighbor_kernels().emit_pairs(windows, tile, start + tile * offsets, row_of_rank, source,
                                    row);
    }
  });
  return {pair_source, pair_row, tile_ptr};
}

namespace {

// Calls body(row, offset, source) for every pair, tiles in parallel.
template <class Body>
void for_each_pair(const at::Tensor& pair_source, const at::Tensor& pair_row,
                   const at::Tensor& tile_ptr, int64_t offsets, int64_t sources, const Body& body) {
  TORCH_CHECK_VALUE(offsets > 0 && (tile_ptr.numel() - 1) % offsets == 0 &&
                        pair_row.numel() == pair_source.numel(),
                    "sparse_neighbors: pair lists must belong to this kernel, got ",
                    tile_ptr.numel(), " list ends for ", offsets, " offsets");
  const at::Tensor from = pair_source.contiguous(), to = pair_row.contiguous();
  const at::Tensor ptr = tile_ptr.contiguous();
  const int32_t* source = from.const_data_ptr<int32_t>();
  const int16_t* row = to.const_data_ptr<int16_t>();
  const int32_t* start = ptr.const_data_ptr<int32_t>();
  at::parallel_for(0, (ptr.numel() - 1) / offsets, 8, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      for (int64_t k = 0; k < offsets; ++k) {
        const int64_t list = tile * offsets + k;
        for (int64_t pair = start[list]; pair < start[list + 1]; ++pair) {
          TORCH_CHECK_VALUE(source[pair] >= 0 && source[pair] < sources,
                            "sparse_neighbors: pair_source must be below ", sources, ", got ",
                            source[pair]);
          body(tile * kTile + row[pair], k, source[pair]);
        }
      }
    }
  });
}

at::Tensor table(const at::Tensor& pair_source, const at::Tensor& pair_row,
                 const at::Tensor& tile_ptr, int64_t rows, int64_t offsets) {
  at::Tensor result = at::full({rows, offsets}, -1, at::TensorOptions(at::kInt));
  int32_t* out = result.mutable_data_ptr<int32_t>();
  for_each_pair(pair_source, pair_row, tile_ptr, offsets, std::numeric_limits<int32_t>::max(),
                [&](int64_t row, int64_t k, int32_t source) {
                  if (row < rows) out[row * offsets + k] = source;
                });
  return result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> transpose(const at::Tensor& pair_source,
                                                         const at::Tensor& pair_row,
                                                         const at::Tensor& tile_ptr,
                                                         int64_t in_rows, int64_t offsets) {
  const int64_t tiles = tiles_of(in_rows);
  Buffer<int32_t> first;
  Buffer<uint16_t> present;
  // One column an offset with windows of one cell: an input feeds one output through an offset.
  const Windows windows{first.grow(tiles * offsets * kTile),
                        present.grow(tiles * offsets * kGroups), static_cast<int>(offsets), 1};
  at::parallel_for(0, tiles, 8, [&](int64_t begin, int64_t end) {
    std::fill(windows.first_of(begin, 0), windows.first_of(end, 0), -1);
  });
  for_each_pair(pair_source, pair_row, tile_ptr, offsets, in_rows,
                [&](int64_t row, int64_t k, int32_t source) {
                  windows.first_of(source / kTile, static_cast<int>(k))[source % kTile] =
                      static_cast<int32_t>(row);
                });
  at::parallel_for(0, tiles * offsets * kGroups, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int32_t* rows = windows.first + group * kGroup;
      uint32_t bits = 0;
      for (int lane = 0; lane < kGroup; ++lane) bits |= uint32_t{rows[lane] >= 0} << lane;
      windows.present[group] = static_cast<uint16_t>(bits);
    }
  });
  std::vector<at::Tensor> lists = emit_lists(windows, in_rows, nullptr);
  return {lists[0], lists[1], lists[2]};
}

}  // namespace

TORCH_LIBRARY_IMPL(anybev, CPU, m) {
  m.impl("sparse_neighbors_table", &table);
  m.impl("sparse_neighbors_transpose", &transpose);
}

}  // namespace anybev::sparse_neighbors

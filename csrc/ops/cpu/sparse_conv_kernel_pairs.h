// Neighbour plans as the sparse convolution's CPU kernels read them.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "ops/cpu/sparse_conv_kernel.h"

namespace anybev::sparse_conv {

// Pair lists of a plan: pairs of (tile, offset) are [start[t * offsets + k], start[... + 1]).
class PairLists {
 public:
  // payload: pair_source, pair_row, tile_ptr; `sources` rows of features, `rows` of output.
  PairLists(at::TensorList payload, int64_t sources, int64_t rows, int64_t offsets)
      : rows(rows),
        offsets(offsets),
        tiles((rows + kTileRows - 1) / kTileRows),
        source_(payload.at(0).contiguous()),
        row_(payload.at(1).contiguous()),
        start_(payload.at(2).contiguous()),
        sources_(sources) {
    TORCH_CHECK_TYPE(source_.scalar_type() == at::kInt && row_.scalar_type() == at::kShort &&
                         start_.scalar_type() == at::kInt,
                     "sparse_conv: pair lists must be int32, int16 and int32, got ",
                     source_.scalar_type(), ", ", row_.scalar_type(), " and ",
                     start_.scalar_type());
    TORCH_CHECK_VALUE(source_.numel() == row_.numel(), "sparse_conv: pair_row must be (",
                      source_.numel(), ",), got ", row_.sizes());
    check_starts();
  }

  PairRun run(int64_t tile, int64_t offset) const { return runs(tile, offset, offset + 1); }

  int64_t pairs() const { return source_.numel(); }
  int64_t rows_of(int64_t tile) const { return std::min(kTileRows, rows - tile * kTileRows); }

  // Whether every pair of a tile stays inside the features and inside the tile.
  bool in_range(int64_t tile) const { return in_range(tile, runs(tile, 0, offsets)); }

  // The same for some of its pairs.
  bool in_range(int64_t tile, const PairRun& pairs) const {
    const auto height = static_cast<uint32_t>(rows_of(tile));
    const auto limit = static_cast<uint32_t>(sources_);
    uint32_t outside = 0;
    for (int64_t p = 0; p < pairs.count; ++p) {
      outside |= static_cast<uint32_t>(pairs.source[p]) >= limit;
      outside |= static_cast<uint32_t>(static_cast<int32_t>(pairs.row[p])) >= height;
    }
    return outside == 0;
  }

  void fail_if(bool outside) const {
    TORCH_CHECK_VALUE(!outside, "sparse_conv: pair lists must name features 0 to ", sources_ - 1,
                      " and rows of their tile, got one outside; the plan is of other features");
  }

  const int64_t rows, offsets, tiles;

 private:
  // Pairs of a tile at offsets [first, last).
  PairRun runs(int64_t tile, int64_t first, int64_t last) const {
    const int32_t* start = start_.const_data_ptr<int32_t>() + tile * offsets;
    const int64_t begin = start[first], end = start[last];
    return {source_.const_data_ptr<int32_t>() + begin, row_.const_data_ptr<int16_t>() + begin,
            end - begin, source_.numel() - begin};
  }

  void check_starts() const {
    const int64_t wanted = tiles * offsets + 1;
    TORCH_CHECK_VALUE(start_.numel() == wanted, "sparse_conv: tile_ptr must be (", wanted,
                      ",) for this plan, got ", start_.sizes());
    const int32_t* start = start_.const_data_ptr<int32_t>();
    bool ordered = start[0] == 0 && start[wanted - 1] == source_.numel();
    for (int64_t i = 1; i < wanted; ++i) ordered &= start[i - 1] <= start[i];
    TORCH_CHECK_VALUE(ordered, "sparse_conv: tile_ptr must rise from 0 to ", source_.numel());
  }

  at::Tensor source_, row_, start_;
  int64_t sources_;
};

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace anybev::sparse_conv

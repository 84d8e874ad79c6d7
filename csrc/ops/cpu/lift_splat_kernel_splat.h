// Forward: the columns of a picture added into cells, run by run.
#pragma once

#include "ops/cpu/lift_splat_kernel_column.h"

namespace anybev::lift_splat {

constexpr int64_t kRunsAhead = 16;

// Adds runs into their cells, a block of channels at a time.
template <class V>
struct AddRuns {
  using Number = typename V::Number;

  const Scratch<V>& scratch;
  int64_t count, channels;
  Number* bev;

  template <int kVectors>
  void run(int64_t channel, int64_t partial) const {
    using L = Lanes<V, kVectors>;
    const Run* runs = scratch.runs;
    const int64_t width = kVectors ? kVectors * V::kLanes : partial;
    Number* rows = bev + channel;
    for (int64_t r = 0; r < smaller(kRunsAhead, count); ++r) {
      prefetch(rows + runs[r].cell * channels, width);
    }
    for (int64_t r = 0; r < count; ++r) {
      if (r + kRunsAhead < count) prefetch(rows + runs[r + kRunsAhead].cell * channels, width);
      Number* row = rows + runs[r].cell * channels;
      const Number* weight = scratch.weight_by_depth + runs[r].weight;
      const Number* context = scratch.context + runs[r].row * scratch.channels + channel;
      typename V::Vector sum[L::kCount];
#pragma GCC unroll 16
      for (int k = 0; k < L::kCount; ++k) sum[k] = L::load(row + k * V::kLanes, partial);
      for (int32_t i = 0; i < runs[r].count; ++i) {
        const auto w = V::spread(weight[i]);
#pragma GCC unroll 16
        for (int k = 0; k < L::kCount; ++k) {
          sum[k] = V::multiply_add(w, V::load(context + k * V::kLanes), sum[k]);
        }
        context += scratch.channels;
      }
#pragma GCC unroll 16
      for (int k = 0; k < L::kCount; ++k) L::store(row + k * V::kLanes, sum[k], partial);
    }
  }
};

// Appends the runs of one depth whose cells are in [first, last); returns their new number.
template <class V>
int64_t find_runs(const Scratch<V>& scratch, int64_t depth, uint32_t first, uint32_t last,
                  int64_t count) {
  const int32_t* cells = scratch.cells;
  int32_t begin = 0;
  for (int64_t v = 0; v < scratch.height; v += kPad) {
    for (uint32_t ends = V::changes(cells + v); ends; ends &= ends - 1) {
      const int32_t end = static_cast<int32_t>(v) + __builtin_ctz(ends) + 1;
      const int32_t cell = cells[begin];
      if (static_cast<uint32_t>(cell) - first < last - first) {
        const auto weight = static_cast<int32_t>(depth * scratch.height) + begin;
        scratch.runs[count++] = {cell, weight, begin, end - begin};
      }
      begin = end;
    }
  }
  return count;
}

template <class V>
void splat_column(const Problem& p, const float* origin_m, const typename V::Number* logits,
                  int64_t stride, uint32_t first, uint32_t last, typename V::Number* bev,
                  const Scratch<V>& scratch) {
  bool split = false;
  int64_t count = 0;
  scratch.cells[scratch.height] = -1;
  for (int64_t d = 0; d < p.depths; ++d) {
    find_cells<V>(p, p.depths_m[d], origin_m, scratch, scratch.cells);
    count = find_runs(scratch, d, first, last, count);
    if (count == 0 || (d + 1 < p.depths && count <= kRunsTogether)) continue;
    if (!split) {
      split_column(p, logits, stride, scratch);
      transpose<V>(scratch.weight, scratch.depths, scratch.height, scratch.depths,
                   scratch.weight_by_depth, scratch.height);
      split = true;
    }
    for_channel_blocks<V, V::kVectors>(p.channels, AddRuns<V>{scratch, count, p.channels, bev});
    count = 0;
  }
}

template <class V>
void splat(const Problem& p, const Picture<typename V::Number>& picture, int32_t x_begin,
           int32_t x_end, typename V::Number* bev, std::byte* memory) {
  const Scratch<V> scratch(p, memory);
  const bool direct = picture.channel_stride == 1;
  const auto plane = static_cast<uint32_t>(p.grid[1]) * static_cast<uint32_t>(p.grid[2]);
  const uint32_t first = x_begin * plane, last = x_end * plane;
  std::memset(scratch.weight, 0, scratch.height * scratch.depths * sizeof(*scratch.weight));
  int64_t loaded = -1;
  for (int64_t u = 0; u < p.width; ++u) {
    if (!may_touch<V>(p, picture, u, x_begin, x_end)) continue;
    const int64_t block = u / scratch.columns * scratch.columns;
    if (!direct && block != loaded) {
      Block<V>::load(p, picture, block, smaller(block + scratch.columns, p.width), scratch);
      loaded = block;
    }
    load_rays(p, picture.rays_m, u, scratch);
    const auto* logits = direct ? picture.logits + Block<V>::offset(picture, 0, u)
                                : scratch.block + (u - block) * p.height * scratch.row;
    splat_column<V>(p, picture.origin_m, logits, direct ? picture.row_stride : scratch.row, first,
                    last, bev, scratch);
  }
}

}  // namespace anybev::lift_splat

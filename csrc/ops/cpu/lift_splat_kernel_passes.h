// The two passes over a picture: splat adds columns into cells, gradient takes them back. See
// lift_splat_kernel_column.h for the vector type.
#pragma once

#include "ops/cpu/lift_splat_kernel_column.h"

namespace anybev::lift_splat {

constexpr int64_t kRunsAhead = 16;
constexpr int64_t kLineBytes = 64;

template <class T>
ANYBEV_INLINE void prefetch(const T* values, int64_t count) {
  const auto* bytes = reinterpret_cast<const char*>(values);
  const int64_t size = count * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < size; i += kLineBytes) __builtin_prefetch(bytes + i);
}

// kVectors whole vectors, or (0) one with the first `partial` lanes.
template <class V, int kVectors>
struct Lanes {
  using Number = typename V::Number;
  static constexpr int kCount = kVectors ? kVectors : 1;

  static ANYBEV_INLINE typename V::Vector load(const Number* p, int64_t partial) {
    if constexpr (kVectors == 0) return V::load_partial(p, partial);
    return V::load(p);
  }
  static ANYBEV_INLINE void store(Number* p, typename V::Vector v, int64_t partial) {
    if constexpr (kVectors == 0) {
      V::store_partial(p, partial, v);
    } else {
      V::store(p, v);
    }
  }
};

// Calls part.template run<vectors>(channel, partial) for blocks of at most kMost vectors; a last,
// incomplete vector comes alone, as run<0>.
template <class V, int kMost, class Part>
ANYBEV_INLINE void for_channel_blocks(int64_t channels, const Part& part) {
  int64_t c = 0;
  while (channels - c >= V::kLanes) {
    const int64_t vectors = smaller((channels - c) / V::kLanes, kMost);
    part.template pick<kMost>(vectors, c);
    c += vectors * V::kLanes;
  }
  if (c < channels) part.template run<0>(c, channels - c);
}

// Adds runs into their cells, a block of channels at a time.
template <class V>
struct AddRuns {
  using Number = typename V::Number;

  const Scratch<V>& scratch;
  int64_t count, channels;
  Number* bev;

  template <int kVectors>
  ANYBEV_INLINE void pick(int64_t vectors, int64_t channel) const {
    if constexpr (kVectors > 0) {
      if (vectors == kVectors) {
        run<kVectors>(channel, 0);
      } else {
        pick<kVectors - 1>(vectors, channel);
      }
    }
  }

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

// Gradients of weights and context from kLanes depths of a column, a block of channels at a time:
// the few BEV rows of these depths stay in the first cache while all image rows pass.
template <class V>
struct TakeDepths {
  using Number = typename V::Number;
  using Vector = typename V::Vector;

  const Problem& p;
  const Scratch<V>& scratch;
  int64_t depth;  // first of kLanes
  const Number* grad_bev;

  template <int kVectors>
  ANYBEV_INLINE void pick(int64_t vectors, int64_t channel) const {
    if constexpr (kVectors > 0) {
      if (vectors == kVectors) {
        run<kVectors>(channel, 0);
      } else {
        pick<kVectors - 1>(vectors, channel);
      }
    }
  }

  template <int kVectors>
  void run(int64_t channel, int64_t partial) const {
    using L = Lanes<V, kVectors>;
    const int32_t* cells = scratch.cells + depth * scratch.height;
    for (int64_t v = 0; v < p.height; ++v) {
      const Number* weight = scratch.weight + v * scratch.depths + depth;
      Number* grad_weight = scratch.weight_by_depth + v * scratch.depths + depth;
      const Number* context = scratch.context + v * scratch.channels + channel;
      Number* grad_context = scratch.grad_context + v * scratch.channels + channel;
      Vector value[L::kCount], sum[L::kCount], dot[V::kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < L::kCount; ++k) {
        value[k] = V::load(context + k * V::kLanes);
        sum[k] = V::load(grad_context + k * V::kLanes);
      }
#pragma GCC unroll 16
      for (int j = 0; j < V::kLanes; ++j) {
        const int64_t cell = cells[j * scratch.height + v];
        const Number* row = (cell < 0 ? scratch.zeros : grad_bev + cell * p.channels) + channel;
        const auto w = V::spread(weight[j]);
        // Two sums in turn: half the latency of one.
        Vector even = V::spread(0), odd = V::spread(0);
#pragma GCC unroll 16
        for (int k = 0; k < L::kCount; ++k) {
          const Vector g = L::load(row + k * V::kLanes, partial);
          Vector& part = k % 2 ? odd : even;
          part = V::multiply_add(g, value[k], part);
          sum[k] = V::multiply_add(w, g, sum[k]);
        }
        dot[j] = even + odd;
      }
#pragma GCC unroll 16
      for (int k = 0; k < L::kCount; ++k) V::store(grad_context + k * V::kLanes, sum[k]);
      V::store(grad_weight, V::load(grad_weight) + V::sum_each(dot));
    }
  }
};

// Through the softmax: w (g - <w, g>); then one row of gradients out.
template <class V>
void store_gradient(const Problem& p, const Scratch<V>& scratch, int64_t v,
                    typename V::Number* grad_logits) {
  const auto* weight = scratch.weight + v * scratch.depths;
  auto* grad_weight = scratch.weight_by_depth + v * scratch.depths;
  auto total = V::spread(0);
  for (int64_t d = 0; d < scratch.depths; d += V::kLanes) {
    total = V::multiply_add(V::load(weight + d), V::load(grad_weight + d), total);
  }
  const auto mean = V::spread(V::sum_lanes(total));
  for (int64_t d = 0; d < scratch.depths; d += V::kLanes) {
    V::store(grad_weight + d, V::load(weight + d) * (V::load(grad_weight + d) - mean));
  }
  std::memcpy(grad_logits, grad_weight, p.depths * sizeof(*weight));
  const auto* grad_context = scratch.grad_context + v * scratch.channels;
  std::memcpy(grad_logits + p.depths, grad_context, p.channels * sizeof(*weight));
}

template <class V>
void gradient_column(const Problem& p, const float* origin_m, const typename V::Number* logits,
                     int64_t stride, const typename V::Number* grad_bev,
                     typename V::Number* grad_logits, const Scratch<V>& scratch) {
  using Number = typename V::Number;
  const int64_t height = scratch.height;
  split_column(p, logits, stride, scratch);
  std::memset(scratch.weight_by_depth, 0, scratch.depths * height * sizeof(Number));
  std::memset(scratch.grad_context, 0, height * scratch.channels * sizeof(Number));
  for (int64_t d = 0; d < p.depths; ++d) {
    find_cells<V>(p, p.depths_m[d], origin_m, scratch, scratch.cells + d * height);
  }
  for (int64_t d = 0; d < p.depths; d += V::kLanes) {
    bool any = false;
    const int32_t* ahead = scratch.cells + (d + V::kLanes) * height;
    for (int64_t j = 0; j < smaller(V::kLanes, p.depths - d - V::kLanes); ++j) {
      int32_t last = -1;
      for (int64_t v = 0; v < p.height; v += 8) {
        const int32_t cell = ahead[j * height + v];
        if (cell >= 0 && cell != last) prefetch(grad_bev + cell * p.channels, p.channels);
        last = cell;
      }
    }
    const int32_t* cells = scratch.cells + d * height;
    for (int64_t i = 0; i < V::kLanes * height; ++i) any |= cells[i] >= 0;
    if (!any) continue;
    for_channel_blocks<V, V::kGradVectors>(p.channels, TakeDepths<V>{p, scratch, d, grad_bev});
  }
  for (int64_t v = 0; v < p.height; ++v) store_gradient(p, scratch, v, grad_logits + v * stride);
}

template <class V>
void gradient(const Problem& p, const Picture<typename V::Number>& picture, int64_t begin,
              int64_t end, const typename V::Number* grad_bev, typename V::Number* grad_logits,
              std::byte* memory) {
  using Number = typename V::Number;
  const Scratch<V> scratch(p, memory);
  std::memset(scratch.zeros, 0, scratch.channels * sizeof(Number));
  for (int64_t i = p.depths * scratch.height; i < scratch.depths * scratch.height; ++i) {
    scratch.cells[i] = -1;
  }
  const bool direct = picture.channel_stride == 1;
  for (int64_t first = begin; first < end; first += scratch.columns) {
    const int64_t last = smaller(first + scratch.columns, end);
    if (!direct) Block<V>::load(p, picture, first, last, scratch);
    for (int64_t u = first; u < last; ++u) {
      load_rays(p, picture.rays_m, u, scratch);
      const int64_t offset = Block<V>::offset(picture, 0, u);
      // A column's gradients take the place of its logits, which are read by then.
      Number* own = scratch.block + (u - first) * p.height * scratch.row;
      gradient_column<V>(p, picture.origin_m, direct ? picture.logits + offset : own,
                         direct ? picture.row_stride : scratch.row, grad_bev,
                         direct ? grad_logits + offset : own, scratch);
    }
    if (!direct) Block<V>::store(p, picture, first, last, scratch, grad_logits);
  }
}

template <class V>
constexpr LiftKernels<typename V::Number> lift_kernels() {
  return {[](const Problem& p) { return Scratch<V>(p, nullptr).bytes; },
          &Block<V>::columns_together, &splat<V>, &gradient<V>};
}

}  // namespace anybev::lift_splat

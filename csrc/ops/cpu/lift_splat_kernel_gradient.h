// Backward: what each column of a picture takes back from the cells.
#pragma once

#include "ops/cpu/lift_splat_kernel_column.h"

namespace anybev::lift_splat {

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

}  // namespace anybev::lift_splat

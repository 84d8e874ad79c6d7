// One image column of lift and splat: its logits as rows of channels, its weights, its cells.
// Written once over a vector type that lives in an unnamed namespace of its file, so no instance is
// shared between files that are compiled for different sets.
//
// A vector type V has: Number, Vector; kLanes; kVectors and kGradVectors (vectors of a channel
// block in the two directions); kTile; load, store, load_partial, store_partial (the first `count`
// lanes, zeros elsewhere), spread, multiply_add, max, exp (of what is not above 0), max_lane,
// sum_lanes, sum_each (lane i: the sum over the lanes of vector i), transpose (kTile x kTile) and
// changes (bit i: cells[i] != cells[i + 1], of 16).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "ops/cpu/lift_splat_kernel.h"

#define ANYBEV_INLINE inline __attribute__((always_inline))

namespace anybev::lift_splat {

constexpr int64_t kPad = 16;  // depths, channels and rows are padded to this in scratch
constexpr int64_t kRunsTogether = 4096;
constexpr int64_t kBlockColumns = 16;
constexpr int64_t kBlockBytes = 512 * 1024;

ANYBEV_INLINE constexpr int64_t padded(int64_t value) { return (value + kPad - 1) / kPad * kPad; }
ANYBEV_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows of a column, one under the other, that fall into one cell at one depth.
struct Run {
  int32_t cell;
  int32_t weight;  // of the first row, in weight_by_depth
  int32_t row, count;
};

// What one thread needs beside input and output.
template <class V>
struct Scratch {
  using Number = typename V::Number;

  Scratch(const Problem& p, std::byte* memory)
      : depths(padded(p.depths)),
        channels(padded(p.channels)),
        height(padded(p.height)),
        row(padded(p.depths + p.channels)),
        next_(reinterpret_cast<uintptr_t>(memory)) {
    const int64_t fit = kBlockBytes / (p.height * row * static_cast<int64_t>(sizeof(Number)) + 1);
    columns = fit < 1 ? 1 : smaller(fit, kBlockColumns);
    take(weight, height * depths);
    take(weight_by_depth, depths * height);
    take(context, height * channels);
    take(grad_context, height * channels);
    take(block, columns * p.height * row);
    take(zeros, channels);
    take(cells, depths * height + 1);
    take(runs, kRunsTogether + height);
    for (float*& axis : rays_m) take(axis, height);
    bytes = static_cast<int64_t>(next_ - reinterpret_cast<uintptr_t>(memory));
  }

  int64_t depths, channels, height, row;  // padded
  int64_t columns;                        // of a block
  Number* weight;                         // [height][depths]
  Number* weight_by_depth;  // [depths][height]; the weights' gradient, [height][depths]
  Number* context;          // [height][channels], zeros where padded
  Number* grad_context;
  Number* block;  // [columns][height of the picture][row]: logits or their gradient
  Number* zeros;
  int32_t* cells;  // [depths][height] and one more
  Run* runs;
  float* rays_m[3];  // by axis; NaN where padded
  int64_t bytes;

 private:
  template <class T>
  void take(T*& array, int64_t count) {
    array = reinterpret_cast<T*>(next_);
    next_ += (static_cast<uintptr_t>(count) * sizeof(T) + 63) / 64 * 64;
  }

  uintptr_t next_;
};

// to[j][i] = from[i][j] for rows x columns numbers.
template <class V>
void transpose(const typename V::Number* from, int64_t from_stride, int64_t rows, int64_t columns,
               typename V::Number* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; i += V::kTile) {
    const int64_t i_end = smaller(i + V::kTile, rows);
    for (int64_t j = 0; j < columns; j += V::kTile) {
      const int64_t j_end = smaller(j + V::kTile, columns);
      if (i_end - i == V::kTile && j_end - j == V::kTile) {
        V::transpose(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
        continue;
      }
      for (int64_t r = i; r < i_end; ++r) {
        for (int64_t c = j; c < j_end; ++c) to[c * to_stride + r] = from[r * from_stride + c];
      }
    }
  }
}

// A block of columns whose logits (or gradients) can be reached as rows of contiguous channels: in
// place for channels-last pictures, else as a transposed copy in scratch.
template <class V>
struct Block {
  using Number = typename V::Number;

  static int64_t columns_together(const Problem& p, const Picture<Number>& picture) {
    return picture.channel_stride == 1 ? 4 : Scratch<V>(p, nullptr).columns;
  }

  // Offset of the first channel of a row in the picture's memory format.
  static int64_t offset(const Picture<Number>& picture, int64_t row, int64_t column) {
    return row * picture.row_stride + column * picture.column_stride;
  }

  static void load(const Problem& p, const Picture<Number>& picture, int64_t begin, int64_t end,
                   const Scratch<V>& scratch) {
    const int64_t channels = p.depths + p.channels, step = p.height * scratch.row;
    for (int64_t v = 0; v < p.height; ++v) {
      const Number* from = picture.logits + offset(picture, v, begin);
      Number* to = scratch.block + v * scratch.row;
      if (picture.column_stride == 1) {
        transpose<V>(from, picture.channel_stride, channels, end - begin, to, step);
        continue;
      }
      for (int64_t u = 0; u < end - begin; ++u) {
        for (int64_t c = 0; c < channels; ++c) {
          to[u * step + c] = from[u * picture.column_stride + c * picture.channel_stride];
        }
      }
    }
  }

  static void store(const Problem& p, const Picture<Number>& picture, int64_t begin, int64_t end,
                    const Scratch<V>& scratch, Number* grad_logits) {
    const int64_t channels = p.depths + p.channels, step = p.height * scratch.row;
    for (int64_t v = 0; v < p.height; ++v) {
      const Number* from = scratch.block + v * scratch.row;
      Number* to = grad_logits + offset(picture, v, begin);
      if (picture.column_stride == 1) {
        transpose<V>(from, step, end - begin, channels, to, picture.channel_stride);
        continue;
      }
      for (int64_t u = 0; u < end - begin; ++u) {
        for (int64_t c = 0; c < channels; ++c) {
          to[u * picture.column_stride + c * picture.channel_stride] = from[u * step + c];
        }
      }
    }
  }
};

// exp(x) for x <= 0 to about 2 ulp, NaN kept, 0 below -87. V also has round (to nearest), scale
// (times 2^n) and zero_below(x, limit, v): v, or 0 where x < limit.
template <class V>
ANYBEV_INLINE typename V::Vector exp_polynomial(typename V::Vector x) {
  constexpr float kLog2e = 1.442695041f, kLn2 = 0.693147182f, kLn2Rest = -1.904654299e-9f;
  const auto n = V::round(x * V::spread(kLog2e));
  auto r = V::multiply_add(n, V::spread(-kLn2), x);
  r = V::multiply_add(n, V::spread(-kLn2Rest), r);
  // Taylor: |r| <= ln 2 / 2, so the first term left out is below 2^-27.
  constexpr float kTerms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  auto power = V::spread(1.0f / 5040);
#pragma GCC unroll 8
  for (const float term : kTerms) power = V::multiply_add(power, r, V::spread(term));
  return V::zero_below(x, -87.0f, V::scale(power, n));
}

template <class V>
void softmax(typename V::Number* values, int64_t count) {
  auto largest = V::load(values);
  for (int64_t i = V::kLanes; i < count; i += V::kLanes) {
    largest = V::max(V::load(values + i), largest);
  }
  const auto shift = V::spread(V::max_lane(largest));
  auto total = V::spread(0);
  for (int64_t i = 0; i < count; i += V::kLanes) {
    const auto power = V::exp(V::load(values + i) - shift);
    V::store(values + i, power);
    total = total + power;
  }
  const auto scale = V::spread(1 / V::sum_lanes(total));
  for (int64_t i = 0; i < count; i += V::kLanes) {
    V::store(values + i, V::load(values + i) * scale);
  }
}

// Rows of D + C logits, `stride` apart, into softmaxed weights and padded context.
template <class V>
void split_column(const Problem& p, const typename V::Number* logits, int64_t stride,
                  const Scratch<V>& scratch) {
  using Number = typename V::Number;
  for (int64_t v = 0; v < p.height; ++v) {
    const Number* from = logits + v * stride;
    Number* weight = scratch.weight + v * scratch.depths;
    std::memcpy(weight, from, p.depths * sizeof(Number));
    for (int64_t d = p.depths; d < scratch.depths; ++d) {
      weight[d] = -std::numeric_limits<Number>::infinity();
    }
    softmax<V>(weight, scratch.depths);
    Number* context = scratch.context + v * scratch.channels;
    std::memcpy(context, from + p.depths, p.channels * sizeof(Number));
    for (int64_t c = p.channels; c < scratch.channels; ++c) context[c] = 0;
  }
}

template <class V>
void load_rays(const Problem& p, const float* rays_m, int64_t column, const Scratch<V>& scratch) {
  for (int axis = 0; axis < 3; ++axis) {
    const float* from = rays_m + column * 3 + axis;
    for (int64_t v = 0; v < p.height; ++v) scratch.rays_m[axis][v] = from[v * p.width * 3];
    for (int64_t v = p.height; v < scratch.height; ++v) {
      scratch.rays_m[axis][v] = std::numeric_limits<float>::quiet_NaN();
    }
  }
}

// Position in cells along one axis. Four roundings, in this order, decide the cell.
ANYBEV_INLINE float position(float depth_m, float ray_m, float origin_m, float lower_m,
                             float size_m) {
  return ((depth_m * ray_m + origin_m) - lower_m) / size_m;
}

// Whether a point of the column can have x in [begin, end). Every rounding keeps the order, so the
// position is monotonic in the depth, and positions at the least and the greatest depth are bounds.
template <class V>
bool may_touch(const Problem& p, const Picture<typename V::Number>& picture, int64_t column,
               int32_t begin, int32_t end) {
  const float ends_m[2] = {p.first_depth_m, p.last_depth_m};
  float low = std::numeric_limits<float>::infinity(), high = -low;
  for (int64_t v = 0; v < p.height; ++v) {
    const float ray = picture.rays_m[(v * p.width + column) * 3];
    for (const float depth_m : ends_m) {
      const float x = position(depth_m, ray, picture.origin_m[0], p.lower_m[0], p.cell_size_m[0]);
      if (x < low) low = x;
      if (x > high) high = x;
    }
  }
  const bool above = begin ? high >= static_cast<float>(begin) : high > -1;
  return above && low < static_cast<float>(end);
}

// Cells of the column's rows at one depth, -1 for dropped points. Written for the vectoriser: no
// branch, and only numbers inside the grid are converted.
template <class V>
void find_cells(const Problem& p, float depth_m, const float* origin_m, const Scratch<V>& scratch,
                int32_t* cells) {
  const float ox = origin_m[0], oy = origin_m[1], oz = origin_m[2];
  const float lx = p.lower_m[0], ly = p.lower_m[1], lz = p.lower_m[2];
  const float sx = p.cell_size_m[0], sy = p.cell_size_m[1], sz = p.cell_size_m[2];
  const int32_t ny = p.grid[1], nz = p.grid[2];
  const auto end_x = static_cast<float>(p.grid[0]);
  const auto end_y = static_cast<float>(ny), end_z = static_cast<float>(nz);
  const float *rx = scratch.rays_m[0], *ry = scratch.rays_m[1], *rz = scratch.rays_m[2];
  for (int64_t v = 0; v < scratch.height; ++v) {
    const float x = position(depth_m, rx[v], ox, lx, sx);
    const float y = position(depth_m, ry[v], oy, ly, sy);
    const float z = position(depth_m, rz[v], oz, lz, sz);
    const bool inside = (x > -1) & (x < end_x) & (y > -1) & (y < end_y) & (z > -1) & (z < end_z);
    const auto ix = static_cast<int32_t>(inside ? x : 0.0f);
    const auto iy = static_cast<int32_t>(inside ? y : 0.0f);
    const auto iz = static_cast<int32_t>(inside ? z : 0.0f);
    cells[v] = inside ? (ix * ny + iy) * nz + iz : -1;
  }
}

}  // namespace anybev::lift_splat

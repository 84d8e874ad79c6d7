// One image column of lift and splat: its logits as rows of channels, its weights, its cells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "ops/cpu/lift_splat_kernel.h"
#include "ops/cpu/lift_splat_kernel_lanes.h"

namespace anybev::lift_splat {

constexpr int64_t kPad = 16;  // depths, channels and rows are padded to this in scratch
constexpr int64_t kRunsTogether = 4096;
constexpr int64_t kBlockColumns = 16;
constexpr int64_t kBlockBytes = 512 * 1024;

ANYBEV_INLINE constexpr int64_t padded(int64_t value) { return (value + kPad - 1) / kPad * kPad; }

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

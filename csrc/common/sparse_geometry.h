// Geometry of sparse convolutions, as every device's plans share it. No torch and nothing of the
// standard library: files compiled for one instruction set include this, CUDA's as well.
#pragma once

#include <cstdint>

namespace anybev::sparse_neighbors {

constexpr int kTile = 128;  // rows of one tile, as TILE in device/ops/_sparse_spec.py

// Geometry of one convolution, axes x, y, z.
struct ConvGeometry {
  bool subm;
  int32_t kernel[3], stride[3], padding[3];

  constexpr int columns() const { return kernel[0] * kernel[1]; }
  constexpr int offsets() const { return kernel[0] * kernel[1] * kernel[2]; }
};

struct Shape3 {
  int64_t x, y, z;
};

// Cells along each axis of the output grid.
constexpr int64_t output_size(int64_t cells, int axis, const ConvGeometry& g) {
  return g.subm ? cells : (cells + 2 * g.padding[axis] - g.kernel[axis]) / g.stride[axis] + 1;
}
constexpr Shape3 output_shape(const Shape3& shape, const ConvGeometry& g) {
  return {output_size(shape.x, 0, g), output_size(shape.y, 1, g), output_size(shape.z, 2, g)};
}

// Outputs along one axis whose kernel covers input position i, first to last; none when last is
// below first.
struct Span {
  int64_t first, last;

  constexpr int64_t length() const { return last < first ? 0 : last - first + 1; }
};
constexpr Span reaching(int64_t i, int axis, const ConvGeometry& g, int64_t size) {
  const int64_t reach = i + g.padding[axis], stride = g.stride[axis];
  const int64_t low = reach - g.kernel[axis] + 1, last = reach / stride;
  return {low <= 0 ? 0 : (low + stride - 1) / stride, last < size ? last : size - 1};
}

}  // namespace anybev::sparse_neighbors

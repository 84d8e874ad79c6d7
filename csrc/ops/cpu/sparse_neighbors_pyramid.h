// What a call's pyramid asks of the column index.
#pragma once

#include <algorithm>

#include "common/sparse_pyramid.h"
#include "ops/cpu/sparse_neighbors_columns.h"

namespace anybev::sparse_neighbors {

// Whether column words hold every level of a sample that starts with `sites` sites.
inline bool fits_columns(const Pyramid& pyramid, int64_t sites) {
  for (const Layer& layer : pyramid.layers) {
    const ConvGeometry& g = layer.geometry;
    // Outputs are found by moving cells up by the padding, windows by 32-bit words.
    if (pyramid.levels[layer.level].shape.z + 2 * g.padding[2] > 64 || g.kernel[2] > 32) {
      return false;
    }
  }
  for (size_t i = 0, layer = 0; i < pyramid.levels.size(); ++i) {
    const Level& level = pyramid.levels[i];
    const int64_t x = level.shape.x + 2 * level.pad_x, y = level.shape.y + 2 * level.pad_y;
    if (x > ColumnIndex::kMaxColumns / y || !ColumnIndex::holds(level.shape.z, sites)) {
      return false;
    }
    while (layer < pyramid.layers.size() && pyramid.layers[layer].geometry.subm) ++layer;
    if (layer == pyramid.layers.size()) break;
    const ConvGeometry& g = pyramid.layers[layer++].geometry;
    for (int axis = 0; axis < 3; ++axis) sites *= (g.kernel[axis] - 1) / g.stride[axis] + 1;
    const Shape3& next = pyramid.levels[i + 1].shape;
    sites = std::min(sites, next.x * next.y * next.z);
  }
  return true;
}

}  // namespace anybev::sparse_neighbors

// The consecutive convolutions that one call plans, and the grids between them.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <vector>

#include "ops/cpu/sparse_neighbors_columns.h"

namespace anybev::sparse_neighbors {

constexpr int64_t kPacked = 10;  // integers a layer, as PlanSpec.pack

struct Layer {
  ConvGeometry geometry;
  size_t level;  // whose sites it reads; a strided layer makes those of level + 1
};

struct Level {
  Shape3 shape;
  int64_t pad_x = 0, pad_y = 0;  // how far its readers leave the grid
};

struct Pyramid {
  int64_t batch;
  std::vector<Layer> layers;
  std::vector<Level> levels;

  Pyramid(at::IntArrayRef shape, int64_t batch_size, at::IntArrayRef specs) : batch(batch_size) {
    TORCH_CHECK_VALUE(shape.size() == 3 && specs.size() % kPacked == 0,
                      "sparse_neighbors: specs must hold ", kPacked, " integers a layer, got ",
                      specs.size());
    levels.push_back({{shape[0], shape[1], shape[2]}});
    for (size_t at = 0; at < specs.size(); at += kPacked) {
      Layer layer{{specs[at] != 0, {}, {}, {}}, levels.size() - 1};
      ConvGeometry& g = layer.geometry;
      for (int axis = 0; axis < 3; ++axis) {
        g.kernel[axis] = static_cast<int32_t>(specs[at + 1 + axis]);
        g.stride[axis] = static_cast<int32_t>(specs[at + 4 + axis]);
        g.padding[axis] = static_cast<int32_t>(specs[at + 7 + axis]);
      }
      Level& level = levels.back();
      level.pad_x = std::max<int64_t>(level.pad_x, g.padding[0]);
      level.pad_y = std::max<int64_t>(level.pad_y, g.padding[1]);
      const Shape3 out = output_shape(level.shape, g);
      if (!g.subm) levels.push_back({out});
      layers.push_back(layer);
    }
  }

  // Whether column words hold every level of a sample that starts with `sites` sites.
  bool fits_columns(int64_t sites) const {
    for (const Layer& layer : layers) {
      const ConvGeometry& g = layer.geometry;
      // Outputs are found by moving cells up by the padding, windows by 32-bit words.
      if (levels[layer.level].shape.z + 2 * g.padding[2] > 64 || g.kernel[2] > 32) return false;
    }
    for (size_t i = 0, layer = 0; i < levels.size(); ++i) {
      const Level& level = levels[i];
      const int64_t x = level.shape.x + 2 * level.pad_x, y = level.shape.y + 2 * level.pad_y;
      if (x > ColumnIndex::kMaxColumns / y || !ColumnIndex::holds(level.shape.z, sites)) {
        return false;
      }
      while (layer < layers.size() && layers[layer].geometry.subm) ++layer;
      if (layer == layers.size()) break;
      const ConvGeometry& g = layers[layer++].geometry;
      for (int axis = 0; axis < 3; ++axis) sites *= (g.kernel[axis] - 1) / g.stride[axis] + 1;
      const Shape3& next = levels[i + 1].shape;
      sites = std::min(sites, next.x * next.y * next.z);
    }
    return true;
  }
};

}  // namespace anybev::sparse_neighbors

// The consecutive convolutions that one call plans, and the grids between them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "common/sparse_geometry.h"

namespace anybev::sparse_neighbors {

struct Layer {
  ConvGeometry geometry;
  size_t level;  // whose sites it reads; a strided layer makes those of level + 1

  size_t out_level() const { return level + (geometry.subm ? 0 : 1); }
};

struct Level {
  Shape3 shape;
  int64_t pad_x = 0, pad_y = 0;  // how far its readers leave the grid
};

struct Pyramid {
  static constexpr size_t kPacked = 10;  // integers a layer, as PlanSpec.pack

  int64_t batch;
  std::vector<Layer> layers;
  std::vector<Level> levels;

  Pyramid(const int64_t* shape, int64_t batch_size, const int64_t* specs, size_t layer_count)
      : batch(batch_size) {
    levels.push_back({{shape[0], shape[1], shape[2]}});
    for (size_t i = 0; i < layer_count; ++i, specs += kPacked) {
      Layer layer{{specs[0] != 0, {}, {}, {}}, levels.size() - 1};
      ConvGeometry& g = layer.geometry;
      for (int axis = 0; axis < 3; ++axis) {
        g.kernel[axis] = static_cast<int32_t>(specs[1 + axis]);
        g.stride[axis] = static_cast<int32_t>(specs[4 + axis]);
        g.padding[axis] = static_cast<int32_t>(specs[7 + axis]);
      }
      Level& level = levels.back();
      level.pad_x = std::max<int64_t>(level.pad_x, g.padding[0]);
      level.pad_y = std::max<int64_t>(level.pad_y, g.padding[1]);
      const Shape3 out = output_shape(level.shape, g);
      if (!g.subm) levels.push_back({out});
      layers.push_back(layer);
    }
  }
};

}  // namespace anybev::sparse_neighbors

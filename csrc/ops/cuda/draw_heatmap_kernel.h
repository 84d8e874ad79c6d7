#pragma once

#include "common/cuda/context.h"

namespace anybev::cuda {

struct HeatmapSetting {
  int64_t batch_size, num_classes, nx, ny, min_radius;
  float cell_x_m, cell_y_m, origin_x_m, origin_y_m;
  // Functions of the overlap o, in double, then rounded: 1 - o, 1 + o, -2 o, o - 1, 16 o.
  float low, high, minus_twice, minus_low, sixteen;
};

// heatmap is (batch_size, num_classes, nx, ny); boxes have `columns` numbers each. All of it is NaN
// if a sample index is outside the batch: nothing here waits for the device to complain.
void draw_heatmap(Context& context, const float* boxes, int64_t count, int64_t columns,
                  const int64_t* labels, const int64_t* samples, const HeatmapSetting& setting,
                  float* heatmap);

}  // namespace anybev::cuda

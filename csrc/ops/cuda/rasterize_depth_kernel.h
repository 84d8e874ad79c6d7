#pragma once

#include "common/cuda/context.h"

namespace anybev::cuda {

// What is drawn; all arrays are the device's and contiguous.
struct DepthScene {
  const float* points;  // (count, columns)
  int64_t count, columns;
  const float *lidar2img, *img_aug;  // (cameras, 4, 4)
  const float *shift, *unturn;       // (3,) and (3, 3)
  int64_t cameras, height, width;
};

// image is (cameras, height, width).
void rasterize_depth(Context& context, const DepthScene& scene, float* image);

}  // namespace anybev::cuda

// Depth pictures in two passes over the picture's own memory: points leave the highest number of
// their pixel there, by an integer maximum, which no order of threads changes; then numbers become
// depths.
#include <cfloat>

#include "common/cuda/device.h"
#include "ops/cuda/rasterize_depth_kernel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostCameras = 65535;              // of a grid's second axis
constexpr float kNearest = 1e-5f, kFarthest = 1e5f;  // metres

struct Point {
  float x, y, z;
};

// Row of a matrix times (x, y, z, 1). Sums are not fused and run in the reference's order, on which
// the pixel of a point at an edge depends.
__device__ float row(const float* m, const Point& p) {
  return m[0] * p.x + m[1] * p.y + m[2] * p.z + m[3];
}

// A point before augmentation. Its last term is there for the zero that the reference adds.
__device__ Point take_back(const DepthScene& scene, int64_t i) {
  const float* from = scene.points + i * scene.columns;
  const Point p = {from[0] - scene.shift[0], from[1] - scene.shift[1], from[2] - scene.shift[2]};
  const float* m = scene.unturn;
  return {m[0] * p.x + m[1] * p.y + m[2] * p.z + 0.0f, m[3] * p.x + m[4] * p.y + m[5] * p.z + 0.0f,
          m[6] * p.x + m[7] * p.y + m[8] * p.z + 0.0f};
}

__global__ void __launch_bounds__(kThreads) find_last_points(DepthScene scene, int* last) {
  const auto width = static_cast<float>(scene.width), height = static_cast<float>(scene.height);
  for (int64_t camera = blockIdx.y; camera < scene.cameras; camera += gridDim.y) {
    const float* const project = scene.lidar2img + camera * 16;
    const float* const aug = scene.img_aug + camera * 16;
    for (int64_t i = first_item(); i < scene.count; i += item_stride()) {
      const Point raw = take_back(scene, i);
      const float depth = row(project + 8, raw);
      // Comparisons are false for NaN. A coordinate that is not finite makes the depth so.
      if (!(depth >= -FLT_MAX && depth <= FLT_MAX)) continue;
      const float divisor = depth < kNearest ? kNearest : depth > kFarthest ? kFarthest : depth;
      const Point pixel = {row(project, raw) / divisor, row(project + 4, raw) / divisor, divisor};
      const float u = row(aug, pixel), v = row(aug + 4, pixel);
      if (!(u >= 0.0f && u < width && v >= 0.0f && v < height)) continue;
      const int64_t at =
          (camera * scene.height + static_cast<int64_t>(v)) * scene.width + static_cast<int64_t>(u);
      atomicMax(last + at, static_cast<int>(i + 1));
    }
  }
}

// 0, no point, is also the bits of 0 metres.
__global__ void __launch_bounds__(kThreads) write_depths(DepthScene scene, int* last) {
  const int64_t pixels = scene.height * scene.width;
  for (int64_t at = first_item(); at < scene.cameras * pixels; at += item_stride()) {
    if (last[at] == 0) continue;
    const float* const project = scene.lidar2img + at / pixels * 16;
    last[at] = __float_as_int(row(project + 8, take_back(scene, last[at] - 1)));
  }
}

}  // namespace

void rasterize_depth(Context& context, const DepthScene& scene, float* image) {
  const int64_t pixels = scene.cameras * scene.height * scene.width;
  int* const last = reinterpret_cast<int*>(image);
  fill_bytes(context, last, 0, pixels * sizeof(int));
  const dim3 grid(blocks_for(scene.count, kThreads), blocks_for(scene.cameras, 1, kMostCameras));
  launch(context, find_last_points, grid, kThreads, 0, scene, last);
  launch(context, write_depths, blocks_for(pixels, kThreads), kThreads, 0, scene, last);
}

}  // namespace anybev::cuda

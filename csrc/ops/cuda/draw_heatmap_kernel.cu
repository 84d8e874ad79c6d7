// Centre heatmaps: a block draws one box. Values are not negative, so that their bits order as they
// do and an integer maximum merges them, in any order of threads; NaN's bits are above all.
#include "common/cuda/device.h"
#include "ops/cuda/draw_heatmap_kernel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 128;
constexpr float kSizeLimit = 1 << 24;  // cells; above any grid, far from overflow
constexpr int kNan = 0x7fc00000;

__device__ float smaller(float a, float b) { return b < a ? b : a; }

// The historical roots, divided by 2 instead of 2a, in the reference's order of operations:
// truncation to an integer radius follows.
__device__ int64_t radius_cells(float length, float width, const HeatmapSetting& s) {
  const float total = length + width, area = width * length;
  const float root1 = (total + sqrtf(total * total - 4.0f * (area * s.low / s.high))) / 2.0f;
  const float twice = 2.0f * total;
  const float root2 = (twice + sqrtf(twice * twice - 16.0f * (s.low * width * length))) / 2.0f;
  const float scaled = s.minus_twice * total;
  const float inner = s.minus_low * width * length;
  const float root3 = (scaled + sqrtf(scaled * scaled - s.sixteen * inner)) / 2.0f;
  const float radius = smaller(smaller(root1, root2), root3);
  return max(static_cast<int64_t>(radius), s.min_radius);
}

__global__ void __launch_bounds__(kThreads)
    draw(const float* boxes, int64_t count, int64_t columns, const int64_t* labels,
         const int64_t* samples, HeatmapSetting s, int* heatmap) {
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const float* const box = boxes + i * columns;
    const int64_t label = labels[i], sample = samples[i];
    if (sample < 0 || sample >= s.batch_size) {
      const int64_t cells = s.batch_size * s.num_classes * s.nx * s.ny;
      for (int64_t c = threadIdx.x; c < cells; c += kThreads) atomicMax(heatmap + c, kNan);
      continue;
    }
    const float length = smaller(box[3] / s.cell_x_m, kSizeLimit);
    const float width = smaller(box[4] / s.cell_y_m, kSizeLimit);
    const float x = truncf((box[0] - s.origin_x_m) / s.cell_x_m);
    const float y = truncf((box[1] - s.origin_y_m) / s.cell_y_m);
    const bool on_grid =
        x >= 0 && x < static_cast<float>(s.nx) && y >= 0 && y < static_cast<float>(s.ny);
    const bool sized = length > 0 && width > 0;
    if (!on_grid || !sized || label < 0 || label >= s.num_classes) continue;

    const int64_t centre_x = static_cast<int64_t>(x), centre_y = static_cast<int64_t>(y);
    const int64_t radius = radius_cells(length, width, s);
    const int64_t x_low = max(centre_x - radius, int64_t{0});
    const int64_t y_low = max(centre_y - radius, int64_t{0});
    const int64_t rows = min(centre_x + radius, s.nx - 1) - x_low + 1;
    const int64_t window = min(centre_y + radius, s.ny - 1) - y_low + 1;
    const double sigma = static_cast<double>(2 * radius + 1) / 6;
    int* const plane = heatmap + (sample * s.num_classes + label) * s.nx * s.ny;
    for (int64_t c = threadIdx.x; c < rows * window; c += kThreads) {
      const int64_t cell_x = x_low + c / window, cell_y = y_low + c % window;
      const int64_t dx = cell_x - centre_x, dy = cell_y - centre_y;
      const auto squared = static_cast<double>(dx * dx + dy * dy);
      const auto value = static_cast<float>(exp(-squared / (2 * sigma * sigma)));
      atomicMax(plane + cell_x * s.ny + cell_y, __float_as_int(value));
    }
  }
}

}  // namespace

void draw_heatmap(Context& context, const float* boxes, int64_t count, int64_t columns,
                  const int64_t* labels, const int64_t* samples, const HeatmapSetting& setting,
                  float* heatmap) {
  const int64_t cells = setting.batch_size * setting.num_classes * setting.nx * setting.ny;
  fill_bytes(context, heatmap, 0, cells * sizeof(float));
  launch(context, draw, blocks_for(count, 1), kThreads, 0, boxes, count, columns, labels, samples,
         setting, reinterpret_cast<int*>(heatmap));
}

}  // namespace anybev::cuda

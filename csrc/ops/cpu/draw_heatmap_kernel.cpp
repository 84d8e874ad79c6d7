// Centre heatmaps on the CPU: every class plane is zeroed and drawn by one thread.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace anybev {
namespace {

constexpr int64_t kCellsPerTask = 1 << 18;
constexpr float kSizeLimit = 1 << 24;  // cells; above any grid, far from overflow

struct Peak {
  int64_t plane, x, y, radius;
};

// The historical roots, divided by 2 instead of 2a, in float32 and in the reference's order of
// operations: truncation to an integer radius follows.
int64_t radius_cells(float length, float width, double overlap, int64_t min_radius) {
  const float total = length + width, area = width * length;
  const auto low = static_cast<float>(1 - overlap), high = static_cast<float>(1 + overlap);
  const float root1 = (total + std::sqrt(total * total - 4.0f * (area * low / high))) / 2.0f;
  const float twice = 2.0f * total;
  const float root2 = (twice + std::sqrt(twice * twice - 16.0f * (low * width * length))) / 2.0f;
  const float scaled = static_cast<float>(-2 * overlap) * total;
  const float inner = static_cast<float>(overlap - 1) * width * length;
  const float root3 =
      (scaled + std::sqrt(scaled * scaled - static_cast<float>(16 * overlap) * inner)) / 2.0f;
  const float radius = std::min({root1, root2, root3});
  return std::max(static_cast<int64_t>(radius), min_radius);
}

void draw(const Peak& peak, int64_t nx, int64_t ny, std::vector<float>& quarter, float* plane) {
  const int64_t x_low = std::max<int64_t>(peak.x - peak.radius, 0);
  const int64_t x_high = std::min(peak.x + peak.radius, nx - 1);
  const int64_t y_low = std::max<int64_t>(peak.y - peak.radius, 0);
  const int64_t y_high = std::min(peak.y + peak.radius, ny - 1);
  // One quadrant serves all four; the axes beyond the grid are not needed.
  const int64_t rows = std::max(peak.x - x_low, x_high - peak.x) + 1;
  const int64_t columns = std::max(peak.y - y_low, y_high - peak.y) + 1;
  const double sigma = static_cast<double>(2 * peak.radius + 1) / 6;
  quarter.resize(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const auto squared = static_cast<double>(i * i + j * j);
      quarter[i * columns + j] = static_cast<float>(std::exp(-squared / (2 * sigma * sigma)));
    }
  }
  for (int64_t x = x_low; x <= x_high; ++x) {
    const float* value = quarter.data() + std::abs(x - peak.x) * columns;
    for (int64_t y = y_low; y <= y_high; ++y) {
      float& cell = plane[x * ny + y];
      cell = std::max(cell, value[std::abs(y - peak.y)]);
    }
  }
}

at::Tensor draw_heatmap(const at::Tensor& boxes_lidar, const at::Tensor& labels,
                        const at::Tensor& sample_index, int64_t batch_size, int64_t num_classes,
                        at::IntArrayRef grid, at::ArrayRef<double> cell_size_m,
                        at::ArrayRef<double> origin_m, double overlap, int64_t min_radius) {
  const int64_t nx = grid[0], ny = grid[1], columns = boxes_lidar.size(1);
  const at::Tensor boxes = boxes_lidar.to(at::kFloat).contiguous();
  const at::Tensor classes = labels.contiguous(), samples = sample_index.contiguous();
  const float* box = boxes.const_data_ptr<float>();
  const int64_t* label = classes.const_data_ptr<int64_t>();
  const int64_t* sample = samples.const_data_ptr<int64_t>();
  const float cell[2] = {static_cast<float>(cell_size_m[0]), static_cast<float>(cell_size_m[1])};
  const float origin[2] = {static_cast<float>(origin_m[0]), static_cast<float>(origin_m[1])};

  std::vector<Peak> peaks;
  for (int64_t i = 0; i < boxes.size(0); ++i, box += columns) {
    TORCH_CHECK_VALUE(sample[i] >= 0 && sample[i] < batch_size,
                      "draw_heatmap: sample_index must be in [0, ", batch_size, "), got ",
                      sample[i]);
    const float length = std::min(box[3] / cell[0], kSizeLimit);
    const float width = std::min(box[4] / cell[1], kSizeLimit);
    const float x = std::trunc((box[0] - origin[0]) / cell[0]);
    const float y = std::trunc((box[1] - origin[1]) / cell[1]);
    const bool on_grid =
        x >= 0 && x < static_cast<float>(nx) && y >= 0 && y < static_cast<float>(ny);
    const bool sized = length > 0 && width > 0;
    if (!on_grid || !sized || label[i] < 0 || label[i] >= num_classes) continue;
    peaks.push_back({sample[i] * num_classes + label[i], static_cast<int64_t>(x),
                     static_cast<int64_t>(y), radius_cells(length, width, overlap, min_radius)});
  }

  at::Tensor heatmap =
      at::empty({batch_size, num_classes, nx, ny}, boxes_lidar.options().dtype(at::kFloat));
  float* out = heatmap.mutable_data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, kCellsPerTask / (nx * ny));
  at::parallel_for(0, batch_size * num_classes, grain, [&](int64_t begin, int64_t end) {
    std::fill(out + begin * nx * ny, out + end * nx * ny, 0.0f);
    std::vector<float> quarter;
    for (const Peak& peak : peaks) {
      if (peak.plane < begin || peak.plane >= end) continue;
      draw(peak, nx, ny, quarter, out + peak.plane * nx * ny);
    }
  });
  return heatmap;
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("draw_heatmap", &anybev::draw_heatmap); }

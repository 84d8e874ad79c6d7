// Draws one picture of the synthetic world: polygons and cones into a buffer of inverse depth, then
// shading. Inverse depth is affine in the pixel for every plane, so a row of a polygon is one span
// between affine bounds, without a division.

#include "host/render.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace anybev::render {

void draw_polygon(const View& view, const double* plane, const Bound* bounds, const int32_t* rows,
                  int32_t surface) {
  const double width = static_cast<double>(view.width);
  const float slope = static_cast<float>(plane[1]);
  for (int64_t row = rows[0]; row < rows[1]; ++row) {
    const double v = static_cast<double>(row) + 0.5;
    double lower = 0.5, upper = width - 0.5;
    for (int64_t k = 0; k < kBounds; ++k) {
      const double u = bounds[k].offset + bounds[k].slope * v;
      if (bounds[k].side > 0) {
        lower = std::max(lower, u);
      } else {
        upper = std::min(upper, u);
      }
    }
    if (!(lower <= upper)) continue;
    const int64_t begin = static_cast<int64_t>(std::ceil(lower - 0.5));
    const int64_t end = static_cast<int64_t>(std::floor(upper - 0.5)) + 1;
    const float base = static_cast<float>(plane[0] + plane[2] * v);
    float* __restrict depth = view.inverse_depth + row * view.width;
    int32_t* __restrict owner = view.surface + row * view.width;
    for (int32_t u = static_cast<int32_t>(begin); u < static_cast<int32_t>(end); ++u) {
      const float here = base + slope * (static_cast<float>(u) + 0.5f);
      const float there = depth[u];
      const int32_t held = owner[u];
      depth[u] = here >= there ? here : there;
      owner[u] = here >= there ? surface : held;
    }
  }
}

void draw_cone(const View& view, const Cone& cone, const int32_t* window, int32_t surface) {
  const Rays& rays = view.rays;
  // |direction - center / depth| = base / depth + slope * direction_z, solved for 1 / depth.
  const double lead = cone.x * cone.x + cone.y * cone.y - cone.base * cone.base;
  const bool outside = lead > 0;
  const double inverse = outside ? 1 / lead : 0.0;
  // The camera sees the cap that lies wholly above or below it.
  const double cap_z = cone.z1 < 0 ? cone.z1 : (cone.z0 > 0 ? cone.z0 : 0.0);
  const double cap_radius = cone.base + cone.slope * cap_z;
  for (int64_t row = window[0]; row < window[1]; ++row) {
    const double v = static_cast<double>(row) + 0.5;
    float* depth = view.inverse_depth + row * view.width;
    int32_t* owner = view.surface + row * view.width;
    for (int64_t column = window[2]; column < window[3]; ++column) {
      const double u = static_cast<double>(column) + 0.5;
      const double dx = rays.origin[0] + rays.u[0] * u + rays.v[0] * v;
      const double dy = rays.origin[1] + rays.u[1] * u + rays.v[1] * v;
      const double dz = rays.origin[2] + rays.u[2] * u + rays.v[2] * v;
      double nearest = 0.0;
      const double rise = cone.slope * dz;
      const double linear = cone.x * dx + cone.y * dy + cone.base * rise;
      const double root = linear * linear - lead * (dx * dx + dy * dy - rise * rise);
      if (outside && root >= 0) {
        const double side = (linear + std::sqrt(root)) * inverse;
        if (side > 0 && dz >= cone.z0 * side && dz <= cone.z1 * side) nearest = side;
      }
      if (cap_z != 0) {
        const double cap = dz / cap_z;
        const double aside_x = dx - cone.x * cap, aside_y = dy - cone.y * cap;
        const double reach = cap_radius * cap;
        if (cap > nearest && aside_x * aside_x + aside_y * aside_y <= reach * reach) nearest = cap;
      }
      const float here = static_cast<float>(nearest);
      if (nearest > 0 && here >= depth[column]) {
        depth[column] = here;
        owner[column] = surface;
      }
    }
  }
}

namespace {

using at::Tensor;

std::tuple<Tensor, Tensor, Tensor> render(const Tensor& planes, const Tensor& bounds,
                                          const Tensor& rows, const Tensor& cones,
                                          const Tensor& windows, const Tensor& paints,
                                          const Tensor& rays, const Tensor& light,
                                          const Tensor& texture, const Tensor& noise,
                                          const Tensor& noise_at, int64_t height, int64_t width) {
  // Python and kernels of two versions would read each other's rows wrongly.
  TORCH_CHECK_VALUE(light.numel() * sizeof(double) == sizeof(Light) &&
                        paints.size(1) * sizeof(float) == sizeof(Paint),
                    "render: light and paints must have ", sizeof(Light) / sizeof(double), " and ",
                    sizeof(Paint) / sizeof(float), " columns, got ", light.numel(), " and ",
                    paints.size(1), "; run install.sh again");
  Tensor image = at::empty({height, width, 3}, at::kByte);
  Tensor inverse_depth = at::full({height, width}, 0.0, at::kFloat);
  Tensor surface = at::full({height, width}, -1, at::kInt);
  View view{height, width, {}, inverse_depth.data_ptr<float>(), surface.data_ptr<int32_t>()};
  view.rays = *reinterpret_cast<const Rays*>(rays.const_data_ptr<double>());
  const int64_t polygons = planes.size(0), count = cones.size(0);
  const auto* bound = reinterpret_cast<const Bound*>(bounds.const_data_ptr<double>());
  const auto* cone = reinterpret_cast<const Cone*>(cones.const_data_ptr<double>());
  for (int64_t i = 0; i < polygons; ++i) {
    draw_polygon(view, planes.const_data_ptr<double>() + 3 * i, bound + kBounds * i,
                 rows.const_data_ptr<int32_t>() + 2 * i, static_cast<int32_t>(i));
  }
  for (int64_t i = 0; i < count; ++i) {
    draw_cone(view, cone[i], windows.const_data_ptr<int32_t>() + 4 * i,
              static_cast<int32_t>(polygons + i));
  }
  Finish finish{};
  finish.paints = reinterpret_cast<const Paint*>(paints.const_data_ptr<float>());
  finish.cones = cone;
  finish.polygons = polygons;
  finish.light = *reinterpret_cast<const Light*>(light.const_data_ptr<double>());
  finish.texture = texture.const_data_ptr<uint8_t>();
  finish.noise = noise.const_data_ptr<float>();
  finish.noise_at = noise_at.const_data_ptr<int32_t>();
  shade(view, finish, image.data_ptr<uint8_t>());
  return {image, inverse_depth, surface};
}

}  // namespace
}  // namespace anybev::render

TORCH_LIBRARY_FRAGMENT(anybev_host, m) {
  m.def(
      "render(Tensor planes, Tensor bounds, Tensor rows, Tensor cones, Tensor windows, "
      "Tensor paints, Tensor rays, Tensor light, Tensor texture, Tensor noise, Tensor noise_at, "
      "int height, int width) -> (Tensor, Tensor, Tensor)",
      &anybev::render::render);
}

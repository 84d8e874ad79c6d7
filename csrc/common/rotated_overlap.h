// Area that two rotated rectangles share, for processors and CUDA kernels. Plain C++: the formula
// is that of the reference in device/ops/box_iou_rotated.py.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/host_device.h"

namespace anybev {

// A rectangle as the pair loop wants it: sizes not below zero, radius of the circle around it.
template <typename T>
struct RotatedBox {
  T x, y, half_dx, half_dy, yaw_rad, cos, sin, area, radius;

  RotatedBox() = default;
  // box: x, y, dx, dy, yaw. A non-finite entry makes x NaN, which every overlap then is.
  ANYBEV_HD explicit RotatedBox(const T* box) {
    const T dx = std::max(box[2], T(0)), dy = std::max(box[3], T(0));
    bool finite = true;
    for (int i = 0; i < 5; ++i) finite = finite && std::isfinite(box[i]);
    x = finite ? box[0] : std::numeric_limits<T>::quiet_NaN();
    y = box[1];
    half_dx = dx / 2;
    half_dy = dy / 2;
    yaw_rad = box[4];
    cos = std::cos(yaw_rad);
    sin = std::sin(yaw_rad);
    area = dx * dy;
    radius = std::sqrt(half_dx * half_dx + half_dy * half_dy);
  }
};

// Integral of clamp(y, -h, h) dx along the part of the edge (x0, y0) -> (x1, y1) with |x| <= w.
template <typename T>
ANYBEV_HD inline T edge_integral(T x0, T y0, T x1, T y1, T w, T h) {
  const T xa = std::clamp(x0, -w, w), xb = std::clamp(x1, -w, w);
  if (xa == xb) return 0;
  const T run = x1 - x0, rise = y1 - y0;
  const T ya = y0 + (xa - x0) / run * rise, yb = y0 + (xb - x0) / run * rise;
  const T low = std::min(ya, yb), high = std::max(ya, yb), span = high - low;
  const T low_in = std::clamp(low, -h, h), high_in = std::clamp(high, -h, h);
  if (span == 0) return (xb - xa) * low_in;
  const T above = std::max(high - std::max(low, h), T(0));
  const T below = std::max(std::min(high, -h) - low, T(0));
  const T mean = ((high_in - low_in) * (low_in + high_in) / 2 + (above - below) * h) / span;
  return (xb - xa) * mean;
}

// Shared area, NaN when a box is not finite.
template <typename T>
ANYBEV_HD inline T rotated_intersection(const RotatedBox<T>& a, const RotatedBox<T>& b) {
  const T dx = a.x - b.x, dy = a.y - b.y;
  if (std::isnan(dx)) return dx;
  // The margin keeps rounding from dropping boxes that touch.
  const T reach = (a.radius + b.radius) * T(1.0001);
  if (dx * dx + dy * dy > reach * reach) return 0;
  const T centre_x = dx * b.cos + dy * b.sin, centre_y = dy * b.cos - dx * b.sin;
  const T turn = a.yaw_rad - b.yaw_rad, cos = std::cos(turn), sin = std::sin(turn);
  const T ux = a.half_dx * cos, uy = a.half_dx * sin;
  const T vx = -a.half_dy * sin, vy = a.half_dy * cos;
  const T x[4] = {centre_x - ux - vx, centre_x + ux - vx, centre_x + ux + vx, centre_x - ux + vx};
  const T y[4] = {centre_y - uy - vy, centre_y + uy - vy, centre_y + uy + vy, centre_y - uy + vy};
  T area = 0;
  for (int i = 0; i < 4; ++i) {
    const int next = (i + 1) % 4;
    area -= edge_integral(x[i], y[i], x[next], y[next], b.half_dx, b.half_dy);
  }
  return std::max(area, T(0));
}

template <typename T>
ANYBEV_HD inline T rotated_iou(const RotatedBox<T>& a, const RotatedBox<T>& b) {
  const T shared = rotated_intersection(a, b);
  if (shared == 0) return 0;
  return shared / (a.area + b.area - shared);
}

}  // namespace anybev

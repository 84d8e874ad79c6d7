// Colours the pixels of a drawn picture, one run of equal surfaces after the other.

#include <algorithm>
#include <cmath>
#include <vector>

#include "host/render.h"

namespace anybev::render {
namespace {

inline float clamp01(float x) { return std::min(std::max(x, 0.0f), 1.0f); }

// Position within a period; 4096 keeps the truncated number positive.
inline float fraction(float x) {
  return x - static_cast<float>(static_cast<int32_t>(x + 4096.0f) - 4096);
}

// Share of a line of the given half-width in a pixel of size `blur`, all in metres.
inline float line(float distance, float half_width, float blur) {
  return clamp01((half_width - std::abs(distance)) / blur + 0.5f);
}

// One row at a time. Every step is a loop over plain arrays, which the compiler vectorises.
class Shader {
 public:
  Shader(const View& view, const Finish& finish)
      : view_(view), finish_(finish), scratch_(static_cast<size_t>(9 * view.width)) {
    const Light& light = finish.light;
    for (int k = 0; k < 3; ++k) {
      horizon_[k] = static_cast<float>(light.horizon[k]);
      climb_[k] = static_cast<float>(light.zenith[k] - light.horizon[k]);
      color_[k] = scratch_.data() + k * view.width;
    }
    float* next = color_[2];
    for (float** part : {&depth_, &fog_, &along_, &across_, &rough_, &lane_}) {
      *part = next += view.width;
    }
    bytes_.resize(static_cast<size_t>(3 * view.width));
  }

  void row(int64_t row, uint8_t* image) {
    v_ = static_cast<float>(row) + 0.5f;
    for (int k = 0; k < 3; ++k) {
      const double v = static_cast<double>(row) + 0.5;
      direction_[k] = static_cast<float>(view_.rays.origin[k] + view_.rays.v[k] * v);
      step_[k] = static_cast<float>(view_.rays.u[k]);
    }
    const float fog_m = static_cast<float>(finish_.light.fog_m);
    const float* inverse_depth = view_.inverse_depth + row * view_.width;
    for (int64_t i = 0; i < view_.width; ++i) {
      depth_[i] = 1.0f / inverse_depth[i];
      fog_[i] = depth_[i] / (depth_[i] + fog_m);
    }
    const int32_t* surface = view_.surface + row * view_.width;
    for (int32_t begin = 0; begin < view_.width;) {
      int32_t end = begin + 1;
      while (end < view_.width && surface[end] == surface[begin]) ++end;
      run(begin, end, surface[begin]);
      begin = end;
    }
    finish(finish_.noise_at + row * 3, image + row * view_.width * 3);
  }

 private:
  void run(int32_t begin, int32_t end, int32_t surface) {
    if (surface < 0) return sky(begin, end);
    const Paint& paint = finish_.paints[surface];
    if (surface >= finish_.polygons) {
      return round(begin, end, paint, finish_.cones[surface - finish_.polygons]);
    }
    flat(begin, end, paint);
    if (paint.kind == static_cast<float>(kGround)) ground(begin, end);
    if (paint.kind == static_cast<float>(kFacade)) windows(begin, end);
  }

  void sky(int32_t begin, int32_t end) {
    for (int k = 0; k < 3; ++k) {
      float* __restrict color = color_[k];
      const float base = horizon_[k], climb = climb_[k], up = direction_[2], step = step_[2];
      for (int32_t i = begin; i < end; ++i) {
        const float u = static_cast<float>(i) + 0.5f;
        color[i] = base + climb * clamp01(1.6f * (up + step * u));
      }
    }
    std::fill(fog_ + begin, fog_ + end, 0.0f);
  }

  // Surface coordinates, grain, and the paint's colour.
  void flat(int32_t begin, int32_t end, const Paint& paint) {
    const float along_base = paint.along[0] + paint.along[2] * v_, along_step = paint.along[1];
    const float across_base = paint.across[0] + paint.across[2] * v_, across_step = paint.across[1];
    float* __restrict along = along_, * __restrict across = across_, * __restrict rough = rough_;
    const float* __restrict depth = depth_;
    for (int32_t i = begin; i < end; ++i) {
      const float u = static_cast<float>(i) + 0.5f;
      along[i] = depth[i] * (along_base + along_step * u) + paint.along_offset;
      across[i] = depth[i] * (across_base + across_step * u) + paint.across_offset;
    }
    for (int32_t i = begin; i < end; ++i) {
      rough[i] = texture_at(along[i] * paint.frequency, across[i] * paint.frequency);
    }
    paint_over(begin, end, paint);
  }

  void paint_over(int32_t begin, int32_t end, const Paint& paint) {
    const float* __restrict depth = depth_, * __restrict rough = rough_;
    float* __restrict red = color_[0], * __restrict green = color_[1], * __restrict blue = color_[2];
    for (int32_t i = begin; i < end; ++i) {
      const float gain = 1.0f + paint.amplitude / (1.0f + 0.04f * depth[i]) * rough[i];
      red[i] = paint.red * gain;
      green[i] = paint.green * gain;
      blue[i] = paint.blue * gain;
    }
  }

  // Two octaves of the noise picture, -1..1; 65536 keeps the truncated index positive.
  float texture_at(float along, float across) const {
    const auto texel = [this](float a, float b) {
      const int32_t row = static_cast<int32_t>(a + 65536.0f) & 255;
      const int32_t column = static_cast<int32_t>(b + 65536.0f) & 255;
      return static_cast<float>(finish_.texture[row * 256 + column]) - 128.0f;
    };
    const float sum = texel(along, across) + texel(along * 0.13f, across * 0.13f);
    return sum * (1.0f / 256.0f);
  }

  void windows(int32_t begin, int32_t end) {
    float* __restrict red = color_[0], * __restrict green = color_[1], * __restrict blue = color_[2];
    const float* __restrict along = along_, * __restrict across = across_;
    for (int32_t i = begin; i < end; ++i) {
      const float a = fraction(along[i]), b = fraction(across[i]);
      const bool window = (a > 0.3f) & (a < 0.7f) & (b > 0.35f) & (b < 0.8f);
      const float gain = window ? 0.62f : 1.0f;
      red[i] *= gain;
      green[i] *= gain;
      blue[i] *= gain;
    }
  }

  // Road, markings, pavement, yard; positions are in the road's frame at its start.
  void ground(int32_t begin, int32_t end) {
    const float curvature = static_cast<float>(finish_.light.curvature);
    const float focal_px = static_cast<float>(finish_.light.focal_px);
    const float radius = 1.0f / curvature, sign = curvature > 0.0f ? 1.0f : -1.0f;
    float* __restrict along = along_, * __restrict across = across_, * __restrict lane = lane_;
    const float* __restrict depth = depth_;
    if (curvature != 0.0f) {
      for (int32_t i = begin; i < end; ++i) {
        const float x = along[i], y = radius - across[i];
        across[i] = radius - sign * std::sqrt(x * x + y * y);
        rough_[i] = y;
      }
    }
    for (int32_t i = begin; i < end; ++i) {
      const float blur = 0.02f + 1.5f * depth[i] / focal_px;
      lane[i] = line(std::abs(across[i]) - 3.5f, 0.08f, blur);
    }
    for (int32_t i = begin; i < end; ++i) {
      if (lane[i] == 0.0f) continue;
      float travelled = along[i];
      if (curvature != 0.0f) travelled = radius * std::atan2(sign * along[i], sign * rough_[i]);
      if (fraction(travelled * (1.0f / 9.0f)) >= 0.4f) lane[i] = 0.0f;
    }
    float* __restrict red = color_[0], * __restrict green = color_[1], * __restrict blue = color_[2];
    for (int32_t i = begin; i < end; ++i) {
      const float from_middle = std::abs(across[i]);
      const float blur = 0.02f + 1.5f * depth[i] / focal_px;
      const float paved = clamp01((from_middle - 8.4f) / blur + 0.5f);
      const float yard = clamp01((from_middle - 13.6f) / blur + 0.5f);
      const float kerb = line(from_middle - 8.45f, 0.1f, blur);
      const float white = lane[i] + line(from_middle - 7.0f, 0.08f, blur);
      const float yellow = line(from_middle - 0.15f, 0.06f, blur);
      const auto albedo = [=](float asphalt, float pavement, float grass, float stone, float pale,
                              float warm) {
        float value = asphalt;
        value += paved * (pavement - value);
        value += yard * (grass - value);
        value += kerb * (stone - value);
        value += white * (pale - value);
        value += yellow * (warm - value);
        return value;
      };
      red[i] *= albedo(0.33f, 0.56f, 0.41f, 0.66f, 0.85f, 0.8f);
      green[i] *= albedo(0.33f, 0.54f, 0.42f, 0.66f, 0.85f, 0.65f);
      blue[i] *= albedo(0.34f, 0.51f, 0.33f, 0.64f, 0.85f, 0.2f);
    }
  }

  void round(int32_t begin, int32_t end, const Paint& paint, const Cone& cone) {
    const Light& light = finish_.light;
    const float x = static_cast<float>(cone.x), y = static_cast<float>(cone.y);
    const float sun_x = static_cast<float>(light.sun_x), sun_y = static_cast<float>(light.sun_y);
    const float sun = static_cast<float>(light.sun), ambient = static_cast<float>(light.ambient);
    for (int32_t i = begin; i < end; ++i) {
      const float u = static_cast<float>(i) + 0.5f, depth = depth_[i];
      float nx = depth * (direction_[0] + step_[0] * u) - x;
      float ny = depth * (direction_[1] + step_[1] * u) - y;
      const float z = depth * (direction_[2] + step_[2] * u);
      const float inverse = 1.0f / std::max(std::sqrt(nx * nx + ny * ny), 1e-6f);
      nx *= inverse;
      ny *= inverse;
      along_[i] = std::sqrt(ambient + sun * std::max(nx * sun_x + ny * sun_y, 0.0f));
      rough_[i] =
          texture_at((nx + 2.0f * ny) * 12.0f * paint.frequency, z * 12.0f * paint.frequency);
    }
    paint_over(begin, end, paint);
    for (int k = 0; k < 3; ++k) {
      for (int32_t i = begin; i < end; ++i) color_[k][i] *= along_[i];
    }
  }

  // Air, the sensor's noise, bytes.
  void finish(const int32_t* noise_at, uint8_t* image) {
    const float strength = static_cast<float>(finish_.light.noise);
    for (int k = 0; k < 3; ++k) {
      const float* __restrict color = color_[k];
      const float* __restrict fog = fog_;
      const float* __restrict grain = finish_.noise + noise_at[k];
      uint8_t* __restrict bytes = bytes_.data() + k * view_.width;
      const float horizon = horizon_[k];
      for (int64_t i = 0; i < view_.width; ++i) {
        const float value = color[i] + fog[i] * (horizon - color[i]) + strength * grain[i] + 0.5f;
        bytes[i] =
            static_cast<uint8_t>(static_cast<int32_t>(std::min(std::max(value, 0.0f), 255.0f)));
      }
    }
    const uint8_t *red = bytes_.data(), *green = red + view_.width, *blue = green + view_.width;
    for (int64_t i = 0; i < view_.width; ++i) {
      image[3 * i] = red[i];
      image[3 * i + 1] = green[i];
      image[3 * i + 2] = blue[i];
    }
  }

  const View& view_;
  const Finish& finish_;
  std::vector<float> scratch_;
  std::vector<uint8_t> bytes_;
  float *color_[3], *depth_, *fog_, *along_, *across_, *rough_, *lane_;
  float horizon_[3], climb_[3], direction_[3], step_[3];
  float v_ = 0.0f;
};

}  // namespace

void shade(const View& view, const Finish& finish, uint8_t* image) {
  Shader shader(view, finish);
  for (int64_t row = 0; row < view.height; ++row) shader.row(row, image);
}

}  // namespace anybev::render

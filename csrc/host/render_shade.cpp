// Colours the pixels of a drawn picture, one run of equal surfaces after the other.

#include <algorithm>
#include <cmath>

#include "host/render.h"

namespace anybev::render {
namespace {

struct Color {
  float red, green, blue;
};

inline float clamp01(float x) { return std::min(std::max(x, 0.0f), 1.0f); }

// Two octaves of the noise picture, -1..1; 65536 keeps the truncated index positive.
inline float texture_at(const uint8_t* texture, float along, float across) {
  const auto texel = [&](float a, float b) {
    const int32_t row = static_cast<int32_t>(a + 65536.0f) & 255;
    const int32_t column = static_cast<int32_t>(b + 65536.0f) & 255;
    return static_cast<float>(texture[row * 256 + column]) - 128.0f;
  };
  const float sum = texel(along, across) + texel(along * 0.13f, across * 0.13f);
  return sum * (1.0f / 256.0f);
}

// Share of a line of the given half-width in a pixel of size `blur`, all in metres.
inline float line(float distance, float half_width, float blur) {
  return clamp01((half_width - std::abs(distance)) / blur + 0.5f);
}

// Road, markings, pavement, yard; positions are in the road's frame at its start.
inline Color ground(float x, float y, float depth, float curvature, float focal_px) {
  float travelled = x, aside = y;
  if (curvature != 0.0f) {
    const float radius = 1.0f / curvature;
    const float sign = curvature > 0.0f ? 1.0f : -1.0f;
    aside = radius - sign * std::sqrt(x * x + (radius - y) * (radius - y));
    if (std::abs(std::abs(aside) - 3.5f) < 0.3f) {
      travelled = radius * std::atan2(sign * x, sign * (radius - y));
    }
  }
  const float from_middle = std::abs(aside);
  const float blur = 0.02f + 1.5f * depth / focal_px;
  const float paved = clamp01((from_middle - 8.4f) / blur + 0.5f);
  const float yard = clamp01((from_middle - 13.6f) / blur + 0.5f);
  const float kerb = line(from_middle - 8.45f, 0.1f, blur);
  const float cycle = travelled * (1.0f / 9.0f);
  const float phase = cycle - static_cast<float>(static_cast<int32_t>(cycle + 4096.0f) - 4096);
  const float dash = phase < 0.4f ? 1.0f : 0.0f;
  const float white =
      line(from_middle - 3.5f, 0.08f, blur) * dash + line(from_middle - 7.0f, 0.08f, blur);
  const float yellow = line(from_middle - 0.15f, 0.06f, blur);
  Color color{0.33f, 0.33f, 0.34f};
  const auto mix = [&color](float share, float red, float green, float blue) {
    color.red += share * (red - color.red);
    color.green += share * (green - color.green);
    color.blue += share * (blue - color.blue);
  };
  mix(paved, 0.56f, 0.54f, 0.51f);
  mix(yard, 0.41f, 0.42f, 0.33f);
  mix(kerb, 0.66f, 0.66f, 0.64f);
  mix(white, 0.85f, 0.85f, 0.85f);
  mix(yellow, 0.8f, 0.65f, 0.2f);
  return color;
}

class Shader {
 public:
  Shader(const View& view, const Finish& finish) : view_(view), finish_(finish) {
    const Light& light = finish.light;
    for (int k = 0; k < 3; ++k) {
      tint_[k] = static_cast<float>(light.tint[k]);
      horizon_[k] = static_cast<float>(light.horizon[k]);
      climb_[k] = static_cast<float>(light.zenith[k] - light.horizon[k]);
    }
    fog_m_ = static_cast<float>(light.fog_m);
    noise_ = static_cast<float>(light.noise);
    curvature_ = static_cast<float>(light.curvature);
    focal_px_ = static_cast<float>(light.focal_px);
  }

  void row(int64_t row, uint8_t* image) {
    v_ = static_cast<float>(row) + 0.5f;
    for (int k = 0; k < 3; ++k) {
      direction_[k] = static_cast<float>(view_.rays.origin[k] + view_.rays.v[k] * v_);
      step_[k] = static_cast<float>(view_.rays.u[k]);
      grain_[k] = finish_.noise + finish_.noise_at[row * 3 + k];
    }
    depth_ = view_.inverse_depth + row * view_.width;
    image_ = image + row * view_.width * 3;
    const int32_t* surface = view_.surface + row * view_.width;
    for (int64_t begin = 0; begin < view_.width;) {
      int64_t end = begin + 1;
      while (end < view_.width && surface[end] == surface[begin]) ++end;
      run(begin, end, surface[begin]);
      begin = end;
    }
  }

 private:
  void run(int64_t begin, int64_t end, int32_t surface) {
    if (surface < 0) return sky(begin, end);
    const Paint& paint = finish_.paints[surface];
    if (surface >= finish_.polygons) {
      return round(begin, end, paint, finish_.cones[surface - finish_.polygons]);
    }
    if (paint.kind == static_cast<float>(kGround)) return flat<kGround>(begin, end, paint);
    if (paint.kind == static_cast<float>(kFacade)) return flat<kFacade>(begin, end, paint);
    flat<kPlain>(begin, end, paint);
  }

  void sky(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float rise = clamp01(1.6f * (direction_[2] + step_[2] * column(i)));
      put(i, horizon_[0] + climb_[0] * rise, horizon_[1] + climb_[1] * rise,
          horizon_[2] + climb_[2] * rise);
    }
  }

  template <Kind kind>
  void flat(int64_t begin, int64_t end, const Paint& paint) {
    const float along_base = paint.along[0] + paint.along[2] * v_;
    const float across_base = paint.across[0] + paint.across[2] * v_;
    for (int64_t i = begin; i < end; ++i) {
      const float u = column(i), depth = 1.0f / depth_[i];
      const float along = depth * (along_base + paint.along[1] * u) + paint.along_offset;
      const float across = depth * (across_base + paint.across[1] * u) + paint.across_offset;
      const float rough =
          texture_at(finish_.texture, along * paint.frequency, across * paint.frequency);
      float gain = 1.0f + paint.amplitude / (1.0f + 0.04f * depth) * rough;
      Color color{paint.red, paint.green, paint.blue};
      if constexpr (kind == kGround) {
        const Color albedo = ground(along, across, depth, curvature_, focal_px_);
        color = {color.red * albedo.red, color.green * albedo.green, color.blue * albedo.blue};
      }
      if constexpr (kind == kFacade) {
        const float a = along * (1.0f / 2.8f), b = across * (1.0f / 3.0f);
        const float in_a = a - static_cast<float>(static_cast<int32_t>(a + 4096.0f) - 4096);
        const float in_b = b - static_cast<float>(static_cast<int32_t>(b + 4096.0f) - 4096);
        const bool window = in_a > 0.3f && in_a < 0.75f && in_b > 0.35f && in_b < 0.8f;
        gain *= window ? 0.62f : 1.0f;
      }
      fogged(i, depth, gain, color);
    }
  }

  void round(int64_t begin, int64_t end, const Paint& paint, const Cone& cone) {
    const Light& light = finish_.light;
    const float x = static_cast<float>(cone.x), y = static_cast<float>(cone.y);
    const float sun_x = static_cast<float>(light.sun_x), sun_y = static_cast<float>(light.sun_y);
    const float sun = static_cast<float>(light.sun), ambient = static_cast<float>(light.ambient);
    for (int64_t i = begin; i < end; ++i) {
      const float u = column(i), depth = 1.0f / depth_[i];
      float nx = depth * (direction_[0] + step_[0] * u) - x;
      float ny = depth * (direction_[1] + step_[1] * u) - y;
      const float z = depth * (direction_[2] + step_[2] * u);
      const float inverse = 1.0f / std::max(std::sqrt(nx * nx + ny * ny), 1e-6f);
      nx *= inverse;
      ny *= inverse;
      const float lit = std::sqrt(ambient + sun * std::max(nx * sun_x + ny * sun_y, 0.0f));
      const float rough = texture_at(finish_.texture, (nx + 2.0f * ny) * 12.0f * paint.frequency,
                                     z * 12.0f * paint.frequency);
      const float gain = lit * (1.0f + paint.amplitude / (1.0f + 0.04f * depth) * rough);
      fogged(i, depth, gain, {paint.red, paint.green, paint.blue});
    }
  }

  float column(int64_t i) const { return static_cast<float>(static_cast<int32_t>(i)) + 0.5f; }

  void fogged(int64_t i, float depth, float gain, const Color& color) {
    const float share = depth / (depth + fog_m_);
    const float red = color.red * gain, green = color.green * gain, blue = color.blue * gain;
    put(i, red + share * (horizon_[0] - red), green + share * (horizon_[1] - green),
        blue + share * (horizon_[2] - blue));
  }

  void put(int64_t i, float red, float green, float blue) {
    const float values[3] = {red, green, blue};
    for (int k = 0; k < 3; ++k) {
      const float value = values[k] + noise_ * grain_[k][i] + 0.5f;
      image_[3 * i + k] =
          static_cast<uint8_t>(static_cast<int32_t>(std::min(std::max(value, 0.0f), 255.0f)));
    }
  }

  const View& view_;
  const Finish& finish_;
  float tint_[3], horizon_[3], climb_[3];
  float fog_m_, noise_, curvature_, focal_px_;
  float v_ = 0.0f;
  float direction_[3], step_[3];
  const float* grain_[3];
  const float* depth_ = nullptr;
  uint8_t* image_ = nullptr;
};

}  // namespace

void shade(const View& view, const Finish& finish, uint8_t* image) {
  Shader shader(view, finish);
  for (int64_t row = 0; row < view.height; ++row) shader.row(row, image);
}

}  // namespace anybev::render

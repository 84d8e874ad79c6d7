// What the two passes of the renderer share: the columns of the draw list, which
// datasets/synthetic/render.py describes.
#pragma once

#include <cstdint>

namespace anybev::render {

// Columns of a bound: +1 (lower) or -1 (upper), then the column u = offset + slope * v.
constexpr int64_t kBounds = 8;
struct Bound {
  double side, offset, slope;
};

// An upright frustum in world axes about the camera.
struct Cone {
  double x, y, z0, z1, base, slope;
};

enum Kind { kPlain = 0, kFacade = 1, kGround = 2, kRound = 3 };

struct Paint {
  float kind, red, green, blue, amplitude, frequency, along_offset, across_offset;
  float along[3], across[3];  // numerators of the surface coordinates: 1, u, v
};

struct Light {
  double ambient, sun, sun_x, sun_y, sun_z;
  double horizon[3], zenith[3];
  double fog_m, noise, curvature, focal_px;
};

struct Rays {
  double origin[3], u[3], v[3];  // direction = origin + column * u + row * v
};

struct View {
  int64_t height, width;
  Rays rays;
  float* inverse_depth;
  int32_t* surface;
};

void draw_polygon(const View& view, const double* plane, const Bound* bounds, const int32_t* rows,
                  int32_t surface);
void draw_cone(const View& view, const Cone& cone, const int32_t* window, int32_t surface);

struct Finish {
  const Paint* paints;
  const Cone* cones;
  int64_t polygons;  // surfaces from here on are cones
  Light light;
  const uint8_t* texture;   // 256 x 256
  const float* noise;       // 65536 + width samples
  const int32_t* noise_at;  // height x 3
};

void shade(const View& view, const Finish& finish, uint8_t* image);

}  // namespace anybev::render

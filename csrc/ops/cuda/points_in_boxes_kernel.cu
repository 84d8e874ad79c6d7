// Points against boxes: a block holds chunks of the boxes in shared memory, one after the other,
// each of its threads walks points against them.
#include "common/cuda/device.h"
#include "ops/cuda/points_in_boxes_kernel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 256, kBoxes = 64;
// Of a grid's second axis; few when emulated, so that a small test needs more.
#ifdef ANYBEV_EMULATION
constexpr int64_t kMostChunks = 2;
#else
constexpr int64_t kMostChunks = 65535;
#endif

template <class T>
struct Cuboid {
  T x, y, bottom, half_dx, half_dy, height, cos, sin;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    test_points(const T* point, int64_t points, int64_t point_columns, const T* box, int64_t boxes,
                int64_t box_columns, bool* inside) {
  ANYBEV_SHARED(Cuboid<T>, cuboids, kBoxes);
  for (int64_t first = int64_t{blockIdx.y} * kBoxes; first < boxes;
       first += int64_t{gridDim.y} * kBoxes) {
    const int count = static_cast<int>(min(boxes - first, int64_t{kBoxes}));
    if (static_cast<int>(threadIdx.x) < count) {
      const T* from = box + (first + threadIdx.x) * box_columns;
      // The angle's functions in double, then rounded, as the reference does.
      const double yaw_rad = from[6];
      cuboids[threadIdx.x] = {from[0],
                              from[1],
                              from[2],
                              from[3] / 2,
                              from[4] / 2,
                              from[5],
                              static_cast<T>(cos(yaw_rad)),
                              static_cast<T>(sin(yaw_rad))};
    }
    __syncthreads();
    for (int64_t i = first_item(); i < points; i += item_stride()) {
      const T* from = point + i * point_columns;
      const T px = from[0], py = from[1], pz = from[2];
      bool* row = inside + i * boxes + first;
      for (int j = 0; j < count; ++j) {
        const Cuboid<T>& c = cuboids[j];
        const T dx = px - c.x, dy = py - c.y, up = pz - c.bottom;
        const T along = dx * c.cos + dy * c.sin, across = dy * c.cos - dx * c.sin;
        row[j] = fabs(along) <= c.half_dx && fabs(across) <= c.half_dy && up >= 0 && up <= c.height;
      }
    }
    __syncthreads();  // the chunk is free again
  }
}

}  // namespace

template <class T>
void points_in_boxes(Context& context, const T* point, int64_t points, int64_t point_columns,
                     const T* box, int64_t boxes, int64_t box_columns, bool* inside) {
  const dim3 grid(blocks_for(points, kThreads), blocks_for(boxes, kBoxes, kMostChunks));
  launch(context, test_points<T>, grid, kThreads, 0, point, points, point_columns, box, boxes,
         box_columns, inside);
}

template void points_in_boxes(Context&, const float*, int64_t, int64_t, const float*, int64_t,
                              int64_t, bool*);
template void points_in_boxes(Context&, const double*, int64_t, int64_t, const double*, int64_t,
                              int64_t, bool*);

}  // namespace anybev::cuda

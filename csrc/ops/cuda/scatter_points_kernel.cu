// Scatter of points: a thread owns a channel of a voxel and takes its points in order, so that sums
// have the CPU kernel's bits. Gradients are gathered.
#include "common/cuda/device.h"
#include "ops/cuda/scatter_points_kernel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 256;

template <class In, class Sum>
__global__ void __launch_bounds__(kThreads)
    reduce_points(const int32_t* point, const int32_t* start, int64_t voxels, const In* features,
                  int64_t channels, Reduce reduce, Sum* reduced) {
  for (int64_t e = first_item(); e < voxels * channels; e += item_stride()) {
    const int64_t voxel = e / channels, channel = e - voxel * channels;
    const int64_t first = start[voxel], last = start[voxel + 1];
    Sum result = static_cast<Sum>(features[point[first] * channels + channel]);
    for (int64_t i = first + 1; i < last; ++i) {
      const Sum value = static_cast<Sum>(features[point[i] * channels + channel]);
      if (reduce == Reduce::kMax) {
        // NaN wins over every number, the first of equal numbers stays.
        result = value > result || value != value ? value : result;
      } else {
        result += value;
      }
    }
    if (reduce == Reduce::kMean) result /= static_cast<Sum>(last - first);
    reduced[e] = result;
  }
}

// No voxel of a point is outside [0, voxels) but by a mistake of the caller's, which NaN shows
// without anybody waiting for the device.
template <class Sum>
__device__ Sum without_voxel(int32_t voxel) {
  return voxel < 0 ? Sum(0) : static_cast<Sum>(nanf(""));
}

__device__ bool is_known(int32_t voxel, int64_t voxels) { return voxel >= 0 && voxel < voxels; }

template <class Sum>
__global__ void __launch_bounds__(kThreads)
    gather(const Sum* grad, const int32_t* point2voxel, const int32_t* counts, int64_t points,
           int64_t voxels, int64_t channels, bool mean, Sum* out) {
  for (int64_t e = first_item(); e < points * channels; e += item_stride()) {
    const int64_t i = e / channels, channel = e - i * channels;
    const int32_t voxel = point2voxel[i];
    if (!is_known(voxel, voxels)) {
      out[e] = without_voxel<Sum>(voxel);
      continue;
    }
    const Sum value = grad[voxel * channels + channel];
    out[e] = mean ? value / static_cast<Sum>(counts[voxel]) : value;
  }
}

// first[v * channels + c]: lowest row among the points that hold maximum c of voxel v.
template <class In, class Sum>
__global__ void __launch_bounds__(kThreads)
    find_first(const int32_t* point2voxel, const In* features, const Sum* reduced, int64_t points,
               int64_t voxels, int64_t channels, uint32_t* first) {
  for (int64_t e = first_item(); e < points * channels; e += item_stride()) {
    const int64_t i = e / channels, channel = e - i * channels;
    const int32_t voxel = point2voxel[i];
    if (!is_known(voxel, voxels)) continue;
    const Sum value = static_cast<Sum>(features[e]), most = reduced[voxel * channels + channel];
    if (value == most || (value != value && most != most)) {
      atomicMin(first + voxel * channels + channel, static_cast<uint32_t>(i));
    }
  }
}

template <class Sum>
__global__ void __launch_bounds__(kThreads)
    hand_out(const Sum* grad, const int32_t* point2voxel, const uint32_t* first, int64_t points,
             int64_t voxels, int64_t channels, Sum* out) {
  for (int64_t e = first_item(); e < points * channels; e += item_stride()) {
    const int64_t i = e / channels, channel = e - i * channels;
    const int32_t voxel = point2voxel[i];
    if (!is_known(voxel, voxels)) {
      out[e] = without_voxel<Sum>(voxel);
      continue;
    }
    const int64_t from = voxel * channels + channel;
    out[e] = first[from] == i ? grad[from] : Sum(0);
  }
}

}  // namespace

template <class In, class Sum>
void reduce_voxels(Context& context, const GroupedPoints& grouped, const In* features,
                   int64_t channels, Reduce reduce, Sum* reduced) {
  launch(context, reduce_points<In, Sum>, blocks_for(grouped.voxels * channels, kThreads), kThreads,
         0, grouped.point, grouped.start, grouped.voxels, features, channels, reduce, reduced);
}

template <class In, class Sum>
void scatter_gradient(Context& context, const Sum* grad, const int32_t* point2voxel,
                      const int32_t* counts, const In* features, const Sum* reduced, int64_t points,
                      int64_t voxels, int64_t channels, Reduce reduce, Sum* out) {
  const unsigned blocks = blocks_for(points * channels, kThreads);
  if (reduce != Reduce::kMax) {
    launch(context, gather<Sum>, blocks, kThreads, 0, grad, point2voxel, counts, points, voxels,
           channels, reduce == Reduce::kMean, out);
    return;
  }
  uint32_t* const first = context.buffer<uint32_t>(voxels * channels);
  fill_bytes(context, first, 0xff, voxels * channels * sizeof(uint32_t));  // above every row
  launch(context, find_first<In, Sum>, blocks, kThreads, 0, point2voxel, features, reduced, points,
         voxels, channels, first);
  launch(context, hand_out<Sum>, blocks, kThreads, 0, grad, point2voxel, first, points, voxels,
         channels, out);
}

#define INSTANTIATE(In, Sum)                                                                      \
  template void reduce_voxels(Context&, const GroupedPoints&, const In*, int64_t, Reduce, Sum*);  \
  template void scatter_gradient(Context&, const Sum*, const int32_t*, const int32_t*, const In*, \
                                 const Sum*, int64_t, int64_t, int64_t, Reduce, Sum*)
INSTANTIATE(float, float);
INSTANTIATE(double, double);
INSTANTIATE(__half, float);
INSTANTIATE(__nv_bfloat16, float);
#undef INSTANTIATE

}  // namespace anybev::cuda

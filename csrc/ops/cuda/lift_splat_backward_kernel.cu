// Lift and splat, backward: a warp owns a pixel and takes back, depth by depth, the row of the cell
// that its point fell into. Lanes are channels. The pixels of a block lie one under the other, so
// they mostly read the same rows.
#include <algorithm>
#include <array>

#include "ops/cuda/lift_splat_pixel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kTogether = 8;
constexpr int64_t kSharedBytes = 96 * 1024, kMostBlocks = 1024;

// Adds up eight numbers over the lanes with nine exchanges; lane i is given the sum of number i
// / 4.
template <class N>
__device__ N sum_eight(N (&value)[kTogether]) {
  const unsigned lane = threadIdx.x % kWarp;
#pragma unroll
  for (int count = kTogether / 2, lanes = kWarp / 2; count > 0; count /= 2, lanes /= 2) {
    const bool upper = lane & lanes;
#pragma unroll
    for (int i = 0; i < kTogether / 2; ++i) {
      if (i >= count) break;
      const N given = upper ? value[i] : value[i + count];
      const N kept = upper ? value[i + count] : value[i];
      value[i] = kept + __shfl_xor_sync(kFullWarp, given, lanes);
    }
  }
  value[0] += __shfl_xor_sync(kFullWarp, value[0], 2);
  return value[0] + __shfl_xor_sync(kFullWarp, value[0], 1);
}

// What the points of eight depths take back into kVectors channels a lane. cell and weight: of the
// lane's depth, of which those from `first` on are taken; -1 and 0 for a dropped point.
template <class N, int kVectors>
__device__ N take_eight(const LiftGeometry& g, const N* grad_rows, int channels, int32_t cell,
                        N weight, int first, const N (&context)[kVectors],
                        N (&grad_context)[kVectors]) {
  const int lane = threadIdx.x % kWarp;
  N dot[kTogether];
#pragma unroll
  for (int j = 0; j < kTogether; ++j) {
    const int32_t at = __shfl_sync(kFullWarp, cell, first + j);
    const N w = __shfl_sync(kFullWarp, weight, first + j);
    const N* row = grad_rows + at * g.channels;
    dot[j] = 0;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const N grad = at >= 0 && k * kWarp + lane < channels ? row[k * kWarp + lane] : N{0};
      dot[j] = multiply_add(grad, context[k], dot[j]);
      grad_context[k] = multiply_add(w, grad, grad_context[k]);
    }
  }
  return sum_eight(dot);
}

// Gradient of a block of channels of one pixel; what they add to the weights' gradient.
template <class T, int kVectors>
__device__ void take_channels(const LiftGeometry& g, const LiftRay& ray, const T* pixel,
                              const Sum<T>* grad_rows, int64_t first_channel, const Sum<T>* weights,
                              Sum<T>* grad_weights, T* grad_pixel) {
  using N = Sum<T>;
  const int lane = threadIdx.x % kWarp;
  const int channels = static_cast<int>(min(g.channels - first_channel, int64_t{kVectors} * kWarp));
  const int64_t first = g.depths + first_channel + lane;
  N context[kVectors], grad_context[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    context[k] = k * kWarp + lane < channels ? to_sum(pixel[first + k * kWarp]) : N{0};
    grad_context[k] = 0;
  }
  for (int64_t depth = 0; depth < g.depths; depth += kWarp) {
    const bool there = depth + lane < g.depths;
    const int32_t cell = there ? find_cell(g, ray, g.depths_m[depth + lane]) : -1;
    const N weight = cell >= 0 ? weights[depth + lane] : N{0};
    const unsigned kept = __ballot_sync(kFullWarp, cell >= 0);
    for (int j = 0; j < kWarp; j += kTogether) {
      if (!(kept >> j & ((1u << kTogether) - 1))) continue;
      const N dot = take_eight(g, grad_rows + first_channel, channels, cell, weight, j, context,
                               grad_context);
      const int own = j + lane / 4;
      if (lane % 4 == 0 && kept >> own & 1) grad_weights[depth + own] += dot;
    }
  }
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    if (k * kWarp + lane < channels) grad_pixel[first + k * kWarp] = from_sum<T>(grad_context[k]);
  }
}

// Two rows of D numbers a warp, weights and their gradient: in shared memory or, for very many
// depths, in `memory`.
template <class T, int kVectors>
__global__ void __launch_bounds__(kThreads, 2)
    take_back(LiftGeometry g, Pictures<const T> logits, const Sum<T>* grad_bev, Pictures<T> grad,
              Sum<T>* memory) {
  ANYBEV_DYNAMIC_SHARED(Sum<T>, shared);
  const int64_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  Sum<T>* weights = memory ? memory + (int64_t{blockIdx.x} * kWarps + warp) * 2 * g.depths
                           : shared + warp * 2 * g.depths;
  Sum<T>* grad_weights = weights + g.depths;
  const int64_t pixels = g.columns() * g.height, warps = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + warp; i < pixels; i += warps) {
    const int64_t column = i / g.height, row = i % g.height;
    const T* pixel = pixel_of(g, logits, column, row);
    T* grad_pixel = pixel_of(g, grad, column, row);
    const LiftRay ray = load_ray(g, column, row);
    const int64_t sample = column / (g.cameras * g.width);
    const Sum<T>* rows = grad_bev + sample * g.cells() * g.channels;
    softmax(pixel, g.depths, weights);
    for (int64_t d = lane; d < g.depths; d += kWarp) grad_weights[d] = 0;
    __syncwarp();
    for (int64_t c = 0; c < g.channels; c += kVectors * kWarp) {
      take_channels<T, kVectors>(g, ray, pixel, rows, c, weights, grad_weights, grad_pixel);
      __syncwarp();
    }
    // Through the softmax: w (g - <w, g>).
    Sum<T> total = 0;
    for (int64_t d = lane; d < g.depths; d += kWarp) {
      total = multiply_add(weights[d], grad_weights[d], total);
    }
    total = sum_lanes(total);
    for (int64_t d = lane; d < g.depths; d += kWarp) {
      grad_pixel[d] = from_sum<T>(weights[d] * (grad_weights[d] - total));
    }
    __syncwarp();
  }
}

}  // namespace

template <class T>
void lift_splat_backward(Context& context, const LiftGeometry& g, const Pictures<const T>& logits,
                         const Sum<T>* grad_bev, const Pictures<T>& grad_logits) {
  const int64_t bytes = kWarps * 2 * g.depths * static_cast<int64_t>(sizeof(Sum<T>));
  const bool fits = bytes <= kSharedBytes;
  const int64_t most = fits ? int64_t{1} << 31 : kMostBlocks;
  const unsigned blocks = blocks_for(g.columns() * g.height, kWarps, most - 1);
  Sum<T>* memory = fits ? nullptr : static_cast<Sum<T>*>(context.allocate(blocks * bytes));
  constexpr int kMost = sizeof(Sum<T>) == 8 ? 3 : 4;  // what fits registers
  const auto vectors = std::min<int64_t>((g.channels + kWarp - 1) / kWarp, kMost);
  const std::array kernels = {take_back<T, 1>, take_back<T, 2>, take_back<T, 3>,
                              take_back<T, kMost>};
  launch(context, kernels[vectors - 1], blocks, kThreads, fits ? bytes : 0, g, logits, grad_bev,
         grad_logits, memory);
}

#define ANYBEV_LIFT_BACKWARD(T)                                                              \
  template void lift_splat_backward(Context&, const LiftGeometry&, const Pictures<const T>&, \
                                    const Sum<T>*, const Pictures<T>&);
ANYBEV_LIFT_BACKWARD(float)
ANYBEV_LIFT_BACKWARD(double)
ANYBEV_LIFT_BACKWARD(__half)
ANYBEV_LIFT_BACKWARD(__nv_bfloat16)

}  // namespace anybev::cuda

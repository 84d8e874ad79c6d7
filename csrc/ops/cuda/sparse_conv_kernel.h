// Sparse convolution and the gradient of its weight on CUDA, for the bindings.
#pragma once

#include "common/cuda/context.h"
#include "common/cuda/numbers.h"

namespace anybev::cuda {

// Pair lists of a plan, on the device: pairs of (tile, offset) are [start[t * offsets + k], start[
// ... + 1]). Kernels check them: what names a feature or a row that does not exist is not read, and
// makes the sums that it belongs to NaN.
struct SparsePairs {
  static constexpr int kTileRows = 128;

  constexpr int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }

  const int32_t* source;
  const int16_t* row;
  const int32_t* start;
  int64_t count, sources, rows;
  int offsets;
};

// How two numbers are multiplied on a device that can do it more than one way.
enum class Product { exact, tf32 };

// Rows of features and gradients start at multiples of 16 bytes: `channels` is a multiple of this.
template <class T>
constexpr int64_t kChannelStep = 16 / sizeof(T);

// (outputs, offsets, inputs) with any strides.
template <class T>
struct ConvWeight {
  const T* data;
  int64_t step_output, step_offset, step_input;
  int64_t outputs, inputs;
};

// out[m, :] = bias + sum over k of weight[:, k, :] @ features[n]; bias may be null.
// features: (sources, channels), channels >= weight.inputs; what is in the rest does not matter as
// long as it is finite.
template <class T>
void sparse_conv(Context& context, const T* features, int64_t channels, const ConvWeight<T>& weight,
                 const Sum<T>* bias, const SparsePairs& pairs, Product product, T* out);

// out (outputs, offsets, inputs) = for each offset, sum over its pairs of grad row x feature row.
// features: (sources, channels >= inputs), grad: (rows, grad_channels >= outputs).
template <class T>
void sparse_conv_grad_weight(Context& context, const T* features, int64_t channels, int64_t inputs,
                             const T* grad, int64_t grad_channels, int64_t outputs,
                             const SparsePairs& pairs, Product product, Sum<T>* out);

}  // namespace anybev::cuda

// Sparse convolution on CPU: tiles of 128 destination rows, each summed by one thread in the order
// of the kernel offsets, so that the number of threads cannot change a bit.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <atomic>

#include "common/isa.h"
#include "common/tasks.h"
#include "ops/cpu/sparse_conv_kernel_pairs.h"

namespace anybev::sparse_conv {
namespace {

using at::Tensor;
using at::TensorList;

constexpr int64_t kTilesPerClaim = 4;
constexpr int64_t kNumbersPerTask = 65536;

// One offset of the weight -> [column block][Cin / kGroup][width][kGroup], zeros where `to` is
// wider. Sixteen inputs at a time: whichever of the two is contiguous, their cache lines stay at
// hand.
template <class Number, int64_t kGroup>
void pack_offset(const Number* from, int64_t step_o, int64_t step_i, int64_t outputs,
                 int64_t inputs, int64_t block, int64_t width, int64_t depth, Number* to) {
  constexpr int64_t kInputs = 16;
  if (width != outputs || depth != inputs) std::fill_n(to, width * depth, Number(0));
  for (int64_t first = 0; first < outputs; first += block) {
    const int64_t wide = std::min(width - first, block), real = std::min(outputs - first, block);
    for (int64_t d = 0; d < inputs; d += kInputs) {
      const int64_t last = std::min(d + kInputs, inputs);
      for (int64_t o = 0; o < real; ++o) {
        const Number* w = from + (first + o) * step_o;
        for (int64_t i = d; i < last; ++i) {
          to[(i / kGroup * wide + o) * kGroup + i % kGroup] = w[i * step_i];
        }
      }
    }
    to += wide * depth;
  }
}

// weight (Cout, K, Cin), any strides -> [K][...], the order in which `multiply` reads it. Packed on
// every call: a few hundredths of the convolution at most, and no stale copy to guard against.
template <class Number, int64_t kGroup>
Tensor pack_weight(const Tensor& weight, int64_t lanes, int64_t block) {
  const int64_t outputs = weight.size(0), offsets = weight.size(1), inputs = weight.size(2);
  const int64_t width = round_up(outputs, lanes), depth = round_up(inputs, kGroup);
  Tensor packed = at::empty({offsets, width * depth}, weight.options());
  const auto* from = static_cast<const Number*>(weight.const_data_ptr());
  auto* to = static_cast<Number*>(packed.mutable_data_ptr());
  const int64_t grain = kNumbersPerTask / std::max<int64_t>(1, width * depth) + 1;
  at::parallel_for(0, offsets, grain, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      pack_offset<Number, kGroup>(from + k * weight.stride(1), weight.stride(0), weight.stride(2),
                                  outputs, inputs, block, width, depth, to + k * width * depth);
    }
  });
  return packed;
}

// One convolution with the kernels of one instruction set. Number is the tensors' element, of which
// an Input holds kGroup.
template <class Number, class Input, class Sum, class Output>
Tensor convolve(const ConvKernels<Input, Sum, Output>& kernels, const Tensor& features,
                const Tensor& weight, const std::optional<Tensor>& bias, const PairLists& pairs) {
  constexpr int64_t kGroup = sizeof(Input) / sizeof(Number);
  const int64_t outputs = weight.size(0);
  const int64_t channels = round_up(outputs, kernels.lanes);
  const int64_t depth = (weight.size(2) + kGroup - 1) / kGroup;
  const Tensor packed = pack_weight<Number, kGroup>(weight, kernels.lanes, kernels.block);
  const auto sum_type = c10::CppTypeToScalarType<Sum>::value;
  Tensor start = at::zeros({channels}, features.options().dtype(sum_type));
  if (bias) start.narrow(0, 0, outputs).copy_(*bias);
  Tensor output = at::empty({pairs.rows, outputs}, features.options());
  Tensor scratch =
      at::empty({worker_count(pairs.tiles, kTilesPerClaim), kTileRows * channels}, start.options());

  const auto* x = static_cast<const Input*>(features.const_data_ptr());
  const auto* w = static_cast<const Input*>(packed.const_data_ptr());
  const auto* initial = start.const_data_ptr<Sum>();
  auto* y = static_cast<Output*>(output.mutable_data_ptr());
  auto* buffers = scratch.mutable_data_ptr<Sum>();
  std::atomic<bool> outside{false};
  for_each_task(pairs.tiles, kTilesPerClaim, [&](int64_t tile, int64_t worker) {
    if (!pairs.in_range(tile)) {
      outside = true;
      return;
    }
    Sum* sums = buffers + worker * kTileRows * channels;
    const int64_t height = pairs.rows_of(tile);
    for (int64_t r = 0; r < height; ++r) std::copy_n(initial, channels, sums + r * channels);
    for (int64_t k = 0; k < pairs.offsets; ++k) {
      const PairRun run = pairs.run(tile, k);
      if (run.count) kernels.multiply(x, depth, run, w + k * channels * depth, channels, sums);
    }
    Output* rows = y + tile * kTileRows * outputs;
    if (channels == outputs) {
      kernels.store(sums, height * outputs, rows);
    } else {
      for (int64_t r = 0; r < height; ++r) {
        kernels.store(sums + r * channels, outputs, rows + r * outputs);
      }
    }
  });
  pairs.fail_if(outside);
  return output;
}

const FloatConv& float_conv() {
#if defined(__x86_64__)
  if (best_isa() == Isa::kAvx512) return kFloatConvAvx512;
  if (best_isa() == Isa::kAvx2) return kFloatConvAvx2;
#endif
  return kFloatConvPortable;
}

Tensor sparse_conv(const Tensor& features, const Tensor& weight, const std::optional<Tensor>& bias,
                   TensorList gather, TensorList scatter, int64_t rows) {
  TORCH_CHECK_VALUE(
      features.dim() == 2 && weight.dim() == 5 && weight.size(4) == features.size(1),
      "sparse_conv: features must be (N, Cin) and weight (Cout, kx, ky, kz, Cin), got ",
      features.sizes(), " and ", weight.sizes());
  Tensor w = weight.flatten(1, 3).to(features.scalar_type());
  const PairLists pairs(gather, features.size(0), rows, w.size(1));
  Tensor x = features.contiguous();
  if (x.scalar_type() == at::kDouble) {
    return convolve<double>(kDoubleConvPortable, x, w, bias, pairs);
  }
  if (x.scalar_type() == at::kFloat) return convolve<float>(float_conv(), x, w, bias, pairs);
#if defined(__x86_64__)
  if (x.scalar_type() == at::kBFloat16 && best_isa() == Isa::kAvx512) {
    if (x.size(1) % 2) x = at::constant_pad_nd(x, {0, 1});
    return convolve<uint16_t>(kBFloat16ConvAvx512, x, w, bias, pairs);
  }
#endif
  return convolve<float>(float_conv(), x.to(at::kFloat), w.to(at::kFloat), bias, pairs)
      .to(x.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("sparse_conv", &sparse_conv); }

}  // namespace anybev::sparse_conv

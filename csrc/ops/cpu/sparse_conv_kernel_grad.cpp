// Gradient of the sparse convolution's weight on CPU: a fixed number of chunks of tiles, each
// summed by one thread into its own copy, then added in order; threads cannot change a bit.
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

// Tiles whose pairs of one offset are summed while the sums stay in registers.
constexpr int64_t kTilesTogether = 4;
// Copies of the gradient: as many as fit here, within bounds that keep many threads busy and the
// final addition cheap. A function of the sizes alone, never of the number of threads.
constexpr int64_t kPartialBytes = int64_t{16} << 20;
constexpr int64_t kMinChunks = 8, kMaxChunks = 64;
constexpr int64_t kNumbersPerTask = 65536;

const GradKernels<float>& float_grad() {
#if defined(__x86_64__)
  if (best_isa() == Isa::kAvx512) return kFloatGradAvx512;
  if (best_isa() == Isa::kAvx2) return kFloatGradAvx2;
#endif
  return kFloatGradPortable;
}

int64_t chunk_count(int64_t groups, int64_t bytes) {
  const int64_t fitting = std::clamp(kPartialBytes / bytes, kMinChunks, kMaxChunks);
  return std::max<int64_t>(1, std::min(groups, fitting));
}

// Adds the pairs of tiles [first, last) to weight [K][Cin][outputs]; false where a pair is outside.
template <class Number>
bool accumulate_tiles(const GradKernels<Number>& kernels, const PairLists& pairs, int64_t first,
                      int64_t last, const Number* features, int64_t inputs, const Number* grad,
                      int64_t outputs, Number* weight) {
  for (int64_t tile = first; tile < last; ++tile) {
    if (!pairs.in_range(tile)) return false;
  }
  for (int64_t k = 0; k < pairs.offsets; ++k) {
    PairRun runs[kTilesTogether];
    const Number* grads[kTilesTogether];
    int64_t count = 0;
    for (int64_t tile = first; tile < last; ++tile) {
      runs[count] = pairs.run(tile, k);
      grads[count] = grad + tile * kTileRows * outputs;
      if (runs[count].count) ++count;
    }
    if (count) {
      kernels.accumulate(features, inputs, runs, grads, count, outputs,
                         weight + k * inputs * outputs);
    }
  }
  return true;
}

// partial (chunks, numbers) -> the sum over chunks, in order.
template <class Number>
void add_chunks(const Number* partial, int64_t chunks, int64_t numbers, Number* total) {
  at::parallel_for(0, numbers, kNumbersPerTask, [&](int64_t begin, int64_t end) {
    std::copy(partial + begin, partial + end, total + begin);
    for (int64_t c = 1; c < chunks; ++c) {
      const Number* more = partial + c * numbers;
      for (int64_t i = begin; i < end; ++i) total[i] += more[i];
    }
  });
}

template <class Number>
Tensor grad_weight(const GradKernels<Number>& kernels, const Tensor& features, const Tensor& grad,
                   const PairLists& pairs) {
  const int64_t inputs = features.size(1), outputs = round_up(grad.size(1), kernels.lanes);
  const Tensor padded =
      outputs == grad.size(1) ? grad : at::constant_pad_nd(grad, {0, outputs - grad.size(1)});
  const int64_t numbers = pairs.offsets * inputs * outputs;
  const int64_t groups = (pairs.tiles + kTilesTogether - 1) / kTilesTogether;
  const int64_t chunks =
      chunk_count(groups, std::max<int64_t>(1, numbers) * static_cast<int64_t>(sizeof(Number)));
  Tensor partial = at::empty({chunks, numbers}, features.options());
  Tensor total = at::empty({pairs.offsets, inputs, outputs}, features.options());

  const auto* x = features.const_data_ptr<Number>();
  const auto* g = padded.const_data_ptr<Number>();
  auto* parts = partial.mutable_data_ptr<Number>();
  std::atomic<bool> outside{false};
  for_each_task(chunks, 1, [&](int64_t chunk, int64_t) {
    Number* weight = parts + chunk * numbers;
    std::fill_n(weight, numbers, Number(0));
    for (int64_t group = groups * chunk / chunks; group < groups * (chunk + 1) / chunks; ++group) {
      const int64_t first = group * kTilesTogether;
      const int64_t last = std::min(first + kTilesTogether, pairs.tiles);
      if (!accumulate_tiles(kernels, pairs, first, last, x, inputs, g, outputs, weight)) {
        outside = true;
      }
    }
  });
  pairs.fail_if(outside);
  add_chunks(parts, chunks, numbers, total.mutable_data_ptr<Number>());
  return total.narrow(2, 0, grad.size(1)).permute({2, 0, 1}).contiguous();
}

Tensor sparse_conv_grad_weight(const Tensor& features, const Tensor& grad, TensorList gather,
                               TensorList scatter, int64_t offsets) {
  TORCH_CHECK_VALUE(features.dim() == 2 && grad.dim() == 2,
                    "sparse_conv_grad_weight: features must be (N, Cin) and grad (M, Cout), got ",
                    features.sizes(), " and ", grad.sizes());
  const PairLists pairs(gather, features.size(0), grad.size(0), offsets);
  if (features.scalar_type() == at::kDouble) {
    return grad_weight(kDoubleGradPortable, features.contiguous(),
                       grad.to(at::kDouble).contiguous(), pairs);
  }
  return grad_weight(float_grad(), features.to(at::kFloat).contiguous(),
                     grad.to(at::kFloat).contiguous(), pairs);
}

}  // namespace

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("sparse_conv_grad_weight", &sparse_conv_grad_weight); }

}  // namespace anybev::sparse_conv

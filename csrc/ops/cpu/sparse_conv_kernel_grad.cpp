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
// Pairs of an offset that make up for one more copy of the gradient, which has to be cleared and
// added; and the tasks that keep many threads busy. Neither looks at the number of threads.
constexpr int64_t kPairsPerChunk = 2048;
constexpr int64_t kMaxChunks = 32, kWantedTasks = 16;
constexpr int64_t kOffsetsPerTask = 3;
constexpr int64_t kNumbersPerTask = 65536;

const GradKernels<float>& float_grad() {
#if defined(__x86_64__)
  if (best_isa() == Isa::kAvx512) return kFloatGradAvx512;
  if (best_isa() == Isa::kAvx2) return kFloatGradAvx2;
#endif
  return kFloatGradPortable;
}

// The work is cut into chunks of tile groups, each with its own copy of the gradient, and into
// ranges of offsets, each with its own part of a copy.
struct Cuts {
  Cuts(const PairLists& pairs) : groups((pairs.tiles + kTilesTogether - 1) / kTilesTogether) {
    const int64_t worth = pairs.pairs() / (pairs.offsets * kPairsPerChunk);
    chunks = std::clamp<int64_t>(worth, 1, kMaxChunks);
    const int64_t most = (pairs.offsets + kOffsetsPerTask - 1) / kOffsetsPerTask;
    ranges = std::min(most, (kWantedTasks + chunks - 1) / chunks);
  }
  int64_t groups, chunks, ranges;
};

// Pairs of one offset in a few tiles, rows counted from the first row of the output.
struct MergedPairs {
  // False where a pair is outside the features or its tile.
  bool collect(const PairLists& pairs, int64_t first, int64_t last, int64_t offset) {
    count = 0;
    for (int64_t tile = first; tile < last; ++tile) {
      const PairRun run = pairs.run(tile, offset);
      if (run.count > kTileRows || !pairs.in_range(tile, run)) return false;
      for (int64_t p = 0; p < run.count; ++p) {
        source[count + p] = run.source[p];
        row[count + p] = static_cast<int32_t>(tile * kTileRows + run.row[p]);
      }
      count += run.count;
    }
    std::fill_n(source + count, kPairsAhead, count ? source[count - 1] : 0);
    std::fill_n(row + count, kPairsAhead, count ? row[count - 1] : 0);
    return true;
  }

  int64_t count;
  int32_t source[kTilesTogether * kTileRows + kPairsAhead];
  int32_t row[kTilesTogether * kTileRows + kPairsAhead];
};

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
  const Cuts cuts(pairs);
  Tensor partial = at::empty({cuts.chunks, numbers}, features.options());
  Tensor total = cuts.chunks == 1 ? partial.view({pairs.offsets, inputs, outputs})
                                  : at::empty({pairs.offsets, inputs, outputs}, features.options());

  const auto* x = features.const_data_ptr<Number>();
  const auto* g = padded.const_data_ptr<Number>();
  auto* parts = partial.mutable_data_ptr<Number>();
  std::atomic<bool> outside{false};
  for_each_task(cuts.chunks * cuts.ranges, 1, [&](int64_t task, int64_t) {
    const int64_t chunk = task / cuts.ranges, range = task % cuts.ranges;
    const int64_t begin = pairs.offsets * range / cuts.ranges;
    const int64_t end = pairs.offsets * (range + 1) / cuts.ranges;
    Number* weight = parts + chunk * numbers;
    std::fill(weight + begin * inputs * outputs, weight + end * inputs * outputs, Number(0));
    MergedPairs merged;
    for (int64_t group = cuts.groups * chunk / cuts.chunks;
         group < cuts.groups * (chunk + 1) / cuts.chunks; ++group) {
      const int64_t first = group * kTilesTogether;
      const int64_t last = std::min(first + kTilesTogether, pairs.tiles);
      for (int64_t k = begin; k < end; ++k) {
        if (!merged.collect(pairs, first, last, k)) {
          outside = true;
        } else if (merged.count) {
          kernels.accumulate(x, inputs, merged.source, merged.row, merged.count, g, outputs,
                             weight + k * inputs * outputs);
        }
      }
    }
  });
  pairs.fail_if(outside);
  if (cuts.chunks > 1) add_chunks(parts, cuts.chunks, numbers, total.mutable_data_ptr<Number>());
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

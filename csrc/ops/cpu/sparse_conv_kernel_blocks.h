// Register-blocked inner loops, written once over a vector type and instantiated per instruction
// set. The vector type lives in an unnamed namespace of its file, so no instance is shared between
// files that are compiled for different sets.
//
// A vector type V has: Input, Sum, Output; kLanes; kMaxVectors (vectors of a column block);
// rows(vectors): pairs held in registers at once; load_sum, store_sum, load_weight, spread (one
// input to all lanes), multiply_add, store. The gradient kernel also reads kGradVectors and
// grad_rows().
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "ops/cpu/sparse_conv_kernel.h"

#define ANYBEV_INLINE inline __attribute__((always_inline))

namespace anybev::sparse_conv {

constexpr int64_t kPrefetchBytes = 512;

// sums[row] += features[source] @ weight for kRows pairs and kVectors vectors of channels.
template <class V, int kVectors, int kRows>
void multiply_block(const typename V::Input* features, int64_t depth, const int32_t* source,
                    const int16_t* row, const typename V::Input* weight, int64_t channels,
                    typename V::Sum* sums) {
  const typename V::Input* inputs[kRows];
  typename V::SumVector sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    inputs[r] = features + static_cast<int64_t>(source[r]) * depth;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = V::load_sum(sums + row[r] * channels + v * V::kLanes);
    }
  }
#pragma GCC unroll 4
  for (int64_t d = 0; d < depth; ++d) {
    typename V::WeightVector w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      w[v] = V::load_weight(weight + (d * kVectors + v) * V::kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto x = V::spread(inputs[r][d]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = V::multiply_add(x, w[v], sum[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      V::store_sum(sums + row[r] * channels + v * V::kLanes, sum[r][v]);
    }
  }
}

// kTable[n - 1] handles n pairs (a plain array: an inline function of the standard library,
// compiled for a wide instruction set, could be the copy that the linker keeps for everybody).
template <class V, int kVectors, class Rows>
struct MultiplyBlocks;
template <class V, int kVectors, int... kRows>
struct MultiplyBlocks<V, kVectors, std::integer_sequence<int, kRows...>> {
  static constexpr decltype(&multiply_block<V, kVectors, 1>) kTable[] = {
      &multiply_block<V, kVectors, kRows + 1>...};
};

template <class V>
ANYBEV_INLINE void prefetch_rows(const typename V::Input* features, int64_t depth,
                                 const int32_t* source, int64_t count) {
  const int64_t bytes = depth * static_cast<int64_t>(sizeof(typename V::Input));
  const int64_t ahead = bytes < kPrefetchBytes ? bytes : kPrefetchBytes;
  for (int64_t i = 0; i < count; ++i) {
    const char* start = reinterpret_cast<const char*>(features) + source[i] * bytes;
    for (int64_t b = 0; b < ahead; b += 64) __builtin_prefetch(start + b);
  }
}

// All pairs of a run for one column block. Full register blocks, then the rest in halves: two
// blocks of similar height hide more latency than a full one and a sliver.
template <class V, int kVectors>
void multiply_columns(const typename V::Input* features, int64_t depth, const PairRun& run,
                      const typename V::Input* weight, int64_t channels, typename V::Sum* sums) {
  constexpr int kRows = V::rows(kVectors);
  using Blocks = MultiplyBlocks<V, kVectors, std::make_integer_sequence<int, kRows>>;
  int64_t done = 0;
  while (done < run.count) {
    const int64_t left = run.count - done;
    const int64_t rows = left >= 2 * kRows ? kRows : left > kRows ? (left + 1) / 2 : left;
    const int64_t seen = done + rows;
    const int64_t ahead = run.readable - seen < kRows ? run.readable - seen : kRows;
    prefetch_rows<V>(features, depth, run.source + seen, ahead);
    Blocks::kTable[rows - 1](features, depth, run.source + done, run.row + done, weight, channels,
                             sums);
    done = seen;
  }
}

template <class V>
void multiply(const typename V::Input* features, int64_t depth, const PairRun& run,
              const typename V::Input* weight, int64_t channels, typename V::Sum* sums) {
  for (int64_t first = 0; first < channels;) {
    const int64_t vectors = (channels - first) / V::kLanes;
    const auto columns = [&]<int kVectors>() {
      multiply_columns<V, kVectors>(features, depth, run, weight + first * depth, channels,
                                    sums + first);
      first += kVectors * V::kLanes;
    };
    if (vectors >= V::kMaxVectors) {
      columns.template operator()<V::kMaxVectors>();
    } else if constexpr (V::kMaxVectors == 4) {
      if (vectors == 3)
        columns.template operator()<3>();
      else if (vectors == 2)
        columns.template operator()<2>();
      else
        columns.template operator()<1>();
    } else {
      columns.template operator()<1>();
    }
  }
}

// weight[i, o] += features[source[p], i] * grad[row[p], o] for kInputs i and kVectors vectors of o.
template <class V, int kVectors, int kInputs>
void accumulate_block(const typename V::Input* features, int64_t inputs, const int32_t* source,
                      const int32_t* row, int64_t count, const typename V::Input* grad,
                      int64_t outputs, typename V::Sum* weight) {
  typename V::SumVector sum[kInputs][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kInputs; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[i][v] = V::load_sum(weight + i * outputs + v * V::kLanes);
    }
  }
  for (int64_t p = 0; p < count; ++p) {
    const typename V::Input* x = features + static_cast<int64_t>(source[p]) * inputs;
    const typename V::Input* g = grad + static_cast<int64_t>(row[p]) * outputs;
    __builtin_prefetch(features + static_cast<int64_t>(source[p + kPairsAhead]) * inputs);
    const typename V::Input* later = grad + static_cast<int64_t>(row[p + kPairsAhead]) * outputs;
    typename V::WeightVector y[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      __builtin_prefetch(later + v * V::kLanes);
      y[v] = V::load_weight(g + v * V::kLanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kInputs; ++i) {
      const auto b = V::spread(x[i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = V::multiply_add(b, y[v], sum[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kInputs; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      V::store_sum(weight + i * outputs + v * V::kLanes, sum[i][v]);
    }
  }
}

template <class V, int kVectors, class Inputs>
struct AccumulateBlocks;
template <class V, int kVectors, int... kInputs>
struct AccumulateBlocks<V, kVectors, std::integer_sequence<int, kInputs...>> {
  static constexpr decltype(&accumulate_block<V, kVectors, 1>) kTable[] = {
      &accumulate_block<V, kVectors, kInputs + 1>...};
};

template <class V, int kVectors>
void accumulate_columns(const typename V::Input* features, int64_t inputs, const int32_t* source,
                        const int32_t* row, int64_t count, const typename V::Input* grad,
                        int64_t outputs, typename V::Sum* weight) {
  constexpr int kInputs = V::grad_rows(kVectors);
  using Blocks = AccumulateBlocks<V, kVectors, std::make_integer_sequence<int, kInputs>>;
  int64_t blocks = (inputs + kInputs - 1) / kInputs;
  for (int64_t i = 0; i < inputs; --blocks) {
    const int64_t rows = (inputs - i + blocks - 1) / blocks;
    Blocks::kTable[rows - 1](features + i, inputs, source, row, count, grad, outputs,
                             weight + i * outputs);
    i += rows;
  }
}

template <class V>
void accumulate(const typename V::Input* features, int64_t inputs, const int32_t* source,
                const int32_t* row, int64_t count, const typename V::Input* grad, int64_t outputs,
                typename V::Sum* weight) {
  constexpr int64_t kWide = V::kGradVectors * V::kLanes;
  int64_t o = 0;
  for (; o + kWide <= outputs; o += kWide) {
    accumulate_columns<V, V::kGradVectors>(features, inputs, source, row, count, grad + o, outputs,
                                           weight + o);
  }
  for (; o < outputs; o += V::kLanes) {
    accumulate_columns<V, 1>(features, inputs, source, row, count, grad + o, outputs, weight + o);
  }
}

template <class V>
constexpr auto conv_kernels() {
  return ConvKernels<typename V::Input, typename V::Sum, typename V::Output>{
      V::kLanes, V::kLanes * V::kMaxVectors, &multiply<V>, &V::store};
}

template <class V>
constexpr auto grad_kernels() {
  return GradKernels<typename V::Sum>{V::kLanes, &accumulate<V>};
}

}  // namespace anybev::sparse_conv

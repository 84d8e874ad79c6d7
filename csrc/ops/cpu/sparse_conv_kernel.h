// Inner kernels of the sparse convolution, one table an instruction set. Free of torch headers.
#pragma once

#include <cstdint>

namespace anybev::sparse_conv {

constexpr int64_t kTileRows = 128;  // destination rows of one pair list
constexpr int64_t kPairsAhead = 16;

// Pairs of one tile at one kernel offset. `readable` sources may be looked at (to prefetch), of
// which the first `count` are of this run.
struct PairRun {
  const int32_t* source;
  const int16_t* row;
  int64_t count;
  int64_t readable;
};

// Input is what one multiply-add consumes of a feature row: a number, or two bfloat16 in 32 bits.
template <class Input, class Sum, class Output>
struct ConvKernels {
  int64_t lanes;  // packed channels are a multiple of this
  int64_t block;  // channels of one packed column block; the last block may be narrower
  // sums[row, :] += features[source, :] @ weight, for every pair. features: rows of `depth` inputs;
  // weight: column blocks of [depth, width]; sums: rows of `channels`.
  void (*multiply)(const Input* features, int64_t depth, const PairRun& run, const Input* weight,
                   int64_t channels, Sum* sums);
  // output[i] = sums[i], rounded.
  void (*store)(const Sum* sums, int64_t count, Output* output);
};

template <class Number>
struct GradKernels {
  int64_t lanes;  // gradient rows are a multiple of this
  // weight[i, o] += features[source[p], i] * grad[row[p], o] for every pair p. kPairsAhead entries
  // after the last pair may be read, and are prefetched: they repeat a valid pair.
  void (*accumulate)(const Number* features, int64_t inputs, const int32_t* source,
                     const int32_t* row, int64_t count, const Number* grad, int64_t outputs,
                     Number* weight);
};

using FloatConv = ConvKernels<float, float, float>;
using DoubleConv = ConvKernels<double, double, double>;
using BFloat16Conv = ConvKernels<uint32_t, float, uint16_t>;

extern const FloatConv kFloatConvPortable;
extern const DoubleConv kDoubleConvPortable;
extern const GradKernels<float> kFloatGradPortable;
extern const GradKernels<double> kDoubleGradPortable;
#if defined(__x86_64__)
extern const FloatConv kFloatConvAvx2, kFloatConvAvx512;
extern const GradKernels<float> kFloatGradAvx2, kFloatGradAvx512;
extern const BFloat16Conv kBFloat16ConvAvx512;
#endif

}  // namespace anybev::sparse_conv

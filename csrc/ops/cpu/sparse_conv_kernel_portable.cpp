// Any processor: 16-byte vectors that the compiler lowers to what it has; float32 and float64.
#include <cstring>

#include "ops/cpu/sparse_conv_kernel_blocks.h"

namespace anybev::sparse_conv {
namespace {

template <class Number>
struct Bytes16 {
  typedef Number SumVector __attribute__((vector_size(16)));
  using Input = Number;
  using Sum = Number;
  using Output = Number;
  using WeightVector = SumVector;
  static constexpr int64_t kLanes = 16 / sizeof(Number);
  static constexpr int kMaxVectors = 2;
  static constexpr int rows(int vectors) { return vectors == 1 ? 8 : 5; }
  static constexpr int kGradVectors = 2;
  static constexpr int grad_rows(int vectors) { return vectors == 1 ? 8 : 4; }
  static ANYBEV_INLINE SumVector load_sum(const Sum* p) {
    SumVector v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static ANYBEV_INLINE void store_sum(Sum* p, SumVector v) { std::memcpy(p, &v, sizeof(v)); }
  static ANYBEV_INLINE WeightVector load_weight(const Input* p) { return load_sum(p); }
  static ANYBEV_INLINE SumVector spread(Input x) { return x - SumVector{}; }
  static ANYBEV_INLINE SumVector multiply_add(SumVector x, WeightVector w, SumVector sum) {
    return x * w + sum;
  }
  static void store(const Sum* sums, int64_t count, Output* output) {
    std::memcpy(output, sums, count * sizeof(Output));
  }
};

}  // namespace

const FloatConv kFloatConvPortable = conv_kernels<Bytes16<float>>();
const DoubleConv kDoubleConvPortable = conv_kernels<Bytes16<double>>();
const GradKernels<float> kFloatGradPortable = grad_kernels<Bytes16<float>>();
const GradKernels<double> kDoubleGradPortable = grad_kernels<Bytes16<double>>();

}  // namespace anybev::sparse_conv

// AVX2 and FMA: float32.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "ops/cpu/sparse_conv_kernel_blocks.h"

namespace anybev::sparse_conv {
namespace {

struct Float8Lanes {
  using Input = float;
  using Sum = float;
  using Output = float;
  using SumVector = __m256;
  using WeightVector = __m256;
  static constexpr int64_t kLanes = 8;
  static constexpr int kMaxVectors = 2;
  // Sixteen registers: 6x2 sums, two weights, one spread input.
  static constexpr int rows(int vectors) { return vectors == 1 ? 12 : 6; }
  static constexpr int kGradVectors = 2;
  static constexpr int grad_rows(int vectors) { return vectors == 1 ? 8 : 4; }
  static ANYBEV_INLINE SumVector load_sum(const Sum* p) { return _mm256_loadu_ps(p); }
  static ANYBEV_INLINE void store_sum(Sum* p, SumVector v) { _mm256_storeu_ps(p, v); }
  static ANYBEV_INLINE WeightVector load_weight(const Input* p) { return _mm256_loadu_ps(p); }
  static ANYBEV_INLINE __m256 spread(Input x) { return _mm256_set1_ps(x); }
  static ANYBEV_INLINE SumVector multiply_add(__m256 x, WeightVector w, SumVector sum) {
    return _mm256_fmadd_ps(x, w, sum);
  }
  static void store(const Sum* sums, int64_t count, Output* output) {
    std::memcpy(output, sums, count * sizeof(Output));
  }
};

}  // namespace

const FloatConv kFloatConvAvx2 = conv_kernels<Float8Lanes>();
const GradKernels<float> kFloatGradAvx2 = grad_kernels<Float8Lanes>();

}  // namespace anybev::sparse_conv

#endif

// AVX-512: float32, and bfloat16 pairs through vdpbf16ps.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "ops/cpu/sparse_conv_kernel_blocks.h"

namespace anybev::sparse_conv {
namespace {

struct Sum16 {
  using Sum = float;
  using SumVector = __m512;
  static constexpr int64_t kLanes = 16;
  static constexpr int kMaxVectors = 4;
  // Registers: 12x1, 12x2, 8x3 or 6x4 sums beside the weights and one spread input.
  static constexpr int rows(int vectors) { return vectors <= 2 ? 12 : vectors == 3 ? 8 : 6; }
  static constexpr int kGradVectors = 2;
  static constexpr int grad_rows(int vectors) { return vectors == 1 ? 16 : 14; }
  static ANYBEV_INLINE SumVector load_sum(const Sum* p) { return _mm512_loadu_ps(p); }
  static ANYBEV_INLINE void store_sum(Sum* p, SumVector v) { _mm512_storeu_ps(p, v); }
};

struct Float16Lanes : Sum16 {
  using Input = float;
  using Output = float;
  using WeightVector = __m512;
  static ANYBEV_INLINE WeightVector load_weight(const Input* p) { return _mm512_loadu_ps(p); }
  static ANYBEV_INLINE __m512 spread(Input x) { return _mm512_set1_ps(x); }
  static ANYBEV_INLINE SumVector multiply_add(__m512 x, WeightVector w, SumVector sum) {
    return _mm512_fmadd_ps(x, w, sum);
  }
  static void store(const Sum* sums, int64_t count, Output* output) {
    std::memcpy(output, sums, count * sizeof(Output));
  }
};

struct BFloat16Pairs : Sum16 {
  using Input = uint32_t;
  using Output = uint16_t;
  using WeightVector = __m512i;
  static ANYBEV_INLINE WeightVector load_weight(const Input* p) { return _mm512_loadu_si512(p); }
  static ANYBEV_INLINE __m512i spread(Input x) {
    return _mm512_set1_epi32(static_cast<int32_t>(x));
  }
  static ANYBEV_INLINE SumVector multiply_add(__m512i x, WeightVector w, SumVector sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
  }
  static void store(const Sum* sums, int64_t count, Output* output) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(sums + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(output + i), (__m256i)rounded);
    }
    if (i < count) {
      const auto mask = static_cast<__mmask16>((1u << (count - i)) - 1);
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, sums + i));
      _mm256_mask_storeu_epi16(output + i, mask, (__m256i)rounded);
    }
  }
};

}  // namespace

const FloatConv kFloatConvAvx512 = conv_kernels<Float16Lanes>();
const BFloat16Conv kBFloat16ConvAvx512 = conv_kernels<BFloat16Pairs>();
const GradKernels<float> kFloatGradAvx512 = grad_kernels<Float16Lanes>();

}  // namespace anybev::sparse_conv

#endif

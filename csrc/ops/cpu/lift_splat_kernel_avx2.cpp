// AVX2 and FMA.
#if defined(__x86_64__)

#include <immintrin.h>

#include "ops/cpu/lift_splat_kernel_table.h"

namespace anybev::lift_splat {
namespace {

struct Float8 {
  using Number = float;
  using Vector = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kVectors = 10;
  static constexpr int kGradVectors = 5;
  static constexpr int kTile = 8;

  static ANYBEV_INLINE Vector load(const float* p) { return _mm256_loadu_ps(p); }
  static ANYBEV_INLINE void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  static ANYBEV_INLINE __m256i first(int64_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), lane);
  }
  static ANYBEV_INLINE Vector load_partial(const float* p, int64_t count) {
    return _mm256_maskload_ps(p, first(count));
  }
  static ANYBEV_INLINE void store_partial(float* p, int64_t count, Vector v) {
    _mm256_maskstore_ps(p, first(count), v);
  }
  static ANYBEV_INLINE Vector spread(float x) { return _mm256_set1_ps(x); }
  static ANYBEV_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
    return _mm256_fmadd_ps(a, b, sum);
  }
  static ANYBEV_INLINE Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static ANYBEV_INLINE Vector round(Vector x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static ANYBEV_INLINE Vector scale(Vector x, Vector n) {
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), bits));
  }
  static ANYBEV_INLINE Vector zero_below(Vector x, float limit, Vector v) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, spread(limit), _CMP_LT_OQ), v);
  }
  static ANYBEV_INLINE Vector exp(Vector x);
  static ANYBEV_INLINE float max_lane(Vector v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  static ANYBEV_INLINE float sum_lanes(Vector v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static ANYBEV_INLINE Vector sum_each(const Vector* part) {
    const Vector low =
        _mm256_hadd_ps(_mm256_hadd_ps(part[0], part[1]), _mm256_hadd_ps(part[2], part[3]));
    const Vector high =
        _mm256_hadd_ps(_mm256_hadd_ps(part[4], part[5]), _mm256_hadd_ps(part[6], part[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                         _mm256_permute2f128_ps(low, high, 0x31));
  }
  static ANYBEV_INLINE void transpose(const float* from, int64_t from_stride, float* to,
                                      int64_t to_stride) {
    Vector row[8], pair[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) row[i] = load(from + i * from_stride);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
      pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      row[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
      row[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
      row[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
      row[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      store(to + i * to_stride, _mm256_permute2f128_ps(row[i], row[i + 4], 0x20));
      store(to + (i + 4) * to_stride, _mm256_permute2f128_ps(row[i], row[i + 4], 0x31));
    }
  }
  static ANYBEV_INLINE uint32_t changes8(const int32_t* cells) {
    const auto here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(cells));
    const auto next = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(cells + 1));
    const __m256 same = _mm256_castsi256_ps(_mm256_cmpeq_epi32(here, next));
    return ~static_cast<uint32_t>(_mm256_movemask_ps(same)) & 0xff;
  }
  static ANYBEV_INLINE uint32_t changes(const int32_t* cells) {
    return changes8(cells) | changes8(cells + 8) << 8;
  }
};

Float8::Vector Float8::exp(Vector x) { return exp_polynomial<Float8>(x); }

}  // namespace

const LiftKernels<float> kFloatLiftAvx2 = lift_kernels<Float8>();

}  // namespace anybev::lift_splat

#endif

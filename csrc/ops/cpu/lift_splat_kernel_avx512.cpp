// AVX-512.
#if defined(__x86_64__)

// GCC 12 takes the undefined operands inside its own intrinsics for ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include "ops/cpu/lift_splat_kernel_table.h"

namespace anybev::lift_splat {
namespace {

struct Float16 {
  using Number = float;
  using Vector = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kVectors = 8;
  static constexpr int kGradVectors = 5;
  static constexpr int kTile = 16;

  static ANYBEV_INLINE Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static ANYBEV_INLINE void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static ANYBEV_INLINE __mmask16 first(int64_t count) {
    return static_cast<__mmask16>((1u << count) - 1);
  }
  static ANYBEV_INLINE Vector load_partial(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(first(count), p);
  }
  static ANYBEV_INLINE void store_partial(float* p, int64_t count, Vector v) {
    _mm512_mask_storeu_ps(p, first(count), v);
  }
  static ANYBEV_INLINE Vector spread(float x) { return _mm512_set1_ps(x); }
  static ANYBEV_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
    return _mm512_fmadd_ps(a, b, sum);
  }
  static ANYBEV_INLINE Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static ANYBEV_INLINE Vector round(Vector x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static ANYBEV_INLINE Vector scale(Vector x, Vector n) { return _mm512_scalef_ps(x, n); }
  static ANYBEV_INLINE Vector zero_below(Vector x, float limit, Vector v) {
    return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(x, spread(limit), _CMP_LT_OQ), spread(0));
  }
  static ANYBEV_INLINE Vector exp(Vector x);
  static ANYBEV_INLINE float max_lane(Vector v) { return _mm512_reduce_max_ps(v); }
  static ANYBEV_INLINE float sum_lanes(Vector v) { return _mm512_reduce_add_ps(v); }

  static ANYBEV_INLINE Vector low_pairs(Vector a, Vector b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static ANYBEV_INLINE Vector high_pairs(Vector a, Vector b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  // Quarters 0 and 2 of a, then of b; and 1 and 3.
  static ANYBEV_INLINE Vector even_quarters(Vector a, Vector b) {
    return _mm512_shuffle_f32x4(a, b, 0x88);
  }
  static ANYBEV_INLINE Vector odd_quarters(Vector a, Vector b) {
    return _mm512_shuffle_f32x4(a, b, 0xdd);
  }

  static ANYBEV_INLINE Vector sum_each(const Vector* part) {
    Vector two[8], four[4], eight[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const Vector a = part[2 * i], b = part[2 * i + 1];
      two[i] = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vector a = two[2 * i], b = two[2 * i + 1];
      four[i] = low_pairs(a, b) + high_pairs(a, b);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Vector a = four[2 * i], b = four[2 * i + 1];
      eight[i] = even_quarters(a, b) + odd_quarters(a, b);
    }
    return even_quarters(eight[0], eight[1]) + odd_quarters(eight[0], eight[1]);
  }

  static ANYBEV_INLINE void transpose(const float* from, int64_t from_stride, float* to,
                                      int64_t to_stride) {
    Vector a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = load(from + i * from_stride);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    // a[4 g + c]: column c of every quarter, from rows 4 g to 4 g + 3.
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      a[i] = low_pairs(b[i], b[i + 2]);
      a[i + 1] = high_pairs(b[i], b[i + 2]);
      a[i + 2] = low_pairs(b[i + 1], b[i + 3]);
      a[i + 3] = high_pairs(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const Vector top_even = even_quarters(a[c], a[4 + c]);
      const Vector low_even = even_quarters(a[8 + c], a[12 + c]);
      const Vector top_odd = odd_quarters(a[c], a[4 + c]);
      const Vector low_odd = odd_quarters(a[8 + c], a[12 + c]);
      store(to + c * to_stride, even_quarters(top_even, low_even));
      store(to + (4 + c) * to_stride, even_quarters(top_odd, low_odd));
      store(to + (8 + c) * to_stride, odd_quarters(top_even, low_even));
      store(to + (12 + c) * to_stride, odd_quarters(top_odd, low_odd));
    }
  }

  static ANYBEV_INLINE uint32_t changes(const int32_t* cells) {
    return _mm512_cmpneq_epi32_mask(_mm512_loadu_si512(cells), _mm512_loadu_si512(cells + 1));
  }
};

Float16::Vector Float16::exp(Vector x) { return exp_polynomial<Float16>(x); }

}  // namespace

const LiftKernels<float> kFloatLiftAvx512 = lift_kernels<Float16>();

}  // namespace anybev::lift_splat

#endif

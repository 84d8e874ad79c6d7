// AVX2 and F16C: float32 and both halves.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "ops/cpu/bev_pool_kernel_rows.h"

namespace anybev::bev_pool {
namespace {

struct Lanes8 {
  using Sum = float;
  static constexpr int64_t kLanes = 8;
  static ANYBEV_INLINE __m256 load_sum(const Sum* p) { return _mm256_loadu_ps(p); }
  static ANYBEV_INLINE void store_sum(Sum* p, __m256 v) { _mm256_storeu_ps(p, v); }
};

struct Float8 : Lanes8 {
  using Stored = float;
  static ANYBEV_INLINE __m256 load(const Stored* p) { return _mm256_loadu_ps(p); }
  static ANYBEV_INLINE float load_one(const Stored* p) { return *p; }
  static ANYBEV_INLINE void store(Stored* p, __m256 v) { _mm256_storeu_ps(p, v); }
  static ANYBEV_INLINE void store_one(Stored* p, float v) { *p = v; }
};

struct Half8 : Lanes8 {
  using Stored = uint16_t;
  static ANYBEV_INLINE __m256 load(const Stored* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static ANYBEV_INLINE float load_one(const Stored* p) { return _cvtsh_ss(*p); }
  static ANYBEV_INLINE void store(Stored* p, __m256 v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static ANYBEV_INLINE void store_one(Stored* p, float v) {
    *p = _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
};

// The upper half of a float32, rounded to nearest even.
struct BFloat8 : Lanes8 {
  using Stored = uint16_t;
  static ANYBEV_INLINE __m256 load(const Stored* p) {
    const __m128i stored = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(stored), 16));
  }
  static ANYBEV_INLINE float load_one(const Stored* p) {
    const uint32_t bits = static_cast<uint32_t>(*p) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
  static ANYBEV_INLINE void store(Stored* p, __m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7FC0), nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  static ANYBEV_INLINE void store_one(Stored* p, float v) {
    const float all[8] = {v};
    uint16_t rounded[8];
    store(rounded, _mm256_loadu_ps(all));
    *p = rounded[0];
  }
};

}  // namespace

const FloatSet kAvx2 = {kernels<Float8>(), kernels<Half8>(), kernels<BFloat8>()};

}  // namespace anybev::bev_pool

#endif

// Products of bytes with 23-bit weights by two 16-bit multiply-adds, of the weights' upper and
// lower bits: exact in 32 bits, as the portable passes are.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "host/resize.h"

namespace anybev::resize {
namespace {

struct Sums {
  __m256i high, low;
};

inline __m256i combined(const Sums& sums) {
  return _mm256_add_epi32(_mm256_slli_epi32(sums.high, kSplit), sums.low);
}

inline __m256i broadcast64(const int16_t* words) {
  int64_t bits;
  std::memcpy(&bits, words, sizeof bits);
  return _mm256_set1_epi64x(bits);
}

inline __m256i broadcast32(const int16_t* words) {
  int32_t bits;
  std::memcpy(&bits, words, sizeof bits);
  return _mm256_set1_epi32(bits);
}

// Sums of one pixel, as pairs of 32-bit halves: r r g g | b b - -.
inline __m256i pixel(const uint8_t* in, const int16_t* words, int groups) {
  // Four pixels' bytes to 16-bit lanes: taps 0 1 and 2 3 of red, of green | of blue, nothing.
  const __m256i spread =
      _mm256_setr_epi8(0, -1, 3, -1, 6, -1, 9, -1, 1, -1, 4, -1, 7, -1, 10, -1, 2, -1, 5, -1, 8, -1,
                       11, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  Sums sums{_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (int g = 0; g < groups; ++g, words += kGroupWords, in += kGroup * kChannels) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
    const __m256i taps = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), spread);
    sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(taps, broadcast64(words)));
    sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(taps, broadcast64(words + kGroup)));
  }
  return combined(sums);
}

inline __m256i rounded(__m256i sum) {
  return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << (kPrecision - 1))),
                           kPrecision);
}

void row(const uint8_t* in, const Taps& taps, int quads, uint8_t* out) {
  const __m128i gather = _mm_setr_epi8(0, 1, 8, 2, 3, 10, 4, 5, 12, 6, 7, 14, -1, -1, -1, -1);
  const int64_t words = static_cast<int64_t>(taps.groups) * kGroupWords;
  for (int q = 0; q < quads; ++q, out += kQuad * kChannels) {
    __m256i sums[kQuad];
    for (int i = 0; i < kQuad; ++i) {
      const int64_t index = static_cast<int64_t>(q) * kQuad + i;
      const uint8_t* first = in + static_cast<int64_t>(taps.start[index]) * kChannels;
      sums[i] = pixel(first, taps.words + index * words, taps.groups);
    }
    // r g of pixels 0 1 | b - of pixels 0 1; the same of 2 3.
    const __m256i left = rounded(_mm256_hadd_epi32(sums[0], sums[1]));
    const __m256i right = rounded(_mm256_hadd_epi32(sums[2], sums[3]));
    const __m256i narrow = _mm256_packs_epi32(left, right);
    const __m256i bytes = _mm256_packus_epi16(narrow, narrow);
    const __m128i both =
        _mm_unpacklo_epi64(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    const __m128i rgb = _mm_shuffle_epi8(both, gather);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), rgb);
    const int32_t rest = _mm_extract_epi32(rgb, 2);
    std::memcpy(out + 8, &rest, sizeof rest);
  }
}

inline __m256i sixteen(const uint8_t* in) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)));
}

inline void add_pair(Sums& sums, __m256i taps, __m256i high, __m256i low) {
  sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(taps, high));
  sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(taps, low));
}

void column(const uint8_t* in, int64_t stride, const int16_t* words, int groups, int blocks,
            uint8_t* out) {
  const __m256i zero = _mm256_setzero_si256();
  for (int64_t at = 0; at < static_cast<int64_t>(blocks) * kBlock; at += kBlock / 2) {
    Sums first{zero, zero}, second{zero, zero};
    const uint8_t* bytes = in + at;
    for (int pair = 0; pair < groups * kGroup / 2; ++pair, bytes += 2 * stride) {
      const int16_t* pair_words = words + pair / 2 * kGroupWords + pair % 2 * 2;
      const __m256i high = broadcast32(pair_words), low = broadcast32(pair_words + kGroup);
      const __m256i a = sixteen(bytes), b = sixteen(bytes + stride);
      add_pair(first, _mm256_unpacklo_epi16(a, b), high, low);
      add_pair(second, _mm256_unpackhi_epi16(a, b), high, low);
    }
    // Unpacking and packing both stay within halves of 128 bits, so the order comes back.
    const __m256i narrow = _mm256_packs_epi32(rounded(combined(first)), rounded(combined(second)));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(narrow, narrow), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + at), _mm256_castsi256_si128(packed));
  }
}

}  // namespace

Passes passes_avx2() { return {row, column}; }

}  // namespace anybev::resize

#endif

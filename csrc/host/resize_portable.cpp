#include "host/resize.h"

namespace anybev::resize {
namespace {

inline int32_t weight(const int16_t* group, int tap) {
  return static_cast<int32_t>(group[tap]) * (1 << kSplit) + group[kGroup + tap];
}

inline uint8_t rounded(int32_t sum) {
  const int32_t value = sum >> kPrecision;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

void row(const uint8_t* in, const Taps& taps, int quads, uint8_t* out) {
  for (int i = 0; i < quads * kQuad; ++i) {
    const uint8_t* pixel = in + static_cast<int64_t>(taps.start[i]) * kChannels;
    const int16_t* words = taps.words + static_cast<int64_t>(i) * taps.groups * kGroupWords;
    int32_t red = 1 << (kPrecision - 1), green = red, blue = red;
    for (int g = 0; g < taps.groups; ++g, words += kGroupWords) {
      for (int t = 0; t < kGroup; ++t, pixel += kChannels) {
        const int32_t w = weight(words, t);
        red += pixel[0] * w;
        green += pixel[1] * w;
        blue += pixel[2] * w;
      }
    }
    *out++ = rounded(red);
    *out++ = rounded(green);
    *out++ = rounded(blue);
  }
}

void column(const uint8_t* in, int64_t stride, const int16_t* words, int groups, int blocks,
            uint8_t* out) {
  for (int b = 0; b < blocks; ++b, in += kBlock, out += kBlock) {
    int32_t sums[kBlock];
    for (int32_t& sum : sums) sum = 1 << (kPrecision - 1);
    const uint8_t* bytes = in;
    for (int g = 0; g < groups; ++g) {
      for (int t = 0; t < kGroup; ++t, bytes += stride) {
        const int32_t w = weight(words + g * kGroupWords, t);
        for (int i = 0; i < kBlock; ++i) sums[i] += bytes[i] * w;
      }
    }
    for (int i = 0; i < kBlock; ++i) out[i] = rounded(sums[i]);
  }
}

}  // namespace

Passes passes_portable() { return {row, column}; }

}  // namespace anybev::resize

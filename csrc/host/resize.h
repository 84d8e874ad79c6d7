// Passes of the antialiased resize, one set of functions an instruction set.
#pragma once

#include <cstdint>

namespace anybev::resize {

// Weights are fixed-point numbers of 22 bits after the point, as Pillow's.
inline constexpr int kPrecision = 22;
inline constexpr int kChannels = 3;
// Taps come in groups: (w >> 11) of four taps, then (w & 2047) of the same four, so that products
// with bytes fit the 16-bit multipliers.
inline constexpr int kGroup = 4;
inline constexpr int kSplit = 11;
inline constexpr int kGroupWords = 2 * kGroup;
// The row pass computes whole quads of pixels and reads so many bytes past the last tap.
inline constexpr int kQuad = 4;
inline constexpr int kReadBeyond = 4;
// The column pass computes whole blocks of bytes.
inline constexpr int kBlock = 32;

// One axis: output i sums `groups * kGroup` inputs from `start[i]` on, those past the filter's
// support with weight 0.
struct Taps {
  int groups;
  const int32_t* start;
  const int16_t* words;  // (outputs, groups, kGroupWords)
};

struct Passes {
  // One row of interleaved RGB: `quads` quads of pixels.
  void (*row)(const uint8_t* in, const Taps& taps, int quads, uint8_t* out);
  // One output row from `groups * kGroup` rows, `stride` bytes apart: `blocks` blocks of bytes.
  void (*column)(const uint8_t* in, int64_t stride, const int16_t* words, int groups, int blocks,
                 uint8_t* out);
};

Passes passes_portable();
Passes passes_avx2();

}  // namespace anybev::resize

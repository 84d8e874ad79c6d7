// Vectors of lift and splat: what the passes do with them whatever their width.
//
// Written once over a vector type that lives in an unnamed namespace of its file, so no instance is
// shared between files that are compiled for different sets. A vector type V has: Number, Vector;
// kLanes; kVectors and kGradVectors (vectors of a channel block in the two directions); kTile;
// load, store, load_partial, store_partial (the first `count` lanes, zeros elsewhere), spread,
// multiply_add, max, exp (of what is not above 0), max_lane, sum_lanes, sum_each (lane i: the sum
// over the lanes of vector i), transpose (kTile x kTile) and changes (bit i: cells[i] !=
// cells[i + 1], of 16).
#pragma once

#include <cstdint>

#define ANYBEV_INLINE inline __attribute__((always_inline))

namespace anybev::lift_splat {

constexpr int64_t kLineBytes = 64;

ANYBEV_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// to[j][i] = from[i][j] for rows x columns numbers.
template <class V>
void transpose(const typename V::Number* from, int64_t from_stride, int64_t rows, int64_t columns,
               typename V::Number* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; i += V::kTile) {
    const int64_t i_end = smaller(i + V::kTile, rows);
    for (int64_t j = 0; j < columns; j += V::kTile) {
      const int64_t j_end = smaller(j + V::kTile, columns);
      if (i_end - i == V::kTile && j_end - j == V::kTile) {
        V::transpose(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
        continue;
      }
      for (int64_t r = i; r < i_end; ++r) {
        for (int64_t c = j; c < j_end; ++c) to[c * to_stride + r] = from[r * from_stride + c];
      }
    }
  }
}

// exp(x) for x <= 0 to about 2 ulp, NaN kept, 0 below -87. V also has round (to nearest), scale
// (times 2^n) and zero_below(x, limit, v): v, or 0 where x < limit.
template <class V>
ANYBEV_INLINE typename V::Vector exp_polynomial(typename V::Vector x) {
  constexpr float kLog2e = 1.442695041f, kLn2 = 0.693147182f, kLn2Rest = -1.904654299e-9f;
  const auto n = V::round(x * V::spread(kLog2e));
  auto r = V::multiply_add(n, V::spread(-kLn2), x);
  r = V::multiply_add(n, V::spread(-kLn2Rest), r);
  // Taylor: |r| <= ln 2 / 2, so the first term left out is below 2^-27.
  constexpr float kTerms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  auto power = V::spread(1.0f / 5040);
#pragma GCC unroll 8
  for (const float term : kTerms) power = V::multiply_add(power, r, V::spread(term));
  return V::zero_below(x, -87.0f, V::scale(power, n));
}

template <class V>
void softmax(typename V::Number* values, int64_t count) {
  auto largest = V::load(values);
  for (int64_t i = V::kLanes; i < count; i += V::kLanes) {
    largest = V::max(V::load(values + i), largest);
  }
  const auto shift = V::spread(V::max_lane(largest));
  auto total = V::spread(0);
  for (int64_t i = 0; i < count; i += V::kLanes) {
    const auto power = V::exp(V::load(values + i) - shift);
    V::store(values + i, power);
    total = total + power;
  }
  const auto scale = V::spread(1 / V::sum_lanes(total));
  for (int64_t i = 0; i < count; i += V::kLanes) {
    V::store(values + i, V::load(values + i) * scale);
  }
}

template <class T>
ANYBEV_INLINE void prefetch(const T* values, int64_t count) {
  const auto* bytes = reinterpret_cast<const char*>(values);
  const int64_t size = count * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < size; i += kLineBytes) __builtin_prefetch(bytes + i);
}

// kVectors whole vectors, or (0) one with the first `partial` lanes.
template <class V, int kVectors>
struct Lanes {
  using Number = typename V::Number;
  static constexpr int kCount = kVectors ? kVectors : 1;

  static ANYBEV_INLINE typename V::Vector load(const Number* p, int64_t partial) {
    if constexpr (kVectors == 0) return V::load_partial(p, partial);
    return V::load(p);
  }
  static ANYBEV_INLINE void store(Number* p, typename V::Vector v, int64_t partial) {
    if constexpr (kVectors == 0) {
      V::store_partial(p, partial, v);
    } else {
      V::store(p, v);
    }
  }
};

template <int kVectors, class Part>
ANYBEV_INLINE void run_block(const Part& part, int64_t vectors, int64_t channel) {
  if constexpr (kVectors > 0) {
    if (vectors == kVectors) {
      part.template run<kVectors>(channel, 0);
    } else {
      run_block<kVectors - 1>(part, vectors, channel);
    }
  }
}

// Calls part.template run<vectors>(channel, partial) for blocks of at most kMost vectors; a last,
// incomplete vector comes alone, as run<0>.
template <class V, int kMost, class Part>
ANYBEV_INLINE void for_channel_blocks(int64_t channels, const Part& part) {
  int64_t c = 0;
  while (channels - c >= V::kLanes) {
    const int64_t vectors = smaller((channels - c) / V::kLanes, kMost);
    run_block<kMost>(part, vectors, c);
    c += vectors * V::kLanes;
  }
  if (c < channels) part.template run<0>(c, channels - c);
}

}  // namespace anybev::lift_splat

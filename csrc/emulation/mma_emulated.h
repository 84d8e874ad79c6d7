// common/cuda/mma.h on the processor: each lane gives what it holds and computes its own sums. The
// sum over a product's inner dimension is rounded once; hardware's order and rounding differ.
#pragma once

#include "cuda_runtime.h"

namespace anybev::cuda {
namespace detail {

struct Fragments {
  float left[8], right[4];
};

// kInner 16: two numbers a register; kInner 8: one. In both a lane holds `kRun` neighbours along
// the inner dimension, for its group's row or column, and again one block of 4 kRun further on.
template <int kInner>
void multiply(float* sums, const Fragments& mine) {
  constexpr int kRun = kInner / 8, kBlock = 4 * kRun;
  const auto* slots = emulation::exchange(0xffffffffu, &mine, sizeof mine);
  static_assert(sizeof(Fragments) <= emulation::kSlotBytes);
  const int lane = static_cast<int>(emulation::lane()), group = lane / 4, member = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int lower = i / 2, column = 2 * member + i % 2;
    double sum = 0;
    for (int k = 0; k < kInner; ++k) {
      const int holder = k % kBlock / kRun, block = k / kBlock, within = k % kRun;
      const auto& a = reinterpret_cast<const Fragments&>(slots[group * 4 + holder]);
      const auto& b = reinterpret_cast<const Fragments&>(slots[column * 4 + holder]);
      sum += static_cast<double>(a.left[(block * 2 + lower) * kRun + within]) *
             b.right[block * kRun + within];
    }
    sums[i] = static_cast<float>(sums[i] + sum);
  }
}

template <class T>
float half_of(uint32_t bits, int which) {
  const auto half = static_cast<uint16_t>(bits >> 16 * which);
  return static_cast<float>(std::bit_cast<T>(half));
}

}  // namespace detail

template <class T>
void multiply_16x8x16(float* sums, const uint32_t* left, const uint32_t* right) {
  detail::Fragments mine;
  for (int i = 0; i < 8; ++i) mine.left[i] = detail::half_of<T>(left[i / 2], i % 2);
  for (int i = 0; i < 4; ++i) mine.right[i] = detail::half_of<T>(right[i / 2], i % 2);
  detail::multiply<16>(sums, mine);
}

inline void multiply_16x8x8_tf32(float* sums, const uint32_t* left, const uint32_t* right) {
  detail::Fragments mine{};
  // The unit ignores the bits that a tf32 lacks.
  for (int i = 0; i < 4; ++i) mine.left[i] = __uint_as_float(left[i] & ~0x1fffu);
  for (int i = 0; i < 2; ++i) mine.right[i] = __uint_as_float(right[i] & ~0x1fffu);
  detail::multiply<8>(sums, mine);
}

inline uint32_t to_tf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;  // infinities and NaN
  return (bits + 0x1000u) & ~0x1fffu;
}

template <bool kTransposed>
void load_matrices(uint32_t* to, const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) {
    emulation::fail("rows of a matrix must start at multiples of 16 bytes");
  }
  const auto* slots = emulation::exchange(0xffffffffu, &row, sizeof row);
  const unsigned lane = emulation::lane(), group = lane / 4, member = lane % 4;
  for (unsigned m = 0; m < 4; ++m) {
    uint16_t pair[2];
    for (unsigned i = 0; i < 2; ++i) {
      const unsigned r = kTransposed ? 2 * member + i : group;
      const unsigned c = kTransposed ? group : 2 * member + i;
      pair[i] = emulation::read<const uint16_t*>(slots, 8 * m + r)[c];
    }
    to[m] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}

}  // namespace anybev::cuda

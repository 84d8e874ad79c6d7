// Loops over points, written once and compiled per instruction set. A number type N lives in an
// unnamed namespace of its file, so no instance is shared between sets; it has: Stored, Sum,
// kLanes, Vector, load (kLanes stored numbers as sums), load_one, store, store_one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cpu/bev_pool_kernel.h"

#define ANYBEV_INLINE inline __attribute__((always_inline))

namespace anybev::bev_pool {

constexpr int64_t kCellsAhead = 16;  // points between a prefetch and its use

// The lines of a row that lies where a cell is, which is not where the one before it was.
ANYBEV_INLINE void prefetch_row(const void* row, int64_t bytes) {
  const char* start = static_cast<const char*>(row);
  for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(start + b);
}

template <class N>
void add_rows(const Points& points, const void* features, int32_t first, int32_t last, void* sums) {
  using Sum = typename N::Sum;
  const int64_t channels = points.channels;
  const int64_t whole = channels - channels % N::kLanes;
  const auto* source = static_cast<const typename N::Stored*>(features);
  auto* const target = static_cast<Sum*>(sums);
  const auto span = static_cast<uint32_t>(last) - static_cast<uint32_t>(first);
  for (int64_t i = 0; i < points.count; ++i, source += channels) {
    if (i + kCellsAhead < points.count) {
      const int32_t next = points.cells[i + kCellsAhead];
      if (static_cast<uint32_t>(next - first) < span) {
        prefetch_row(target + next * channels, channels * static_cast<int64_t>(sizeof(Sum)));
      }
    }
    const int32_t cell = points.cells[i];
    if (static_cast<uint32_t>(cell - first) >= span) continue;
    Sum* row = target + cell * channels;
    for (int64_t c = 0; c < whole; c += N::kLanes) {
      N::store_sum(row + c, N::load_sum(row + c) + N::load(source + c));
    }
    for (int64_t c = whole; c < channels; ++c) row[c] += N::load_one(source + c);
  }
}

template <class N>
void gather_rows(const Points& points, const void* rows, void* features) {
  using Sum = typename N::Sum;
  const int64_t channels = points.channels;
  const int64_t whole = channels - channels % N::kLanes;
  const auto* const source = static_cast<const Sum*>(rows);
  auto* target = static_cast<typename N::Stored*>(features);
  for (int64_t i = 0; i < points.count; ++i, target += channels) {
    if (i + kCellsAhead < points.count) {
      prefetch_row(source + points.cells[i + kCellsAhead] * channels,
                   channels * static_cast<int64_t>(sizeof(Sum)));
    }
    const Sum* row = source + points.cells[i] * channels;
    for (int64_t c = 0; c < whole; c += N::kLanes) N::store(target + c, N::load_sum(row + c));
    for (int64_t c = whole; c < channels; ++c) N::store_one(target + c, row[c]);
  }
}

template <class N>
constexpr Kernels kernels() {
  return {&add_rows<N>, &gather_rows<N>};
}

}  // namespace anybev::bev_pool

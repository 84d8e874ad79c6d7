// Scalar kernels of sparse_neighbors, compiled once for any processor and once for AVX2 machines,
// whose popcount is one instruction. Everything is local to the file that includes it.
#pragma once

#include "ops/cpu/sparse_neighbors_kernel.h"

namespace anybev::sparse_neighbors {
namespace {

// Bits below position z, for any z.
inline uint64_t bits_below(int32_t z) {
  if (z <= 0) return 0;
  return z >= 64 ? ~uint64_t{0} : (uint64_t{1} << z) - 1;
}

// The word with bit z moved to bit 0; cells beyond either end are empty.
inline uint64_t window_at(uint64_t mask, int32_t z) {
  if (z <= -64 || z >= 64) return 0;
  return z >= 0 ? mask >> z : mask << -z;
}

void find_windows_scalar(const ColumnView& cells, const ConvGeometry& geometry,
                         const int32_t* coords, int64_t begin, int64_t end,
                         const Windows& windows) {
  const int64_t tile = begin / kTile;
  const int taps = windows.taps;
  for (int64_t m = begin; m < end; ++m) {
    const int32_t* site = coords + 4 * m;
    const int64_t x = site[1] * geometry.stride[0] - geometry.padding[0];
    const int64_t y = site[2] * geometry.stride[1] - geometry.padding[1];
    const int32_t z = site[3] * geometry.stride[2] - geometry.padding[2];
    const uint64_t below = bits_below(z);
    const int row = static_cast<int>(m % kTile), group = row / kGroup, lane = row % kGroup;
    // The first row of a group starts its presence words; a later one adds its bit.
    const uint16_t keep = lane == 0 ? 0 : 0xFFFF;
    for (int column = 0; column < windows.columns; ++column) {
      const uint64_t word = cells.words[(x + column / geometry.kernel[1]) * cells.pitch + y +
                                        column % geometry.kernel[1]];
      const uint64_t mask = word & cells.cell_bits(), window = window_at(mask, z);
      windows.first_of(tile, column)[row] = cells.first_rank +
                                            static_cast<int32_t>(word >> cells.depth) +
                                            __builtin_popcountll(mask & below);
      uint16_t* present = windows.present_of(tile, column * taps) + group;
      for (int tap = 0; tap < taps; ++tap) {
        const uint16_t bit = static_cast<uint16_t>((window >> tap & 1) << lane);
        present[tap * kGroups] = static_cast<uint16_t>((present[tap * kGroups] & keep) | bit);
      }
    }
  }
}

void emit_pairs_scalar(const Windows& windows, int64_t tile, const int32_t* list_start,
                       const int32_t* row_of_rank, int32_t* source, int16_t* row) {
  for (int column = 0; column < windows.columns; ++column) {
    const int32_t* first = windows.first_of(tile, column);
    for (int tap = 0; tap < windows.taps; ++tap) {
      const int offset = column * windows.taps + tap;
      const uint16_t* present = windows.present_of(tile, offset);
      int64_t out = list_start[offset];
      for (int group = 0; group < kGroups; ++group) {
        for (uint32_t left = present[group]; left; left &= left - 1) {
          const int lane = __builtin_ctz(left), local = group * kGroup + lane;
          // Occupied cells of the window below this one come first in the column.
          int32_t rank = first[local];
          for (int lower = 1; lower <= tap; ++lower) {
            rank += present[group - lower * kGroups] >> lane & 1;
          }
          source[out] = row_of_rank ? row_of_rank[rank] : rank;
          row[out++] = static_cast<int16_t>(local);
        }
      }
    }
  }
}

}  // namespace
}  // namespace anybev::sparse_neighbors

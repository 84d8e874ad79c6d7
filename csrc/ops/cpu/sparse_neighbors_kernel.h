// What the sparse_neighbors files share. No torch, no standard containers: the files compiled for
// one instruction set include this.
#pragma once

#include <cstdint>

#include "common/sparse_geometry.h"

namespace anybev::sparse_neighbors {

constexpr int kGroup = 16;  // rows that one presence word covers
constexpr int kGroups = kTile / kGroup;

// Ones in a word, for code that must run without the popcnt instruction.
inline int32_t count_bits(uint64_t v) {
  v -= v >> 1 & 0x5555555555555555u;
  v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
  v = (v + (v >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
  return static_cast<int32_t>(v * 0x0101010101010101u >> 56);
}

// The occupied cells of one sample as readers see them. A column (x, y) is one word: bit z of its
// low `depth` bits is set when the cell is occupied, the bits above hold the rank of its lowest
// cell in the sample. `words` points at column (0, 0) and may be read as far outside the grid as
// any kernel reaches, and kWordSlack words further: zeros lie there.
constexpr int kWordSlack = 4;
struct ColumnView {
  const uint64_t* words;
  int64_t pitch;
  int32_t depth;
  int32_t first_rank;  // of the sample

  uint64_t cell_bits() const { return (uint64_t{1} << depth) - 1; }
};

// The neighbours of every row of a plan, before they become pair lists. A row meets a window of
// kernel[2] cells in each of columns() columns: `first` is the rank of the lowest occupied cell of
// the window, `present` has one bit a row for each cell that is occupied.
struct Windows {
  int32_t* first;     // [tile][column][kTile]
  uint16_t* present;  // [tile][offset][kGroups]
  int columns, taps;

  int offsets() const { return columns * taps; }
  int32_t* first_of(int64_t tile, int column) const {
    return first + (tile * columns + column) * kTile;
  }
  uint16_t* present_of(int64_t tile, int offset) const {
    return present + (tile * offsets() + offset) * kGroups;
  }
};

// Fills the windows of output rows [begin, end), which lie in one tile; `coords` is (M, 4) in
// (b, x, y, z). Rows of a group that lie before `begin` keep their bits.
using FindWindows = void (*)(const ColumnView& cells, const ConvGeometry& geometry,
                             const int32_t* coords, int64_t begin, int64_t end,
                             const Windows& windows);

// Writes the pairs of one tile: list `k` starts at list_start[k]. `row_of_rank` is null when ranks
// are rows.
using EmitPairs = void (*)(const Windows& windows, int64_t tile, const int32_t* list_start,
                           const int32_t* row_of_rank, int32_t* source, int16_t* row);

struct NeighborKernels {
  FindWindows find_windows;
  EmitPairs emit_pairs;
};

NeighborKernels neighbor_kernels_portable();
NeighborKernels neighbor_kernels_avx2();
NeighborKernels neighbor_kernels_avx512();

}  // namespace anybev::sparse_neighbors

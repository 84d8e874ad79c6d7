// sparse_neighbors with AVX-512: sixteen rows at a time through every column of their kernel.

#include "ops/cpu/sparse_neighbors_kernel.h"

#if defined(__x86_64__)
// GCC 12's own headers start vectors from themselves (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

namespace anybev::sparse_neighbors {
namespace {

// Coordinates of sixteen rows, one vector an axis; rows whose lane is off read as zero.
struct Sites {
  __m512i x, y, z;
};

inline Sites load_sites(const int32_t* coords, __mmask16 lanes) {
  __m512i four[4];
  for (int i = 0; i < 4; ++i) {
    // One bit a row becomes four, one an int32 of the row.
    const uint32_t rows = (static_cast<uint32_t>(lanes) >> (4 * i)) & 0xFu;
    const uint32_t spread = (rows & 1u) | (rows & 2u) << 3 | (rows & 4u) << 6 | (rows & 8u) << 9;
    four[i] = _mm512_maskz_loadu_epi32(static_cast<__mmask16>(spread * 0xFu), coords + 16 * i);
  }
  const __m512i step = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
  const auto column = [&](int axis) {
    const __m512i at = _mm512_add_epi32(step, _mm512_set1_epi32(axis));
    const __m512i low = _mm512_permutex2var_epi32(four[0], at, four[1]);
    const __m512i high = _mm512_permutex2var_epi32(four[2], at, four[3]);
    return _mm512_inserti64x4(low, _mm512_castsi512_si256(high), 1);
  };
  return {column(1), column(2), column(3)};
}

// Low or high eight of sixteen int32 as int64.
inline __m512i widen(__m512i v, int half) {
  return _mm512_cvtepi32_epi64(half ? _mm512_extracti64x4_epi64(v, 1) : _mm512_castsi512_si256(v));
}

inline __m512i narrow(__m512i low, __m512i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(low)),
                            _mm512_cvtepi64_epi32(high), 1);
}

// Eight rows in a column: the cells of their windows, and the rank at which these start.
struct Found {
  __m512i window, rank;
};

// Where the windows of eight rows start, in the forms that the words need.
class Start {
 public:
  Start(__m512i z, const ColumnView& cells)
      : cell_bits_(_mm512_set1_epi64(static_cast<int64_t>(cells.cell_bits()))),
        depth_(_mm512_set1_epi64(cells.depth)) {
    const __m512i zero = _mm512_setzero_si512();
    up_ = _mm512_max_epi64(z, zero);
    down_ = _mm512_max_epi64(_mm512_sub_epi64(zero, z), zero);
    // Variable shifts by 64 and more give zero, so every z is right.
    below_ = _mm512_andnot_si512(_mm512_sllv_epi64(_mm512_set1_epi64(-1), up_), cell_bits_);
  }
  Found find(__m512i word) const {
    const __m512i cells = _mm512_and_si512(word, cell_bits_);
    const __m512i count = _mm512_popcnt_epi64(_mm512_and_si512(word, below_));
    return {_mm512_sllv_epi64(_mm512_srlv_epi64(cells, up_), down_),
            _mm512_add_epi64(_mm512_srlv_epi64(word, depth_), count)};
  }

 private:
  __m512i cell_bits_, depth_, up_, down_, below_;
};

// Words of eight rows in up to kStep neighbouring columns.
constexpr int kStep = 4;
struct Columns {
  __m512i word[kStep];
};

// One load a row brings kStep words; a transposition sorts them by column, cheaper than gathering.
inline Columns load_columns(const uint64_t* words, const int32_t* at) {
  const auto rows = [&](int first) {
    const auto* low = reinterpret_cast<const __m256i*>(words + at[first]);
    const auto* high = reinterpret_cast<const __m256i*>(words + at[first + 1]);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(low)),
                              _mm256_loadu_si256(high), 1);
  };
  const __m512i a = rows(0), b = rows(2), c = rows(4), d = rows(6);
  const __m512i first = _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13);
  const __m512i last = _mm512_setr_epi64(2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i low01 = _mm512_permutex2var_epi64(a, first, b);
  const __m512i high01 = _mm512_permutex2var_epi64(c, first, d);
  const __m512i low23 = _mm512_permutex2var_epi64(a, last, b);
  const __m512i high23 = _mm512_permutex2var_epi64(c, last, d);
  return {_mm512_shuffle_i64x2(low01, high01, 0x44), _mm512_shuffle_i64x2(low01, high01, 0xEE),
          _mm512_shuffle_i64x2(low23, high23, 0x44), _mm512_shuffle_i64x2(low23, high23, 0xEE)};
}

void find_group(const ColumnView& cells, const ConvGeometry& g, const int32_t* coords,
                __mmask16 lanes, int64_t tile, int group, const Windows& windows) {
  const Sites site = load_sites(coords, lanes);
  const auto origin = [](__m512i v, int32_t stride, int32_t padding) {
    return _mm512_sub_epi32(_mm512_mullo_epi32(v, _mm512_set1_epi32(stride)),
                            _mm512_set1_epi32(padding));
  };
  const __m512i pitch = _mm512_set1_epi32(static_cast<int32_t>(cells.pitch));
  const __m512i x = origin(site.x, g.stride[0], g.padding[0]);
  alignas(64) int32_t corner[kGroup];
  _mm512_store_si512(corner, _mm512_add_epi32(_mm512_mullo_epi32(x, pitch),
                                              origin(site.y, g.stride[1], g.padding[1])));
  const __m512i z = origin(site.z, g.stride[2], g.padding[2]);
  const Start low(widen(z, 0), cells), high(widen(z, 1), cells);
  const __m512i first_rank = _mm512_set1_epi32(cells.first_rank);
  // The first lane of a group starts its presence words; a later start adds to them.
  const uint16_t keep = lanes & 1 ? 0 : 0xFFFF;
  int32_t* first = windows.first_of(tile, 0) + group * kGroup;
  uint16_t* present = windows.present_of(tile, 0) + group;
  for (int kx = 0; kx < g.kernel[0]; ++kx) {
    for (int from = 0; from < g.kernel[1]; from += kStep) {
      const uint64_t* words = cells.words + kx * cells.pitch + from;
      const Columns below = load_columns(words, corner), above = load_columns(words, corner + 8);
      for (int i = 0; i < kStep && from + i < g.kernel[1]; ++i, first += kTile) {
        const Found a = low.find(below.word[i]), b = high.find(above.word[i]);
        const __m512i rank = _mm512_add_epi32(first_rank, narrow(a.rank, b.rank));
        _mm512_mask_storeu_epi32(first, lanes, rank);
        const __m512i window = narrow(a.window, b.window);
        for (int tap = 0; tap < windows.taps; ++tap, present += kGroups) {
          const __mmask16 bits =
              _mm512_mask_test_epi32_mask(lanes, window, _mm512_set1_epi32(1u << tap));
          *present = static_cast<uint16_t>((*present & keep) | bits);
        }
      }
    }
  }
}

void find_windows(const ColumnView& cells, const ConvGeometry& geometry, const int32_t* coords,
                  int64_t begin, int64_t end, const Windows& windows) {
  const int64_t tile = begin / kTile;
  for (int64_t start = begin / kGroup * kGroup; start < end; start += kGroup) {
    uint32_t lanes = 0xFFFFu;
    if (start < begin) lanes &= 0xFFFFu << (begin - start);
    if (start + kGroup > end) lanes &= 0xFFFFu >> (start + kGroup - end);
    find_group(cells, geometry, coords + 4 * start, static_cast<__mmask16>(lanes), tile,
               static_cast<int>(start % kTile / kGroup), windows);
  }
}

void emit_pairs(const Windows& windows, int64_t tile, const int32_t* list_start,
                const int32_t* row_of_rank, int32_t* source, int16_t* row) {
  const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int column = 0; column < windows.columns; ++column) {
    const int32_t* first = windows.first_of(tile, column);
    __m512i rank[kGroups];
    for (int group = 0; group < kGroups; ++group) {
      rank[group] = _mm512_loadu_si512(first + group * kGroup);
    }
    for (int tap = 0; tap < windows.taps; ++tap) {
      const int offset = column * windows.taps + tap;
      const uint16_t* present = windows.present_of(tile, offset);
      int64_t out = list_start[offset];
      if (list_start[offset + 1] == out) continue;
      for (int group = 0; group < kGroups; ++group) {
        // Empty groups take the same way: there are too many to skip by a branch that guesses.
        const __mmask16 bits = present[group];
        const int count = __builtin_popcount(bits);
        // Masked stores: the cells behind the list belong to another list, maybe another thread.
        const auto kept = static_cast<__mmask16>((1u << count) - 1);
        __m512i found = _mm512_maskz_compress_epi32(bits, rank[group]);
        if (row_of_rank) {
          found = _mm512_mask_i32gather_epi32(found, kept, found, row_of_rank, 4);
        }
        _mm512_mask_storeu_epi32(source + out, kept, found);
        const __m512i local = _mm512_maskz_compress_epi32(
            bits, _mm512_add_epi32(iota, _mm512_set1_epi32(group * kGroup)));
        _mm256_mask_storeu_epi16(row + out, kept, _mm512_cvtepi32_epi16(local));
        out += count;
        rank[group] = _mm512_mask_add_epi32(rank[group], bits, rank[group], _mm512_set1_epi32(1));
      }
    }
  }
}

}  // namespace

NeighborKernels neighbor_kernels_avx512() { return {find_windows, emit_pairs}; }

}  // namespace anybev::sparse_neighbors
#endif

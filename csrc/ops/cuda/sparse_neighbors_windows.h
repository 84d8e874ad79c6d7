// From an index of sites to pair lists, whatever the index. For kernel files.
//
// A row meets a window of kernel[2] cells in each column of its kernel; a warp asks for the windows
// of 32 rows, and a ballot a cell says which of them have a pair there. Counts of ballots, summed
// over all lists in order, say where every pair goes, so nothing depends on the order of threads.
#pragma once

#include "common/cuda/algorithms.h"
#include "common/cuda/device.h"
#include "ops/cuda/sparse_neighbors_kernel.h"

namespace anybev::cuda::sparse_neighbors {

using Word = unsigned long long;

constexpr int kThreads = 256;
constexpr int kWindow = 32;             // cells of a window at once: bits of a word
constexpr int kGroups = kTile / kWarp;  // rows of a warp: a group
constexpr int64_t kSumBlocks = 512;     // of kernels whose warps add to one counter

// Window of a row: bit t of `present` is cell t, `first` the rank of the lowest occupied one.
struct Window {
  unsigned present = 0;
  int32_t first = 0;
};

// The lists of one layer among those of all layers of a call.
struct LayerLists {
  int64_t rows;
  int columns, taps;  // windows a row, cells a window
  int64_t first_list;

  int64_t tiles() const { return tiles_of(rows); }
  __host__ __device__ int parts() const { return (taps + kWindow - 1) / kWindow; }
  int64_t lists() const { return tiles() * columns * taps; }
  dim3 grid() const {
    const int windows = columns * parts();
    return dim3(blocks_for(tiles() * kGroups * kWarp, kThreads), windows < 65535 ? windows : 65535);
  }
};

// One warp's work: a group of rows and up to 32 cells of one of their windows.
struct Piece {
  int column, first_tap, taps;
  int64_t list;  // of its first tap
  int group;     // in its tile

  __device__ Piece(const LayerLists& layer, int64_t group_of_layer, int window) {
    const int parts = layer.parts();
    column = window / parts;
    first_tap = window % parts * kWindow;
    taps = min(kWindow, layer.taps - first_tap);
    group = static_cast<int>(group_of_layer % kGroups);
    list = layer.first_list + group_of_layer / kGroups * layer.columns * layer.taps +
           column * layer.taps + first_tap;
  }
};

__device__ inline unsigned lanes_below(unsigned lane) { return (1u << lane) - 1; }

// presence[list * kGroups + group]: which rows of the group have a pair in the list.
template <class Finder>
__global__ void __launch_bounds__(kThreads)
    find_windows(Finder finder, LayerLists layer, unsigned* presence) {
  const int lane = threadIdx.x % kWarp;
  const int64_t groups = (layer.rows + kTile - 1) / kTile * kGroups;
  for (int window = blockIdx.y; window < layer.columns * layer.parts(); window += gridDim.y) {
    for (int64_t g = first_item() / kWarp; g < groups; g += item_stride() / kWarp) {
      const Piece piece(layer, g, window);
      const int64_t row = g * kWarp + lane;
      unsigned present = 0, mine = 0;
      if (row < layer.rows) {
        present = finder.window(row, piece.column, piece.first_tap, piece.taps).present;
      }
      for (int tap = 0; tap < piece.taps; ++tap) {
        const unsigned rows = __ballot_sync(kFullWarp, present >> tap & 1);
        if (lane == tap) mine = rows;
      }
      if (lane < piece.taps) presence[(piece.list + lane) * kGroups + piece.group] = mine;
    }
  }
}

__device__ inline int count_rows(const uint4& words) {
  return __popc(words.x) + __popc(words.y) + __popc(words.z) + __popc(words.w);
}

static __global__ void __launch_bounds__(kThreads)
    count_pairs(const uint4* presence, int64_t lists, int64_t* pairs) {
  for (int64_t list = first_item(); list < lists; list += item_stride()) {
    pairs[list] = count_rows(presence[list]);
  }
}

// list_end[list]: pairs of all lists up to this one, of which `pairs_before` are other layers'.
template <class Finder>
__global__ void __launch_bounds__(kThreads, 4)
    write_pairs(Finder finder, LayerLists layer, const uint4* presence, const int64_t* list_end,
                int64_t pairs_before, Lists out) {
  const unsigned lane = threadIdx.x % kWarp;
  const int64_t groups = (layer.rows + kTile - 1) / kTile * kGroups;
  for (int window = blockIdx.y; window < layer.columns * layer.parts(); window += gridDim.y) {
    for (int64_t g = first_item() / kWarp; g < groups; g += item_stride() / kWarp) {
      const Piece piece(layer, g, window);
      const int64_t row = g * kWarp + lane;
      // Lane t looks after tap t: which rows have a pair, and where the first of them goes.
      unsigned rows = 0;
      int32_t start = 0;
      if (static_cast<int>(lane) < piece.taps) {
        const int64_t list = piece.list + lane;
        const uint4 words = presence[list];
        const int32_t end = static_cast<int32_t>(list_end[list] - pairs_before);
        if (piece.group == 0) out.tile_ptr[list - layer.first_list + 1] = end;
        if (list == layer.first_list) out.tile_ptr[0] = 0;
        start = end - count_rows(words);
        const unsigned group[kGroups] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          if (i < piece.group) start += __popc(group[i]);
          if (i == piece.group) rows = group[i];
        }
      }
      if (!__any_sync(kFullWarp, rows != 0)) continue;
      Window found;
      if (row < layer.rows) {
        found = finder.window(row, piece.column, piece.first_tap, piece.taps);
      }
      for (int tap = 0; tap < piece.taps; ++tap) {
        const unsigned present = __shfl_sync(kFullWarp, rows, tap);
        const int64_t first = __shfl_sync(kFullWarp, start, tap);
        if (!(present >> lane & 1)) continue;
        const int64_t to = first + __popc(present & lanes_below(lane));
        out.source[to] = finder.row_of(found.first + __popc(found.present & lanes_below(tap)));
        out.row[to] = static_cast<int16_t>(row % kTile);
      }
    }
  }
}

// Lists of all layers of one call.
class ListBuilder {
 public:
  ListBuilder(Context& context, const std::vector<LayerLists>& layers)
      : context_(context), layers_(layers) {
    for (LayerLists& layer : layers_) {
      layer.first_list = lists_;
      lists_ += layer.lists();
    }
    presence_ = context.buffer<uint4>(lists_);
    list_end_ = context.buffer<int64_t>(lists_);
  }

  template <class Finder>
  void find(size_t layer, const Finder& finder) {
    launch(context_, find_windows<Finder>, layers_[layer].grid(), kThreads, 0, finder,
           layers_[layer], reinterpret_cast<unsigned*>(presence_));
  }
  // After every layer's `find`.
  void sum() {
    launch(context_, count_pairs, blocks_for(lists_, kThreads), kThreads, 0, presence_, lists_,
           list_end_);
    inclusive_sum(context_, list_end_, list_end_, lists_);
  }
  template <class Finder>
  void write(size_t layer, const Finder& finder, int64_t pairs_before, const Lists& out) {
    if (layers_[layer].rows == 0) return fill_bytes(context_, out.tile_ptr, 0, sizeof(int32_t));
    launch(context_, write_pairs<Finder>, layers_[layer].grid(), kThreads, 0, finder,
           layers_[layer], presence_, list_end_, pairs_before, out);
  }

  // Device memory; pairs of layers [0, i] are its number at the last list of layer i.
  const int64_t* list_end() const { return list_end_; }
  int64_t lists_up_to(size_t layer) const {
    return layers_[layer].first_list + layers_[layer].lists();
  }

 private:
  Context& context_;
  std::vector<LayerLists> layers_;
  int64_t lists_ = 0;
  uint4* presence_;
  int64_t* list_end_;
};

// The sum over a warp's lanes, added to a counter.
__device__ inline void add_warp_sum(Word value, Word* counter) {
  for (int lanes = kWarp / 2; lanes; lanes /= 2) value += __shfl_down_sync(kFullWarp, value, lanes);
  if (threadIdx.x % kWarp == 0 && value) atomicAdd(counter, value);
}

}  // namespace anybev::cuda::sparse_neighbors

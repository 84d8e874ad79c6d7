// The neighbour table that pair lists stand for, and the same pairs transposed.
#include "ops/cuda/sparse_neighbors_windows.h"

namespace anybev::cuda::sparse_neighbors {
namespace {

// One warp a list: at[row * row_stride + offset * offset_stride] = source, or, turned around,
// at[source * row_stride + offset * offset_stride] = row.
struct Entries {
  int32_t* at;
  int64_t rows, row_stride, offset_stride;
  bool is_turned;
};

__global__ void __launch_bounds__(kThreads)
    enter_pairs(const int32_t* pair_source, const int16_t* pair_row, const int32_t* tile_ptr,
                int64_t lists, int offsets, Entries to) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t list = first_item() / kWarp; list < lists; list += item_stride() / kWarp) {
    const int64_t tile = list / offsets, offset = list % offsets;
    for (int64_t pair = tile_ptr[list] + lane; pair < tile_ptr[list + 1]; pair += kWarp) {
      const int64_t row = tile * kTile + pair_row[pair], source = pair_source[pair];
      const int64_t from = to.is_turned ? row : source, into = to.is_turned ? source : row;
      if (into < 0 || into >= to.rows) continue;
      to.at[into * to.row_stride + offset * to.offset_stride] = static_cast<int32_t>(from);
    }
  }
}

void enter(Context& context, const int32_t* pair_source, const int16_t* pair_row,
           const int32_t* tile_ptr, int64_t tiles, int offsets, const Entries& to) {
  fill_bytes(context, to.at, 0xFF, to.rows * offsets * sizeof(int32_t));  // -1
  const int64_t lists = tiles * offsets;
  launch(context, enter_pairs, blocks_for(lists * kWarp, kThreads), kThreads, 0, pair_source,
         pair_row, tile_ptr, lists, offsets, to);
}

// Windows of one cell: an input feeds one output through an offset.
struct TableFinder {
  const int32_t* output;  // [offset][row], -1 where there is none
  int64_t rows;

  __device__ Window window(int64_t row, int column, int, int) const {
    const int32_t found = output[column * rows + row];
    return {found >= 0 ? 1u : 0u, found};
  }
  __device__ int32_t row_of(int32_t rank) const { return rank; }
};

}  // namespace

void write_table(Context& context, const int32_t* pair_source, const int16_t* pair_row,
                 const int32_t* tile_ptr, int64_t tiles, int offsets, int64_t rows,
                 int32_t* table) {
  enter(context, pair_source, pair_row, tile_ptr, tiles, offsets,
        {table, rows, offsets, 1, /*is_turned=*/false});
}

void transpose_lists(Context& context, const int32_t* pair_source, const int16_t* pair_row,
                     const int32_t* tile_ptr, int64_t tiles, int offsets, int64_t in_rows,
                     const Lists& out) {
  int32_t* output = context.buffer<int32_t>(in_rows * offsets);
  enter(context, pair_source, pair_row, tile_ptr, tiles, offsets,
        {output, in_rows, 1, in_rows, /*is_turned=*/true});
  ListBuilder builder(context, {{in_rows, offsets, 1, 0}});
  const TableFinder finder{output, in_rows};
  builder.find(0, finder);
  builder.sum();
  builder.write(0, finder, 0, out);
}

}  // namespace anybev::cuda::sparse_neighbors

// Plans by columns: one word a column (x, y) of every sample and level, bit z set where the cell is
// occupied. The rank of a cell is that of its column, a running sum of popcounts, plus a popcount:
// nothing is sorted, the cells of an output grid are bit operations on words, and the sizes of all
// results follow from words alone, so that one wait for the device tells all of them.
#include "ops/cuda/sparse_neighbors_columns.h"

namespace anybev::cuda::sparse_neighbors {
namespace {

constexpr int64_t kMaxColumns = int64_t{1} << 26;  // of all levels and samples, 12 bytes each

__global__ void __launch_bounds__(kThreads)
    mark_cells(const int4* coords, int64_t rows, Columns level, Word* cells, Word* row_outside,
               Word* cell_twice) {
  for (int64_t row = first_item(); row < rows; row += item_stride()) {
    const int4 site = coords[row];
    if (!level.holds(site)) {
      atomicMin(row_outside, static_cast<Word>(row));
      continue;
    }
    const int64_t column = level.column(site.x, site.y, site.z);
    const Word bit = Word{1} << site.w;
    if (atomicOr(cells + column, bit) & bit) {
      atomicMin(cell_twice, static_cast<Word>(column * level.z + site.w));
    }
  }
}

__device__ inline Word every_nth_bit(Word v, int n) {
  if (n == 1) return v;
  if (n == 2) {
    v &= 0x5555555555555555u;
    v = (v | v >> 1) & 0x3333333333333333u;
    v = (v | v >> 2) & 0x0F0F0F0F0F0F0F0Fu;
    v = (v | v >> 4) & 0x00FF00FF00FF00FFu;
    v = (v | v >> 8) & 0x0000FFFF0000FFFFu;
    return (v | v >> 16) & 0x00000000FFFFFFFFu;
  }
  Word out = 0;
  for (int from = 0, to = 0; from < kMaxDepth; from += n, ++to) out |= (v >> from & 1) << to;
  return out;
}

// Every output column gathers the input columns that its kernel covers.
__global__ void __launch_bounds__(kThreads, 4)
    reach_cells(Columns in, Columns out, ConvGeometry g, Word* cells) {
  for (int64_t line = blockIdx.y; line < out.batch * out.x; line += gridDim.y) {
    const int64_t b = line / out.x, x0 = line % out.x * g.stride[0] - g.padding[0];
    for (int64_t y = first_item(); y < out.y; y += item_stride()) {
      const int64_t y0 = y * g.stride[1] - g.padding[1];
      Word covered = 0;
      for (int i = 0; i < g.kernel[0]; ++i) {
        for (int j = 0; j < g.kernel[1]; ++j) {
          if (x0 + i < 0 || x0 + i >= in.x || y0 + j < 0 || y0 + j >= in.y) continue;
          covered |= in.cells[in.column(b, x0 + i, y0 + j)];
        }
      }
      Word reached = 0;
      if (covered) {
        for (int tap = 0; tap < g.kernel[2]; ++tap) reached |= moved(covered, g.padding[2] - tap);
      }
      cells[line * out.y + y] = every_nth_bit(reached, g.stride[2]) & cells_below(out.z);
    }
  }
}

// What scans turn into ranks, and the sum over the level.
__global__ void __launch_bounds__(kThreads)
    count_cells(const Word* cells, int64_t columns, int32_t* count, Word* sum) {
  Word own = 0;
  for (int64_t column = first_item(); column < columns; column += item_stride()) {
    const int here = __popcll(cells[column]);
    count[column] = here;
    own += here;
  }
  add_warp_sum(own, sum);
}

// Pairs that the occupied `cells` of one column have in a layer.
__device__ Word pairs_of(const Columns& in, const Shape3& out, const ConvGeometry& g,
                         int64_t column, int64_t x, int64_t y, Word cells) {
  Word pairs = 0;
  if (!g.subm) {
    for (Word left = cells; left; left &= left - 1) {
      pairs += reaching(__ffsll(left) - 1, 2, g, out.z).length();
    }
    return pairs * reaching(x, 0, g, out.x).length() * reaching(y, 1, g, out.y).length();
  }
  for (int i = -g.padding[0]; i <= g.padding[0]; ++i) {
    for (int j = -g.padding[1]; j <= g.padding[1]; ++j) {
      if (x + i < 0 || x + i >= in.x || y + j < 0 || y + j >= in.y) continue;
      const Word there = in.cells[column + i * in.y + j];
      for (int up = -g.padding[2]; there && up <= g.padding[2]; ++up) {
        pairs += __popcll(cells & moved(there, up));
      }
    }
  }
  return pairs;
}

// Pairs of a layer that reads the first level, by its rows: most columns of that one are empty.
__global__ void __launch_bounds__(kThreads)
    count_pairs_of_rows(const int4* coords, int64_t rows, Columns in, Shape3 out, ConvGeometry g,
                        Word* sum) {
  Word own = 0;
  for (int64_t row = first_item(); row < rows; row += item_stride()) {
    const int4 site = coords[row];
    if (!in.holds(site)) continue;
    const int64_t column = in.column(site.x, site.y, site.z);
    own += pairs_of(in, out, g, column, site.y, site.z, Word{1} << site.w);
  }
  add_warp_sum(own, sum);
}

__global__ void __launch_bounds__(kThreads)
    count_pairs_of_columns(Columns in, Shape3 out, ConvGeometry g, Word* sum) {
  Word own = 0;
  for (int64_t column = first_item(); column < in.count(); column += item_stride()) {
    const Word cells = in.cells[column];
    if (!cells) continue;
    own += pairs_of(in, out, g, column, column / in.y % in.x, column % in.y, cells);
  }
  add_warp_sum(own, sum);
}

__global__ void __launch_bounds__(kThreads)
    number_rows(const int4* coords, int64_t rows, Columns level, int32_t* row_of_rank) {
  for (int64_t row = first_item(); row < rows; row += item_stride()) {
    const int4 site = coords[row];
    const int64_t column = level.column(site.x, site.y, site.z);
    const int below = __popcll(level.cells[column] & cells_below(site.w));
    row_of_rank[level.rank[column] + below] = static_cast<int32_t>(row);
  }
}

__global__ void __launch_bounds__(kThreads) write_cells(Columns level, int4* coords) {
  for (int64_t column = first_item(); column < level.count(); column += item_stride()) {
    Word left = level.cells[column];
    if (!left) continue;
    const int64_t line = column / level.y;
    int4 site = make_int4(static_cast<int>(line / level.x), static_cast<int>(line % level.x),
                          static_cast<int>(column % level.y), 0);
    int4* to = coords + (level.rank[column] - level.first_rank);
    for (; left; left &= left - 1) {
      site.w = __ffsll(left) - 1;
      *to++ = site;
    }
  }
}

class ColumnPlanner final : public Planner {
 public:
  ColumnPlanner(Context& context, const int32_t* coords, int64_t rows, const Pyramid& pyramid)
      : context_(context),
        pyramid_(pyramid),
        rows_(rows),
        sites_(pyramid.levels.size(), reinterpret_cast<const int4*>(coords)) {
    for (const auto& level : pyramid.levels) {
      const Shape3& s = level.shape;
      levels_.push_back({nullptr, nullptr, 0, s.x, s.y, s.z, pyramid.batch});
      columns_ += levels_.back().count();
    }
    cells_ = context.buffer<Word>(columns_);
    ranks_ = context.buffer<int32_t>(columns_);
    int64_t first = 0;
    for (Columns& level : levels_) {
      level.cells = cells_ + first;
      level.rank = ranks_ + first;
      first += level.count();
    }
  }

  Counts count() override {
    const int64_t levels = pyramid_.levels.size(), layers = pyramid_.layers.size();
    const int64_t size = 2 + levels + layers;
    Word* sums = context_.buffer<Word>(size);
    fill_bytes(context_, sums, 0xFF, 2 * sizeof(Word));
    fill_bytes(context_, sums + 2, 0, (size - 2) * sizeof(Word));
    fill_bytes(context_, cells_, 0, levels_[0].count() * sizeof(Word));
    launch(context_, mark_cells, blocks_for(rows_, kThreads), kThreads, 0, sites_[0], rows_,
           levels_[0], cells_, sums, sums + 1);
    for (const Layer& layer : pyramid_.layers) {
      if (!layer.geometry.subm) reach(levels_[layer.level], levels_[layer.level + 1], layer);
    }
    for (int64_t i = 0; i < levels; ++i) {
      const Columns& level = levels_[i];
      launch(context_, count_cells, blocks_for(level.count(), kThreads, kSumBlocks), kThreads, 0,
             level.cells, level.count(), ranks_ + (level.rank - ranks_), sums + 2 + i);
    }
    for (int64_t i = 0; i < layers; ++i) {
      const Layer& layer = pyramid_.layers[i];
      const Columns& in = levels_[layer.level];
      const Shape3& out = pyramid_.levels[layer.out_level()].shape;
      Word* sum = sums + 2 + levels + i;
      if (layer.level == 0) {
        launch(context_, count_pairs_of_rows, blocks_for(rows_, kThreads, kSumBlocks), kThreads, 0,
               sites_[0], rows_, in, out, layer.geometry, sum);
      } else {
        launch(context_, count_pairs_of_columns, blocks_for(in.count(), kThreads, kSumBlocks),
               kThreads, 0, in, out, layer.geometry, sum);
      }
    }
    std::vector<Word> host(size);
    read_back(context_, host.data(), sums, size);
    counts_.row_outside = host[0], counts_.cell_twice = host[1];
    counts_.sites.assign(host.begin() + 2, host.begin() + 2 + levels);
    counts_.pairs.assign(host.begin() + 2 + levels, host.end());
    return counts_;
  }

  void write_coords(size_t level, int32_t* coords) override {
    number_cells();
    int4* to = reinterpret_cast<int4*>(coords);
    launch(context_, write_cells, blocks_for(levels_[level].count(), kThreads), kThreads, 0,
           levels_[level], to);
    sites_[level] = to;
  }

  void write_lists(const std::vector<Lists>& lists) override {
    number_cells();
    int32_t* row_of_rank = context_.buffer<int32_t>(rows_);
    launch(context_, number_rows, blocks_for(rows_, kThreads), kThreads, 0, sites_[0], rows_,
           levels_[0], row_of_rank);
    std::vector<LayerLists> shapes;
    std::vector<ColumnFinder> finders;
    for (const Layer& layer : pyramid_.layers) {
      const ConvGeometry& g = layer.geometry;
      shapes.push_back({counts_.sites[layer.out_level()], g.columns(), g.kernel[2], 0});
      finders.push_back({levels_[layer.level], g, sites_[layer.out_level()],
                         layer.level == 0 ? row_of_rank : nullptr});
    }
    ListBuilder builder(context_, shapes);
    for (size_t i = 0; i < finders.size(); ++i) builder.find(i, finders[i]);
    builder.sum();
    int64_t before = 0;
    for (size_t i = 0; i < finders.size(); ++i) {
      builder.write(i, finders[i], before, lists[i]);
      before += counts_.pairs[i];
    }
  }

 private:
  void reach(const Columns& in, const Columns& out, const Layer& layer) {
    const int64_t lines = out.batch * out.x;
    const dim3 grid(blocks_for(out.y, kThreads), static_cast<unsigned>(min(lines, int64_t{65535})));
    launch(context_, reach_cells, grid, kThreads, 0, in, out, layer.geometry,
           cells_ + (out.cells - cells_));
  }

  // Counts of cells to ranks, once the host knows where each level's begin.
  void number_cells() {
    if (numbered_) return;
    numbered_ = true;
    exclusive_sum(context_, ranks_, ranks_, columns_);
    int64_t before = 0;
    for (size_t i = 0; i < levels_.size(); ++i) {
      levels_[i].first_rank = static_cast<int32_t>(before);
      before += counts_.sites[i];
    }
  }

  Context& context_;
  const Pyramid& pyramid_;
  int64_t rows_, columns_ = 0;
  std::vector<const int4*> sites_;
  std::vector<Columns> levels_;
  Word* cells_;
  int32_t* ranks_;
  Counts counts_;
  bool numbered_ = false;
};

}  // namespace

bool fits_columns(const Pyramid& pyramid) {
  int64_t left = kMaxColumns / pyramid.batch;
  for (const auto& level : pyramid.levels) {
    if (level.shape.z > kMaxDepth || level.shape.x > left / level.shape.y) return false;
    left -= level.shape.x * level.shape.y;
  }
  for (const Layer& layer : pyramid.layers) {
    // Outputs are found by moving cells up by the padding.
    const ConvGeometry& g = layer.geometry;
    if (pyramid.levels[layer.level].shape.z + g.padding[2] > kMaxDepth) return false;
  }
  return true;
}

std::unique_ptr<Planner> plan_by_columns(Context& context, const int32_t* coords, int64_t rows,
                                         const Pyramid& pyramid) {
  return std::make_unique<ColumnPlanner>(context, coords, rows, pyramid);
}

}  // namespace anybev::cuda::sparse_neighbors

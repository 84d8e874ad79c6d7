// Plans by sorted 64-bit numbers of cells, for grids that column words do not hold: deeper than 64
// cells, or too wide. A window is one binary search and a walk.
#include <limits>

#include "ops/cuda/sparse_neighbors_windows.h"

namespace anybev::cuda::sparse_neighbors {
namespace {

// Cells of a batch, numbered as (b, x, y, z) ascend.
struct Cells {
  int64_t batch, x, y, z;

  __host__ __device__ Word count() const { return static_cast<Word>(batch) * x * y * z; }
  __device__ Word key(int64_t b, int64_t i, int64_t j, int64_t k) const {
    return static_cast<Word>(((b * x + i) * y + j) * z + k);
  }
  __device__ int4 site(Word key) const {
    const int64_t cell = static_cast<int64_t>(key), column = cell / z, line = column / y;
    return make_int4(static_cast<int>(line / x), static_cast<int>(line % x),
                     static_cast<int>(column % y), static_cast<int>(cell % z));
  }
};

__global__ void __launch_bounds__(kThreads)
    number_sites(const int4* coords, int64_t rows, Cells cells, Word* key, int32_t* number,
                 Word* row_outside) {
  for (int64_t row = first_item(); row < rows; row += item_stride()) {
    const int4 site = coords[row];
    number[row] = static_cast<int32_t>(row);
    const bool inside = site.x >= 0 && site.x < cells.batch && site.y >= 0 && site.y < cells.x &&
                        site.z >= 0 && site.z < cells.y && site.w >= 0 && site.w < cells.z;
    key[row] = inside ? cells.key(site.x, site.y, site.z, site.w) : 0;
    if (!inside) atomicMin(row_outside, static_cast<Word>(row));
  }
}

__global__ void __launch_bounds__(kThreads)
    find_twice(const Word* key, int64_t rows, Word* cell_twice) {
  for (int64_t i = first_item() + 1; i < rows; i += item_stride()) {
    if (key[i] == key[i - 1]) atomicMin(cell_twice, key[i]);
  }
}

// Every site's places among the outputs that it may reach: their keys, or one past the last key.
__global__ void __launch_bounds__(kThreads)
    reach_outputs(const int4* sites, int64_t rows, ConvGeometry g, int fan_x, int fan_y, int fan_z,
                  Cells out, Word* key) {
  const int64_t fan = int64_t{fan_x} * fan_y * fan_z;
  for (int64_t i = first_item(); i < rows * fan; i += item_stride()) {
    const int4 site = sites[i / fan];
    const int slot = static_cast<int>(i % fan);
    const auto xs = reaching(site.y, 0, g, out.x);
    const auto ys = reaching(site.z, 1, g, out.y);
    const auto zs = reaching(site.w, 2, g, out.z);
    const int64_t x = xs.first + slot / fan_z / fan_y, y = ys.first + slot / fan_z % fan_y;
    const int64_t z = zs.first + slot % fan_z;
    const bool reached = x <= xs.last && y <= ys.last && z <= zs.last;
    key[i] = reached ? out.key(site.x, x, y, z) : out.count();
  }
}

__global__ void __launch_bounds__(kThreads)
    mark_first(const Word* key, int64_t count, Word limit, int64_t* is_first) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    is_first[i] = key[i] < limit && (i == 0 || key[i] != key[i - 1]);
  }
}

// place[i]: distinct keys up to the i-th.
__global__ void __launch_bounds__(kThreads)
    keep_first(const Word* key, const int64_t* place, int64_t count, Cells cells, Word* kept,
               int4* coords) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    if (place[i] == (i ? place[i - 1] : 0)) continue;
    kept[place[i] - 1] = key[i];
    coords[place[i] - 1] = cells.site(key[i]);
  }
}

struct KeyFinder {
  Cells in;
  const Word* key;  // ascending
  int64_t count;
  ConvGeometry g;
  const int4* sites;           // of the outputs
  const int32_t* row_of_rank;  // null where ranks are rows

  __device__ int64_t lower_bound(Word wanted) const {
    int64_t low = 0;
    for (int64_t left = count; left > 0;) {
      const int64_t half = left / 2;
      if (key[low + half] < wanted) {
        low += half + 1;
        left -= half + 1;
      } else {
        left = half;
      }
    }
    return low;
  }
  __device__ Window window(int64_t row, int column, int first_tap, int taps) const {
    const int4 site = sites[row];
    const int64_t x = int64_t{site.y} * g.stride[0] - g.padding[0] + column / g.kernel[1];
    const int64_t y = int64_t{site.z} * g.stride[1] - g.padding[1] + column % g.kernel[1];
    const int64_t z = int64_t{site.w} * g.stride[2] - g.padding[2] + first_tap;
    const int64_t low = max(z, int64_t{0}), high = min(z + taps, in.z);
    Window found;
    if (x < 0 || x >= in.x || y < 0 || y >= in.y || low >= high) return found;
    const Word start = in.key(site.x, x, y, low), stop = start + (high - low);
    int64_t at = lower_bound(start);
    found.first = static_cast<int32_t>(at);
    for (; at < count && key[at] < stop; ++at) found.present |= 1u << (key[at] - start + low - z);
    return found;
  }
  __device__ int32_t row_of(int32_t rank) const { return row_of_rank ? row_of_rank[rank] : rank; }
};

int bits_of(Word largest) {
  int bits = 0;
  for (; largest; largest >>= 1) ++bits;
  return bits;
}

class KeyPlanner final : public Planner {
 public:
  KeyPlanner(Context& context, const int32_t* coords, int64_t rows, const Pyramid& pyramid)
      : context_(context),
        pyramid_(pyramid),
        facts_(context.buffer<Word>(3 + pyramid.layers.size())) {
    levels_.push_back({cells_of(0), reinterpret_cast<const int4*>(coords), rows, nullptr, nullptr});
  }

  Counts count() override {
    counts_.sites.push_back(levels_[0].rows);
    number_rows(levels_[0]);
    for (const Layer& layer : pyramid_.layers) {
      if (layer.geometry.subm) continue;
      if (!add_level(layer)) return counts_;
    }
    std::vector<LayerLists> shapes;
    for (const Layer& layer : pyramid_.layers) {
      const ConvGeometry& g = layer.geometry;
      shapes.push_back({levels_[layer.out_level()].rows, g.columns(), g.kernel[2], 0});
      finders_.push_back(finder(layer));
    }
    builder_ = std::make_unique<ListBuilder>(context_, shapes);
    for (size_t i = 0; i < finders_.size(); ++i) builder_->find(i, finders_[i]);
    builder_->sum();
    read_counts();
    return counts_;
  }

  void write_coords(size_t level, int32_t* coords) override {
    copy_on_device(context_, reinterpret_cast<int4*>(coords), levels_[level].sites,
                   levels_[level].rows);
  }

  void write_lists(const std::vector<Lists>& lists) override {
    int64_t before = 0;
    for (size_t i = 0; i < finders_.size(); ++i) {
      builder_->write(i, finders_[i], before, lists[i]);
      before += counts_.pairs[i];
    }
  }

 private:
  struct Sites {
    Cells cells;
    const int4* sites;
    int64_t rows;
    Word* key;             // ascending
    int32_t* row_of_rank;  // of the first level
  };

  Cells cells_of(size_t level) const {
    const Shape3& s = pyramid_.levels[level].shape;
    return {pyramid_.batch, s.x, s.y, s.z};
  }
  KeyFinder finder(const Layer& layer) const {
    const Sites& in = levels_[layer.level];
    return {in.cells,      in.key, in.rows, layer.geometry, levels_[layer.out_level()].sites,
            in.row_of_rank};
  }

  void number_rows(Sites& level) {
    fill_bytes(context_, facts_, 0xFF, 2 * sizeof(Word));
    Word* key = context_.buffer<Word>(level.rows);
    int32_t* number = context_.buffer<int32_t>(level.rows);
    level.key = context_.buffer<Word>(level.rows);
    level.row_of_rank = context_.buffer<int32_t>(level.rows);
    const unsigned blocks = blocks_for(level.rows, kThreads);
    launch(context_, number_sites, blocks, kThreads, 0, level.sites, level.rows, level.cells, key,
           number, facts_);
    sort_pairs(context_, key, level.key, number, level.row_of_rank, level.rows, 0,
               bits_of(level.cells.count() - 1));
    launch(context_, find_twice, blocks, kThreads, 0, level.key, level.rows, facts_ + 1);
  }

  // The outputs of a strided layer as the next level: distinct keys of all places reached. False
  // when the call ends here.
  bool add_level(const Layer& layer) {
    const Sites& in = levels_[layer.level];
    const ConvGeometry& g = layer.geometry;
    const Cells out = cells_of(layer.level + 1);
    int fan[3];
    for (int axis = 0; axis < 3; ++axis) fan[axis] = (g.kernel[axis] - 1) / g.stride[axis] + 1;
    const int64_t places = in.rows * fan[0] * fan[1] * fan[2];
    const unsigned blocks = blocks_for(places, kThreads);
    Word *key = context_.buffer<Word>(places), *sorted = context_.buffer<Word>(places);
    int64_t* place = context_.buffer<int64_t>(places);
    launch(context_, reach_outputs, blocks, kThreads, 0, in.sites, in.rows, g, fan[0], fan[1],
           fan[2], out, key);
    sort_keys(context_, key, sorted, places, 0, bits_of(out.count()));
    launch(context_, mark_first, blocks, kThreads, 0, sorted, places, out.count(), place);
    inclusive_sum(context_, place, place, places);
    fill_bytes(context_, facts_ + 2, 0, sizeof(Word));
    if (places)
      copy_on_device(context_, facts_ + 2, reinterpret_cast<Word*>(place) + places - 1, 1);
    const int64_t rows = static_cast<int64_t>(read_facts(1)[2]);
    counts_.sites.push_back(rows);
    if (counts_.is_refused() || rows > std::numeric_limits<int32_t>::max()) return false;
    Sites level{out, nullptr, rows, context_.buffer<Word>(rows), nullptr};
    int4* coords = context_.buffer<int4>(rows);
    level.sites = coords;
    launch(context_, keep_first, blocks, kThreads, 0, sorted, place, places, out, level.key,
           coords);
    levels_.push_back(level);
    return true;
  }

  void read_counts() {
    const size_t layers = finders_.size();
    fill_bytes(context_, facts_ + 2, 0, layers * sizeof(Word));
    for (size_t i = 0; i < layers; ++i) {
      const int64_t lists = builder_->lists_up_to(i);
      if (lists == 0) continue;
      const auto* end = reinterpret_cast<const Word*>(builder_->list_end() + lists - 1);
      copy_on_device(context_, facts_ + 2 + i, end, 1);
    }
    const std::vector<Word> facts = read_facts(layers);
    Word before = 0;
    for (size_t i = 0; i < layers; ++i) {
      counts_.pairs.push_back(static_cast<int64_t>(facts[2 + i] - before));
      before = facts[2 + i];
    }
  }

  // What is wrong with the rows, then `more` numbers.
  std::vector<Word> read_facts(size_t more) {
    std::vector<Word> facts(2 + more);
    read_back(context_, facts.data(), facts_, static_cast<int64_t>(facts.size()));
    counts_.row_outside = facts[0], counts_.cell_twice = facts[1];
    return facts;
  }

  Context& context_;
  const Pyramid& pyramid_;
  Word* facts_;  // first row outside, lowest cell twice, then counts
  std::vector<Sites> levels_;
  std::vector<KeyFinder> finders_;
  std::unique_ptr<ListBuilder> builder_;
  Counts counts_;
};

}  // namespace

std::unique_ptr<Planner> plan_by_keys(Context& context, const int32_t* coords, int64_t rows,
                                      const Pyramid& pyramid) {
  return std::make_unique<KeyPlanner>(context, coords, rows, pyramid);
}

}  // namespace anybev::cuda::sparse_neighbors

#include "ops/cpu/sparse_neighbors_keys.h"

#include <algorithm>
#include <numeric>

namespace anybev::sparse_neighbors {

SortedSites::SortedSites(const int32_t* coords, int64_t rows, const Shape3& shape)
    : shape_(shape), keys_(static_cast<size_t>(rows)) {
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t* site = coords + 4 * i;
    keys_[i] = key(site[0], site[1], site[2], site[3]);
  }
  if (std::is_sorted(keys_.begin(), keys_.end())) return;
  rows_.resize(keys_.size());
  std::iota(rows_.begin(), rows_.end(), 0);
  std::sort(rows_.begin(), rows_.end(), [&](int32_t a, int32_t b) { return keys_[a] < keys_[b]; });
  std::vector<int64_t> sorted(keys_.size());
  for (size_t i = 0; i < sorted.size(); ++i) sorted[i] = keys_[rows_[i]];
  keys_.swap(sorted);
}

int64_t SortedSites::duplicate() const {
  const auto twice = std::adjacent_find(keys_.begin(), keys_.end());
  if (twice == keys_.end()) return -1;
  const int64_t rank = twice - keys_.begin();
  return rows_.empty() ? rank : rows_[rank];
}

std::vector<int32_t> SortedSites::reached(const ConvGeometry& g) const {
  const Shape3 out = output_shape(shape_, g);
  std::vector<int64_t> found;
  for (const int64_t site : keys_) {
    const int64_t column = site / shape_.z, row = column / shape_.y;
    const Span xs = reaching(row % shape_.x, 0, g, out.x);
    const Span ys = reaching(column % shape_.y, 1, g, out.y);
    const Span zs = reaching(site % shape_.z, 2, g, out.z);
    const int64_t sample = row / shape_.x;
    for (int64_t x = xs.first; x <= xs.last; ++x) {
      for (int64_t y = ys.first; y <= ys.last; ++y) {
        for (int64_t z = zs.first; z <= zs.last; ++z) {
          found.push_back(((sample * out.x + x) * out.y + y) * out.z + z);
        }
      }
    }
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  std::vector<int32_t> coords;
  coords.reserve(4 * found.size());
  for (const int64_t cell : found) {
    const int64_t column = cell / out.z, row = column / out.y;
    for (const int64_t value : {row / out.x, row % out.x, column % out.y, cell % out.z}) {
      coords.push_back(static_cast<int32_t>(value));
    }
  }
  return coords;
}

int64_t SortedSites::lower_bound(int64_t wanted, int64_t hint) const {
  const int64_t count = static_cast<int64_t>(keys_.size());
  int64_t low = hint, high = hint;
  if (hint < count && keys_[hint] < wanted) {
    for (int64_t step = 1; high < count && keys_[high] < wanted; step *= 2) {
      low = high + 1;
      high += step;
    }
    high = std::min(high, count);
  } else if (hint > 0 && keys_[hint - 1] >= wanted) {
    low = 0;
  }
  return std::lower_bound(keys_.begin() + low, keys_.begin() + high, wanted) - keys_.begin();
}

void SortedSites::find_windows(const ConvGeometry& g, const int32_t* coords, int64_t begin,
                               int64_t end, const Windows& windows) const {
  const int64_t tile = begin / kTile, count = static_cast<int64_t>(keys_.size());
  for (int column = 0; column < windows.columns; ++column) {
    uint16_t* present = windows.present_of(tile, column * windows.taps);
    std::fill_n(present, windows.taps * kGroups, uint16_t{0});
    int64_t rank = 0;
    for (int64_t m = begin; m < end; ++m) {
      const int32_t* site = coords + 4 * m;
      const int64_t x = int64_t{site[1]} * g.stride[0] - g.padding[0] + column / g.kernel[1];
      const int64_t y = int64_t{site[2]} * g.stride[1] - g.padding[1] + column % g.kernel[1];
      if (x < 0 || x >= shape_.x || y < 0 || y >= shape_.y) continue;
      const int64_t z = int64_t{site[3]} * g.stride[2] - g.padding[2];
      const int64_t low = std::max<int64_t>(z, 0), high = std::min(z + windows.taps, shape_.z);
      if (low >= high) continue;
      const int64_t start = key(site[0], x, y, low), stop = start + high - low;
      rank = lower_bound(start, rank);
      const int row = static_cast<int>(m % kTile);
      windows.first_of(tile, column)[row] = static_cast<int32_t>(rank);
      for (int64_t at = rank; at < count && keys_[at] < stop; ++at) {
        const int64_t tap = keys_[at] - start + low - z;
        present[tap * kGroups + row / kGroup] |= static_cast<uint16_t>(1u << row % kGroup);
      }
    }
  }
}

}  // namespace anybev::sparse_neighbors

// CUB's stable sort of pairs.
#pragma once

#include <numeric>
#include <vector>

#include "cuda_runtime.h"

namespace cub {

struct DeviceRadixSort {
  template <class Key, class Value>
  static cudaError_t SortPairs(void* scratch, size_t& bytes, const Key* keys, Key* sorted_keys,
                               const Value* values, Value* sorted_values, int64_t count,
                               int begin_bit, int end_bit, cudaStream_t) {
    bytes = 1;
    if (!scratch) return cudaSuccess;
    using Bits = std::make_unsigned_t<Key>;
    const int width = end_bit - begin_bit, all = static_cast<int>(sizeof(Key) * 8);
    const Bits mask = width >= all ? ~Bits(0) : static_cast<Bits>((Bits(1) << width) - 1);
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return (static_cast<Bits>(keys[a]) >> begin_bit & mask) <
             (static_cast<Bits>(keys[b]) >> begin_bit & mask);
    });
    for (int64_t i = 0; i < count; ++i) {
      sorted_keys[i] = keys[order[i]];
      sorted_values[i] = values[order[i]];
    }
    return cudaSuccess;
  }
  template <class Key>
  static cudaError_t SortKeys(void* scratch, size_t& bytes, const Key* keys, Key* sorted_keys,
                              int64_t count, int begin_bit, int end_bit, cudaStream_t stream) {
    std::vector<Key> unused(count);
    return SortPairs(scratch, bytes, keys, sorted_keys, keys, unused.data(), count, begin_bit,
                     end_bit, stream);
  }
};

}  // namespace cub

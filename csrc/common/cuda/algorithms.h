// Device-wide algorithms with their scratch memory taken from the context: CUB's.
#pragma once

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "common/cuda/device.h"

namespace anybev::cuda {

// out[i] = in[0] + ... + in[i - 1], summed as T; in and out may be the same.
template <class T>
void exclusive_sum(Context& context, const T* in, T* out, int64_t count) {
  if (count == 0) return;
  size_t bytes = 0;
  check(cub::DeviceScan::ExclusiveSum(nullptr, bytes, in, out, count, context.stream), "scan");
  void* scratch = context.allocate(bytes);
  check(cub::DeviceScan::ExclusiveSum(scratch, bytes, in, out, count, context.stream), "scan");
}

// out[i] = in[0] + ... + in[i], likewise.
template <class T>
void inclusive_sum(Context& context, const T* in, T* out, int64_t count) {
  if (count == 0) return;
  size_t bytes = 0;
  check(cub::DeviceScan::InclusiveSum(nullptr, bytes, in, out, count, context.stream), "scan");
  void* scratch = context.allocate(bytes);
  check(cub::DeviceScan::InclusiveSum(scratch, bytes, in, out, count, context.stream), "scan");
}

// Stable ascending sort of unsigned keys with values, by bits [begin_bit, end_bit) of the keys.
template <class Key, class Value>
void sort_pairs(Context& context, const Key* keys, Key* sorted_keys, const Value* values,
                Value* sorted_values, int64_t count, int begin_bit, int end_bit) {
  if (count == 0) return;
  size_t bytes = 0;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, sorted_keys, values, sorted_values,
                                        count, begin_bit, end_bit, context.stream),
        "sort");
  void* scratch = context.allocate(bytes);
  check(cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, sorted_keys, values, sorted_values,
                                        count, begin_bit, end_bit, context.stream),
        "sort");
}

// The same for keys alone.
template <class Key>
void sort_keys(Context& context, const Key* keys, Key* sorted_keys, int64_t count, int begin_bit,
               int end_bit) {
  if (count == 0) return;
  size_t bytes = 0;
  check(cub::DeviceRadixSort::SortKeys(nullptr, bytes, keys, sorted_keys, count, begin_bit, end_bit,
                                       context.stream),
        "sort");
  void* scratch = context.allocate(bytes);
  check(cub::DeviceRadixSort::SortKeys(scratch, bytes, keys, sorted_keys, count, begin_bit, end_bit,
                                       context.stream),
        "sort");
}

}  // namespace anybev::cuda

// Stable radix sort of as many pairs as a number in device memory says: the host, which CUB's sort
// would have to tell, need not wait for that number.
#pragma once

#include "common/cuda/algorithms.h"

namespace anybev::cuda {

struct Pairs {
  uint32_t* keys;
  uint32_t* values;
};

namespace counted_sort {

constexpr int kThreads = 256, kDigitBits = 9, kDigits = 1 << kDigitBits;
constexpr int64_t kMostBlocks = 256, kBlockPairs = 2048;

// Pairs of this block: as many as of any other, in order.
struct Share {
  int64_t begin, end;
};
__device__ inline Share share_of(int64_t count) {
  const int64_t each = (count + gridDim.x - 1) / gridDim.x, begin = each * blockIdx.x;
  return {begin, min(begin + each, count)};
}

// counts[digit * blocks + block]: pairs of the block with that digit.
template <int kThreadsOfBlock>
__global__ void __launch_bounds__(kThreadsOfBlock)
    count_digits(const uint32_t* keys, const uint32_t* count, int shift, uint32_t* counts) {
  ANYBEV_SHARED(uint32_t, own, kDigits);
  for (int d = threadIdx.x; d < kDigits; d += kThreadsOfBlock) own[d] = 0;
  __syncthreads();
  const Share share = share_of(*count);
  for (int64_t i = share.begin + threadIdx.x; i < share.end; i += kThreadsOfBlock) {
    atomicAdd(&own[keys[i] >> shift & (kDigits - 1)], 1u);
  }
  __syncthreads();
  for (int d = threadIdx.x; d < kDigits; d += kThreadsOfBlock) {
    counts[static_cast<int64_t>(d) * gridDim.x + blockIdx.x] = own[d];
  }
}

// Warps take their turns, so pairs of one digit keep their order.
template <int kThreadsOfBlock>
__global__ void __launch_bounds__(kThreadsOfBlock)
    move_pairs(Pairs from, const uint32_t* count, int shift, const uint32_t* places, Pairs to) {
  ANYBEV_SHARED(uint32_t, next, kDigits);
  for (int d = threadIdx.x; d < kDigits; d += kThreadsOfBlock) {
    next[d] = places[static_cast<int64_t>(d) * gridDim.x + blockIdx.x];
  }
  __syncthreads();
  const Share share = share_of(*count);
  const unsigned lane = threadIdx.x % kWarp, own_turn = threadIdx.x / kWarp;
  for (int64_t first = share.begin; first < share.end; first += kThreadsOfBlock) {
    const int64_t i = first + threadIdx.x;
    const bool there = i < share.end;
    const uint32_t key = there ? from.keys[i] : 0;
    const unsigned digit = there ? key >> shift & (kDigits - 1) : kDigits;
    const unsigned same = __match_any_sync(kFullWarp, digit);
    const unsigned leader = __ffs(same) - 1;
    uint32_t place = 0;
    for (unsigned turn = 0; turn < kThreadsOfBlock / kWarp; ++turn) {
      if (first + turn * kWarp >= share.end) break;
      if (turn == own_turn && lane == leader && there) {
        place = next[digit];
        next[digit] = place + __popc(same);
      }
      __syncthreads();
    }
    place = __shfl_sync(kFullWarp, place, leader) + __popc(same & ((1u << lane) - 1));
    if (!there) continue;
    to.keys[place] = key;
    to.values[place] = from.values[i];
  }
}

}  // namespace counted_sort

// Ascending by the low `bits` of the keys. `most`: what *count, in device memory, cannot exceed.
// Both buffers are used; the one that is returned holds the result.
inline Pairs sort_counted(Context& context, Pairs from, Pairs other, const uint32_t* count,
                          int64_t most, int bits) {
  using namespace counted_sort;
  const unsigned blocks = blocks_for(most, kBlockPairs, kMostBlocks);
  const int64_t counters = int64_t{kDigits} * blocks;
  uint32_t* counts = context.buffer<uint32_t>(counters);
  for (int shift = 0; shift < bits; shift += kDigitBits) {
    launch(context, count_digits<kThreads>, blocks, kThreads, 0, from.keys, count, shift, counts);
    exclusive_sum(context, counts, counts, counters);
    launch(context, move_pairs<kThreads>, blocks, kThreads, 0, from, count, shift, counts, other);
    std::swap(from, other);
  }
  return from;
}

}  // namespace anybev::cuda

// Stable sort of 64-bit words by some of their bits, on all threads.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace anybev {

// Sorts `words` by their bits [low, high); words whose bits there are equal keep their order, so
// the result is one and the same for any number of threads. `scratch` is resized as needed.
inline void radix_sort(std::vector<uint64_t>& words, std::vector<uint64_t>& scratch, int low,
                       int high) {
  constexpr int kWidestDigit = 11;  // counters of a digit fit a first-level cache
  constexpr int64_t kWordsPerChunk = 1 << 14;
  const auto count = static_cast<int64_t>(words.size());
  const int passes = (high - low + kWidestDigit - 1) / kWidestDigit;
  if (count == 0 || passes == 0) return;
  const int width = (high - low + passes - 1) / passes;
  const int64_t digits = int64_t{1} << width;
  const int64_t chunks = std::clamp<int64_t>(count / kWordsPerChunk, 1, at::get_num_threads());
  const auto bound = [&](int64_t chunk) { return count * chunk / chunks; };
  scratch.resize(words.size());
  std::vector<int64_t> place(static_cast<size_t>(chunks * digits));  // by chunk, then digit

  for (int shift = low; shift < high; shift += width) {
    const uint64_t* const from = words.data();
    uint64_t* const to = scratch.data();
    const uint64_t mask = (uint64_t{1} << std::min(width, high - shift)) - 1;
    const auto digit = [&](uint64_t word) { return word >> shift & mask; };
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        int64_t* const mine = place.data() + chunk * digits;
        std::fill_n(mine, digits, int64_t{0});
        const int64_t last = bound(chunk + 1);
        for (int64_t i = bound(chunk); i < last; ++i) ++mine[digit(from[i])];
      }
    });
    int64_t before = 0;
    for (int64_t d = 0; d < digits; ++d) {
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        int64_t& slot = place[chunk * digits + d];
        const int64_t here = slot;
        slot = before;
        before += here;
      }
    }
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        int64_t* const mine = place.data() + chunk * digits;
        const int64_t last = bound(chunk + 1);
        for (int64_t i = bound(chunk); i < last; ++i) to[mine[digit(from[i])]++] = from[i];
      }
    });
    words.swap(scratch);
  }
}

}  // namespace anybev

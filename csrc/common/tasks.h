// Loops over tasks of unequal size.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace anybev {

// Workers that for_each_task uses at most; one when everything fits in one claim.
inline int64_t worker_count(int64_t tasks, int64_t claim) {
  return std::max<int64_t>(1,
                           std::min<int64_t>(at::get_num_threads(), (tasks + claim - 1) / claim));
}

// Calls body(task, worker) once for every task; idle workers claim the next `claim` tasks, so which
// worker runs a task is not fixed: a body owns what it writes, and keeps scratch per worker.
template <class Body>
void for_each_task(int64_t tasks, int64_t claim, const Body& body) {
  const int64_t workers = worker_count(tasks, claim);
  std::atomic<int64_t> next{0};
  at::parallel_for(0, workers, 1, [&](int64_t worker, int64_t) {
    for (int64_t first; (first = next.fetch_add(claim)) < tasks;) {
      const int64_t last = std::min(tasks, first + claim);
      for (int64_t task = first; task < last; ++task) body(task, worker);
    }
  });
}

}  // namespace anybev

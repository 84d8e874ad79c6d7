// Threads of a block as fibers that switch at barriers and warp-wide calls.
#include <setjmp.h>
#include <ucontext.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace anybev::emulation {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr unsigned kLanes = 32, kMostThreads = 1024;
constexpr unsigned char kPoison = 0xCB;

enum class State { ready, at_block_barrier, at_exchange, done };

struct Fiber {
  std::unique_ptr<unsigned char[]> stack;
  ucontext_t start;
  jmp_buf here;
  bool started = false;
  State state = State::done;
  uint3 index;
  unsigned number = 0, mask = 0, met = 0;
  Slot given;
};

// One block runs at a time, and one kernel: the emulator is for tests.
struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Slot> slots;  // by thread of the block
  std::vector<unsigned char> shared;
  std::vector<std::pair<void*, size_t>> fixed;  // shared memory of a size that the kernel fixes
  const char* fault = nullptr;
  const std::function<void()>* body = nullptr;
  Fiber* current = nullptr;
  jmp_buf scheduler;
  unsigned threads = 0;
  int votes = 0, voters = 0, counted = 0, asked = 0;
  std::mt19937 random{std::random_device::result_type(
      std::getenv("ANYBEV_EMULATION_SEED") ? std::atoi(std::getenv("ANYBEV_EMULATION_SEED")) : 0)};
};
Machine machine;

void wait(State state) {
  machine.current->state = state;
  if (_setjmp(machine.current->here) == 0) _longjmp(machine.scheduler, 1);
}

void fiber_main() {
  for (;;) {
    (*machine.body)();
    wait(State::done);
  }
}

void resume(Fiber& fiber) {
  machine.current = &fiber;
  thread_index = fiber.index;
  if (_setjmp(machine.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  fiber.stack.reset(new unsigned char[kStackBytes]);
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
  setcontext(&fiber.start);
}

// Lets go every group of lanes that has met. Returns whether there was one.
bool release_lanes(unsigned first) {
  bool released = false;
  const unsigned last = std::min(first + kLanes, machine.threads);
  for (unsigned thread = first; thread < last; ++thread) {
    const Fiber& fiber = *machine.fibers[thread];
    if (fiber.state != State::at_exchange) continue;
    const unsigned mask = fiber.mask;
    bool complete = true;
    for (unsigned t = first; t < last && complete; ++t) {
      const Fiber& other = *machine.fibers[t];
      if (!(mask >> (t - first) & 1) || other.state == State::done) continue;
      complete = other.state == State::at_exchange && other.mask == mask;
    }
    if (!complete) continue;
    released = true;
    unsigned met = 0;
    for (unsigned t = first; t < last; ++t) {
      if (machine.fibers[t]->state != State::done) met |= mask & 1u << (t - first);
    }
    for (unsigned t = first; t < last; ++t) {
      if (!(met >> (t - first) & 1)) continue;
      Fiber& other = *machine.fibers[t];
      machine.slots[t] = other.given;
      other.met = met;
      other.state = State::ready;
    }
  }
  return released;
}

bool release_block() {
  bool waiting = false;
  for (unsigned t = 0; t < machine.threads; ++t) {
    const State state = machine.fibers[t]->state;
    if (state == State::at_exchange) return false;
    waiting |= state == State::at_block_barrier;
  }
  if (!waiting) return false;
  machine.counted = machine.votes, machine.asked = machine.voters;
  machine.votes = machine.voters = 0;
  for (unsigned t = 0; t < machine.threads; ++t) {
    if (machine.fibers[t]->state == State::at_block_barrier) {
      machine.fibers[t]->state = State::ready;
    }
  }
  return true;
}

// The fibers stay where they wait; new ones serve the next kernel.
[[noreturn]] void stop(const std::string& what) {
  machine.fibers.clear();
  machine.fault = nullptr;
  throw std::runtime_error("emulated kernel: " + what);
}

void run_block(const std::vector<unsigned>& order) {
  std::fill(machine.shared.begin(), machine.shared.end(), kPoison);
  for (const auto& [memory, bytes] : machine.fixed) std::memset(memory, kPoison, bytes);
  for (unsigned t = 0; t < machine.threads; ++t) machine.fibers[t]->state = State::ready;
  for (;;) {
    bool alive = false;
    for (const unsigned t : order) {
      if (machine.fibers[t]->state == State::ready) resume(*machine.fibers[t]);
      if (machine.fault) stop(machine.fault);
      alive |= machine.fibers[t]->state != State::done;
    }
    if (!alive) return;
    bool released = false;
    for (unsigned first = 0; first < machine.threads; first += kLanes) {
      released |= release_lanes(first);
    }
    if (!released && !release_block()) {
      stop(
          "every thread must reach the same barrier, got threads that wait for ones that never "
          "come");
    }
  }
}

void prepare(dim3 grid, dim3 block, size_t shared_bytes) {
  if (grid.x > 0x7fffffffu || grid.y > 0xffffu || grid.z > 0xffffu || block.z > 64) {
    throw std::runtime_error(
        "emulated kernel: a grid must have below 2^31 x 2^16 x 2^16 blocks, of a depth up to 64, "
        "got " +
        std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " + std::to_string(grid.z) +
        " of depth " + std::to_string(block.z));
  }
  machine.threads = block.x * block.y * block.z;
  if (machine.threads == 0 || machine.threads > kMostThreads || shared_bytes > 227 * 1024) {
    throw std::runtime_error(
        "emulated kernel: a block must have 1 to 1024 threads and at most "
        "227 KiB of shared memory, got " +
        std::to_string(machine.threads) + " and " + std::to_string(shared_bytes) + " bytes");
  }
  while (machine.fibers.size() < machine.threads) {
    machine.fibers.push_back(std::make_unique<Fiber>());
  }
  machine.slots.resize(kMostThreads);
  machine.shared.resize(shared_bytes + 16);
  for (unsigned t = 0; t < machine.threads; ++t) {
    machine.fibers[t]->number = t;
    machine.fibers[t]->index = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
  }
}

int vote(int yes) {
  machine.votes += yes != 0;
  machine.voters += 1;
  wait(State::at_block_barrier);
  return machine.counted;
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  static std::recursive_mutex one_at_a_time;  // calls of other threads wait
  const std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
  if (machine.body) throw std::runtime_error("emulated kernel: a kernel must not start another");
  prepare(grid, block, shared_bytes);
  block_size = block, grid_size = grid;
  machine.body = &body;
  std::vector<unsigned> order(machine.threads);
  std::iota(order.begin(), order.end(), 0u);
  const bool shuffled = std::getenv("ANYBEV_EMULATION_SEED") != nullptr;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  try {
    for (uint64_t number = 0; number < blocks; ++number) {
      const uint64_t b = shuffled ? blocks - 1 - number : number;
      block_index = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                     static_cast<unsigned>(b / (uint64_t{grid.x} * grid.y))};
      if (shuffled) std::shuffle(order.begin(), order.end(), machine.random);
      run_block(order);
    }
  } catch (...) {
    machine.body = nullptr;
    throw;
  }
  machine.body = nullptr;
}

void* dynamic_shared() {
  const auto address = reinterpret_cast<uintptr_t>(machine.shared.data());
  return reinterpret_cast<void*>((address + 15) / 16 * 16);
}

void share(void* memory, size_t bytes) {
  std::memset(memory, kPoison, bytes);
  machine.fixed.emplace_back(memory, bytes);
}

void fail(const char* what) {
  machine.fault = what;
  for (;;) wait(State::done);
}

unsigned met() { return machine.current->met; }

void block_barrier() { wait(State::at_block_barrier); }

unsigned lane() { return machine.current->number % kLanes; }

const Slot* exchange(unsigned mask, const void* mine, size_t bytes) {
  Fiber& fiber = *machine.current;
  if (!(mask >> lane() & 1)) fail("the mask of a warp's call must name the lane that calls");
  fiber.mask = mask;
  std::memcpy(fiber.given.bytes, mine, bytes);
  wait(State::at_exchange);
  return machine.slots.data() + fiber.number / kLanes * kLanes;
}

}  // namespace anybev::emulation

int __syncthreads_count(int predicate) { return anybev::emulation::vote(predicate); }
int __syncthreads_and(int predicate) {
  const int yes = anybev::emulation::vote(predicate);
  return yes == anybev::emulation::machine.asked;
}

unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto* slots = anybev::emulation::exchange(mask, &predicate, sizeof predicate);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (anybev::emulation::met() >> lane & 1 && anybev::emulation::read<int>(slots, lane))
      votes |= 1u << lane;
  }
  return votes;
}

unsigned __match_any_sync(unsigned mask, unsigned long long value) {
  const auto* slots = anybev::emulation::exchange(mask, &value, sizeof value);
  unsigned same = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (anybev::emulation::met() >> lane & 1 &&
        anybev::emulation::read<unsigned long long>(slots, lane) == value) {
      same |= 1u << lane;
    }
  }
  return same;
}

namespace {
std::atomic<int64_t> waits{0};
}  // namespace

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++waits;
  return cudaSuccess;
}

int64_t anybev_emulation_waits() { return waits; }

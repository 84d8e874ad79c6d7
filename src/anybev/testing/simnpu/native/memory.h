// Memory of the simulated devices: host memory that only this backend's copies read and write.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_set>

namespace simnpu {

constexpr auto kDeviceType = c10::DeviceType::PrivateUse1;
constexpr int kMostDevices = 16;

struct Block {
  c10::DeviceIndex device;
  size_t bytes;
};

struct Memory {
  std::mutex mutex;
  std::map<const char*, Block> blocks;
  std::unordered_set<const void*> pinned;
  std::array<int64_t, kMostDevices> allocated{};
  std::array<int64_t, kMostDevices> peak{};
};

// Never destroyed: tensors of the interpreter's last breath still free their blocks.
inline Memory& memory() {
  static auto* instance = new Memory;
  return *instance;
}

inline thread_local c10::DeviceIndex current_device = 0;

struct DeviceAllocator final : c10::Allocator {
  static void release(void* data) {
    if (data == nullptr) return;
    auto& all = memory();
    {
      std::lock_guard<std::mutex> lock(all.mutex);
      auto found = all.blocks.find(static_cast<char*>(data));
      all.allocated[found->second.device] -= static_cast<int64_t>(found->second.bytes);
      all.blocks.erase(found);
    }
    c10::free_cpu(data);
  }

  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? c10::alloc_cpu(bytes) : nullptr;
    if (data != nullptr) {
      auto& all = memory();
      std::lock_guard<std::mutex> lock(all.mutex);
      all.blocks[static_cast<char*>(data)] = {current_device, bytes};
      auto& held = all.allocated[current_device];
      held += static_cast<int64_t>(bytes);
      all.peak[current_device] = std::max(all.peak[current_device], held);
    }
    return {data, data, &release, c10::Device(kDeviceType, current_device)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* target, const void* source, size_t bytes) const override {
    std::memcpy(target, source, bytes);
  }
};

struct PinnedAllocator final : c10::Allocator {
  static void release(void* data) {
    auto& all = memory();
    {
      std::lock_guard<std::mutex> lock(all.mutex);
      all.pinned.erase(data);
    }
    c10::free_cpu(data);
  }

  c10::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes ? bytes : 1);
    auto& all = memory();
    std::lock_guard<std::mutex> lock(all.mutex);
    all.pinned.insert(data);
    return {data, data, &release, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* target, const void* source, size_t bytes) const override {
    std::memcpy(target, source, bytes);
  }
};

inline DeviceAllocator& device_allocator() {
  static auto* instance = new DeviceAllocator;
  return *instance;
}

inline PinnedAllocator& pinned_allocator() {
  static auto* instance = new PinnedAllocator;
  return *instance;
}

}  // namespace simnpu

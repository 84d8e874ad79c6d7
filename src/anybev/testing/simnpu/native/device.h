// Devices, streams, events, generators and hooks of the simulated backend.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>
#include <chrono>
#include <vector>

#include "memory.h"

namespace simnpu {

inline std::atomic<int> device_count{0};
inline thread_local std::array<c10::StreamId, kMostDevices> current_stream{};

inline c10::DeviceIndex index_of(c10::DeviceIndex index) {
  return index < 0 ? current_device : index;
}

inline void check_index(c10::DeviceIndex index) {
  TORCH_CHECK(index >= -1 && index < device_count.load(), "npu: device index must be in 0..",
              device_count.load() - 1, ", got ", static_cast<int>(index));
}

using Instant = std::chrono::steady_clock::time_point;

// Work is done when a call returns, so an event is the time at which it was recorded.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kDeviceType; }
  c10::Device getDevice() const override { return {kDeviceType, current_device}; }
  c10::DeviceIndex deviceCount() const noexcept override { return device_count.load(); }

  void setDevice(c10::Device device) const override {
    check_index(device.index());
    current_device = index_of(device.index());
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current_device = index_of(device.index());
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    setDevice(device);
    return before;
  }

  c10::Stream getStream(c10::Device device) const override {
    const auto index = index_of(device.index());
    return c10::Stream::unpack3(current_stream[index], index, kDeviceType);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream::unpack3(0, index_of(device.index()), kDeviceType);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    static std::atomic<c10::StreamId> next{1};
    return c10::Stream::unpack3(next++, index_of(device.index()), kDeviceType);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto before = getStream(stream.device());
    current_stream[stream.device_index()] = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}

  void record(void** event, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    if (*event == nullptr) *event = new Instant;
    *static_cast<Instant*>(*event) = std::chrono::steady_clock::now();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Instant*>(event);
  }
  double elapsedTime(void* first, void* second, const c10::DeviceIndex) const override {
    const auto between = *static_cast<Instant*>(second) - *static_cast<Instant*>(first);
    return std::chrono::duration<double, std::milli>(between).count();
  }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

struct Generator final : at::CPUGeneratorImpl {
  explicit Generator(c10::DeviceIndex index) : CPUGeneratorImpl(c10::default_rng_seed_val) {
    device_ = c10::Device(kDeviceType, index);
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count.load() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return device_count.load(); }
  c10::DeviceIndex getCurrentDevice() const override { return current_device; }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    Guard().setDevice(c10::Device(kDeviceType, index));
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const auto before = current_device;
    check_index(index);
    current_device = index_of(index);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }

  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    static auto* all = [] {
      auto* made = new std::vector<at::Generator>;
      for (int k = 0; k < kMostDevices; ++k) made->push_back(at::make_generator<Generator>(k));
      return made;
    }();
    check_index(index);
    return (*all)[index_of(index)];
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<Generator>(index_of(index));
  }

  bool isPinnedPtr(const void* data) const override {
    auto& all = memory();
    std::lock_guard<std::mutex> lock(all.mutex);
    return all.pinned.count(data) > 0;
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator(); }
  c10::Device getDeviceFromPtr(void* data) const override {
    auto& all = memory();
    std::lock_guard<std::mutex> lock(all.mutex);
    auto after = all.blocks.upper_bound(static_cast<char*>(data));
    TORCH_CHECK(after != all.blocks.begin(), "npu: the pointer is not of this device");
    return {kDeviceType, std::prev(after)->second.device};
  }

  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto* impl = storage.unsafeGetStorageImpl();
    c10::OptionalDeviceGuard guard(impl->device());
    auto data = device_allocator().allocate(bytes);
    if (data.get() != nullptr && impl->data() != nullptr) {
      std::memcpy(data.get(), impl->data(), std::min(bytes, impl->nbytes()));
    }
    impl->set_data_ptr(std::move(data));
    impl->set_nbytes(bytes);
  }
};

}  // namespace simnpu

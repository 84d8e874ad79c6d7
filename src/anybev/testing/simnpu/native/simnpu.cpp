// A device of host memory that answers to the name npu (PrivateUse1): it proves that code has no
// hidden assumption of cuda or the CPU. It is no model of Ascend: numbers, speed, memory limits and
// asynchrony are the host's.
#include <torch/library.h>

#include "kernels.h"

namespace simnpu {
namespace {

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

void install(int64_t devices, bool strict) {
  TORCH_CHECK(devices > 0 && devices <= kMostDevices, "npu: devices must be in 1..", kMostDevices,
              ", got ", devices);
  device_count = static_cast<int>(devices);
  rules().strict = strict;
  c10::SetAllocator(kDeviceType, &device_allocator());
  if (!at::isPrivateUse1HooksRegistered()) at::RegisterPrivateUse1HooksInterface(new Hooks);
}

c10::Dict<std::string, int64_t> fallback_counts() {
  c10::Dict<std::string, int64_t> counts;
  std::lock_guard<std::mutex> lock(rules().mutex);
  for (const auto& [name, count] : rules().fallbacks) counts.insert(name, count);
  return counts;
}

void reset_fallbacks() {
  std::lock_guard<std::mutex> lock(rules().mutex);
  rules().fallbacks.clear();
}

void forbid(const std::vector<std::string>& names) {
  std::lock_guard<std::mutex> lock(rules().mutex);
  rules().forbidden = {names.begin(), names.end()};
}

std::vector<std::string> forbidden() {
  std::lock_guard<std::mutex> lock(rules().mutex);
  return {rules().forbidden.begin(), rules().forbidden.end()};
}

int64_t memory_allocated(int64_t index) {
  check_index(static_cast<c10::DeviceIndex>(index));
  std::lock_guard<std::mutex> lock(memory().mutex);
  return memory().allocated[index_of(static_cast<c10::DeviceIndex>(index))];
}

int64_t peak_memory(int64_t index) {
  check_index(static_cast<c10::DeviceIndex>(index));
  std::lock_guard<std::mutex> lock(memory().mutex);
  return memory().peak[index_of(static_cast<c10::DeviceIndex>(index))];
}

void reset_peak_memory(int64_t index) {
  check_index(static_cast<c10::DeviceIndex>(index));
  std::lock_guard<std::mutex> lock(memory().mutex);
  const auto chosen = index_of(static_cast<c10::DeviceIndex>(index));
  memory().peak[chosen] = memory().allocated[chosen];
}

int64_t exchange_device(int64_t index) {
  return Hooks().exchangeDevice(static_cast<c10::DeviceIndex>(index));
}

at::Generator default_generator(int64_t index) {
  return Hooks().getDefaultGenerator(static_cast<c10::DeviceIndex>(index));
}

}  // namespace

TORCH_LIBRARY(simnpu, m) {
  m.def("install", install);
  m.def("set_strict", [](bool strict) { rules().strict = strict; });
  m.def("strict", [] { return rules().strict.load(); });
  m.def("device_count", [] { return static_cast<int64_t>(device_count.load()); });
  m.def("current_device", [] { return static_cast<int64_t>(current_device); });
  m.def("exchange_device", exchange_device);
  m.def("default_generator", default_generator);
  m.def("memory_allocated", memory_allocated);
  m.def("peak_memory", peak_memory);
  m.def("reset_peak_memory", reset_peak_memory);
  m.def("fallback_counts", fallback_counts);
  m.def("reset_fallbacks", reset_fallbacks);
  m.def("forbid", forbid);
  m.def("forbidden", forbidden);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_back>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("resize_", resize_);
  m.impl("set_.source_Storage_storage_offset", set_storage_offset);
  m.impl("set_.source_Storage", set_storage);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("unfold", unfold);
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("record_stream", record_stream);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("native_batch_norm", native_batch_norm);
  // Without these torch would compose them of other operators, which round differently.
  m.impl("native_layer_norm", torch::CppFunction::makeFromBoxedFunction<&fall_back>());
  m.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&fall_back>());
}

}  // namespace simnpu

// Every aten operator without a kernel here: arguments to the CPU, its kernel, results back.
#pragma once

#include <ATen/native/CPUFallback.h>

#include <string>

#include "device.h"

namespace simnpu {

struct Rules {
  std::mutex mutex;
  std::map<std::string, int64_t> fallbacks;
  std::unordered_set<std::string> forbidden;
  std::atomic<bool> strict{true};
};

inline Rules& rules() {
  static auto* instance = new Rules;
  return *instance;
}

inline void count_fallback(const std::string& name) {
  std::lock_guard<std::mutex> lock(rules().mutex);
  TORCH_CHECK_NOT_IMPLEMENTED(
      !rules().forbidden.count(name), "npu: operator ", name,
      " must not fall back to the CPU: it is on the list of forbidden ones");
  ++rules().fallbacks[name];
}

// The CPU's default generator has a device generator's state while this lives.
class BorrowedGenerator {
 public:
  explicit BorrowedGenerator(const at::Generator& device)
      : device_(device), host_(at::detail::getDefaultCPUGenerator()) {
    kept_ = host_.get_state();
    host_.set_state(device_.get_state());
  }
  ~BorrowedGenerator() {
    device_.set_state(host_.get_state());
    host_.set_state(kept_);
  }
  BorrowedGenerator(const BorrowedGenerator&) = delete;
  BorrowedGenerator& operator=(const BorrowedGenerator&) = delete;

 private:
  at::Generator device_;
  at::Generator host_;
  at::Tensor kept_;
};

// Device of the first npu tensor. A tensor of another device beside it is an error, except numbers
// (0-d tensors of the CPU) and, as on other accelerators, indices on the CPU.
inline c10::Device common_device(const c10::OperatorHandle& op,
                                 const torch::jit::Stack& arguments) {
  std::vector<at::Tensor> found;
  const bool indexes = op.schema().name().rfind("aten::index", 0) == 0 ||
                       op.schema().name().rfind("aten::_index", 0) == 0 ||
                       op.schema().name().rfind("aten::_unsafe_index", 0) == 0;
  for (const auto& value : arguments) {
    if (value.isTensor() && value.toTensor().defined()) {
      found.push_back(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) found.push_back(tensor);
    } else if (value.isOptionalTensorList() && !indexes) {
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList().vec()) {
        if (tensor.has_value() && tensor->defined()) found.push_back(*tensor);
      }
    }
  }
  c10::Device common(kDeviceType, current_device);
  for (const auto& tensor : found) {
    if (tensor.is_privateuseone()) {
      common = tensor.device();
      break;
    }
  }
  for (const auto& tensor : found) {
    const bool number = tensor.is_cpu() && tensor.dim() == 0;
    TORCH_CHECK(tensor.device() == common || number,
                "Expected all tensors to be on the same device, but found at least two devices, ",
                common, " and ", tensor.device(), "! (", op.schema().name(), ")");
  }
  return common;
}

// Takes a generator out of the arguments, for the CPU kernel draws from the borrowed default one.
inline at::Generator take_generator(torch::jit::Stack& arguments, c10::Device device) {
  at::Generator chosen;
  for (auto& value : arguments) {
    if (!value.isGenerator()) continue;
    const auto generator = value.toGenerator();
    if (!generator.defined()) continue;
    TORCH_CHECK(generator.device().is_privateuseone(),
                "Expected a 'npu' device type for generator but found '", generator.device(), "'");
    chosen = generator;
    value = c10::IValue();
  }
  return chosen.defined() ? chosen : Hooks().getDefaultGenerator(device.index());
}

inline void fall_back(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto name = c10::toString(op.operator_name());
  TORCH_CHECK_NOT_IMPLEMENTED(name.rfind("aten::", 0) == 0, "npu: operator ", name,
                              " must have a kernel of its own for npu (PrivateUse1), got none");
  count_fallback(name);
  const auto count = op.schema().arguments().size();
  torch::jit::Stack arguments(stack->end() - static_cast<int64_t>(count), stack->end());
  const auto device = common_device(op, arguments);
  if (!op.hasTag(at::Tag::nondeterministic_seeded)) {
    at::native::cpu_fallback(op, stack);
    return;
  }
  const auto generator = take_generator(arguments, device);
  std::move(arguments.begin(), arguments.end(), stack->end() - static_cast<int64_t>(count));
  BorrowedGenerator borrowed(generator);
  at::native::cpu_fallback(op, stack);
}

}  // namespace simnpu

// What no fallback can do: allocate, alias, copy, convolve, and update running statistics.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/TensorUtils.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/_reshape_alias_cpu_dispatch.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/set_cpu_dispatch.h>

#include "fallback.h"

namespace simnpu {

using OptionalTensor = std::optional<at::Tensor>;

// A single number may be float64: torch's GradScaler inverts its scale so.
inline void check_dtype(at::ScalarType dtype, at::IntArrayRef size) {
  TORCH_CHECK_TYPE(!rules().strict || dtype != at::kDouble || c10::multiply_integers(size) <= 1,
                   "npu: tensors must be of another dtype than float64, which Ascend has next to "
                   "no kernels for, got float64 of shape ",
                   size, "; try float32, or activate(strict=False)");
}

// A CPU tensor over device memory; it does not leave this file.
inline at::Tensor host_view(const at::Tensor& tensor) {
  auto* start = static_cast<char*>(const_cast<void*>(tensor.storage().data()));
  auto* data = start + tensor.storage_offset() * static_cast<int64_t>(tensor.dtype().itemsize());
  return at::from_blob(start == nullptr ? nullptr : data, tensor.sizes(), tensor.strides(),
                       at::TensorOptions().dtype(tensor.dtype()).device(at::kCPU));
}

inline at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                        std::optional<at::Layout>, std::optional<at::Device> device,
                        std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  const auto chosen = c10::dtype_or_default(dtype);
  check_dtype(chosen, size);
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, &device_allocator(),
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), chosen,
                                   format);
}

inline at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                                std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                                std::optional<at::Device> device, std::optional<bool> pin) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  const auto chosen = c10::dtype_or_default(dtype);
  check_dtype(chosen, size);
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, &device_allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           chosen);
}

inline at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool) {
  at::NoGradGuard no_grad;
  const auto from = source.is_privateuseone() ? host_view(source) : source;
  const auto to = target.is_privateuseone() ? host_view(target) : target;
  TORCH_CHECK(from.is_cpu() && to.is_cpu(), "npu: copies must be between npu and CPU, got ",
              source.device(), " to ", target.device());
  to.copy_(from);
  return target;
}

inline const at::Tensor& resize_(const at::Tensor& self, at::IntArrayRef size,
                                 std::optional<at::MemoryFormat> format) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  const auto bytes = at::detail::computeStorageNbytesContiguous(size, self.dtype().itemsize(),
                                                                self.storage_offset());
  if (bytes > self.storage().nbytes()) Hooks().resizePrivateUse1Bytes(self.storage(), bytes);
  if (format && *format != at::MemoryFormat::Preserve) impl->empty_tensor_restride(*format);
  return self;
}

inline at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  if (source.sizes() != target.sizes()) target.resize_(source.sizes());
  return copy_from(source, target, false);
}

inline at::Tensor& set_storage_offset(at::Tensor& self, at::Storage storage, int64_t offset,
                                      at::IntArrayRef size, at::IntArrayRef stride) {
  return at::cpu::set_(self, std::move(storage), offset, size, stride);
}

inline at::Tensor& set_storage(at::Tensor& self, at::Storage storage) {
  const auto count = static_cast<int64_t>(storage.nbytes() / self.dtype().itemsize());
  return at::cpu::set_(self, std::move(storage), 0, {count}, {});
}

inline at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride,
                             std::optional<int64_t> offset) {
  return at::cpu::as_strided(self, size, stride, offset);
}

inline at::Tensor view(const at::Tensor& self, at::IntArrayRef size) {
  const auto wanted = at::infer_size_dv(size, self.numel());
  const auto stride = at::detail::computeStride(self.sizes(), self.strides(), wanted);
  TORCH_CHECK(stride.has_value(),
              "view size is not compatible with input tensor's size and stride (at least one "
              "dimension spans across two contiguous subspaces). Use .reshape(...) instead.");
  return at::cpu::as_strided(self, wanted, *stride, self.storage_offset());
}

inline at::Tensor reshape_alias(const at::Tensor& self, at::IntArrayRef size,
                                at::IntArrayRef stride) {
  return at::cpu::as_strided(self, size, stride, self.storage_offset());
}

inline at::Tensor unfold(const at::Tensor& self, int64_t dimension, int64_t size, int64_t step) {
  const auto axis = at::maybe_wrap_dim(dimension, self.dim());
  auto sizes = self.sizes().vec();
  auto strides = self.strides().vec();
  strides.push_back(strides[axis]);
  sizes[axis] = (sizes[axis] - size) / step + 1;
  strides[axis] *= step;
  sizes.push_back(size);
  return at::cpu::as_strided(self, sizes, strides, self.storage_offset());
}

// Memory is free to be used again at once: nothing runs later.
inline void record_stream(at::Tensor&, at::Stream) {}

inline at::Scalar local_scalar(const at::Tensor& self) { return host_view(self).item(); }

inline void check_together(const at::Tensor& first, const at::Tensor& second) {
  TORCH_CHECK(first.device() == second.device(),
              "Expected all tensors to be on the same device, but found at least two devices, ",
              first.device(), " and ", second.device(), "!");
}

inline OptionalTensor to_host(const OptionalTensor& tensor) {
  return tensor && tensor->defined() ? OptionalTensor(tensor->cpu()) : std::nullopt;
}

inline at::Tensor to_device(const at::Tensor& tensor, c10::Device device) {
  return tensor.defined() ? tensor.to(device) : tensor;
}

// aten::convolution asks a backend outside of torch for these two; the boxed fallback has none.
inline at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight,
                              const OptionalTensor& bias, at::IntArrayRef stride,
                              at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                              at::IntArrayRef output_padding, int64_t groups) {
  count_fallback("aten::convolution_overrideable");
  check_together(x, weight);
  if (bias && bias->defined()) check_together(x, *bias);
  const auto out = at::convolution(x.cpu(), weight.cpu(), to_host(bias), stride, padding, dilation,
                                   transposed, output_padding, groups);
  return out.to(x.device());
}

inline std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  count_fallback("aten::convolution_backward_overrideable");
  check_together(grad, x);
  check_together(x, weight);
  const auto channels = transposed ? weight.size(1) * groups : weight.size(0);
  const auto [gx, gw, gb] =
      at::convolution_backward(grad.cpu(), x.cpu(), weight.cpu(), at::IntArrayRef({channels}),
                               stride, padding, dilation, transposed, output_padding, groups, mask);
  const auto device = x.device();
  return {to_device(gx, device), to_device(gw, device), to_device(gb, device)};
}

// The schema does not say that the running statistics change: the fallback would lose the update.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor> native_batch_norm(
    const at::Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
    const OptionalTensor& running_mean, const OptionalTensor& running_var, bool training,
    double momentum, double eps) {
  count_fallback("aten::native_batch_norm");
  for (const auto* other : {&weight, &bias, &running_mean, &running_var}) {
    if (*other && (*other)->defined()) check_together(x, **other);
  }
  const auto mean = to_host(running_mean);
  const auto var = to_host(running_var);
  const auto [out, saved_mean, saved_inverse] = at::native_batch_norm(
      x.cpu(), to_host(weight), to_host(bias), mean, var, training, momentum, eps);
  if (training && mean) running_mean->copy_(*mean);
  if (training && var) running_var->copy_(*var);
  const auto device = x.device();
  return {out.to(device), saved_mean.to(device), saved_inverse.to(device)};
}

}  // namespace simnpu

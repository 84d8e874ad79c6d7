// From torch's floating dtypes to the types of the kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/cuda/numbers.h"

namespace anybev::cuda {

// body(T{}) for the type that holds numbers of `type`.
template <class Body>
auto for_floating(at::ScalarType type, const char* what, const Body& body) {
  if (type == at::kDouble) return body(double{});
  if (type == at::kHalf) return body(__half{});
  if (type == at::kBFloat16) return body(__nv_bfloat16{});
  TORCH_CHECK_TYPE(type == at::kFloat, what, " must be floating, got ", type);
  return body(float{});
}

inline at::ScalarType sum_dtype(at::ScalarType type) {
  return type == at::kDouble ? type : at::kFloat;
}

template <class T>
const T* numbers(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* mutable_numbers(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace anybev::cuda

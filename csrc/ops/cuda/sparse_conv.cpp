#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "ops/cuda/binding.h"
#include "ops/cuda/sparse_conv_kernel.h"

#if __has_include(<torch/headeronly/version.h>)
#include <torch/headeronly/version.h>
#endif

namespace anybev::cuda {
namespace {

using at::Tensor;
using at::TensorList;

// The tensors of a plan and what kernels read of them.
struct Plan {
  Plan(TensorList payload, int64_t sources, int64_t rows, int64_t offsets)
      : source(payload.at(0).contiguous()),
        row(payload.at(1).contiguous()),
        start(payload.at(2).contiguous()) {
    TORCH_CHECK_TYPE(source.scalar_type() == at::kInt && row.scalar_type() == at::kShort &&
                         start.scalar_type() == at::kInt,
                     "sparse_conv: pair lists must be int32, int16 and int32, got ",
                     source.scalar_type(), ", ", row.scalar_type(), " and ", start.scalar_type());
    TORCH_CHECK_VALUE(source.numel() == row.numel(), "sparse_conv: pair_row must be (",
                      source.numel(), ",), got ", row.sizes());
    pairs = {source.const_data_ptr<int32_t>(),
             row.const_data_ptr<int16_t>(),
             start.const_data_ptr<int32_t>(),
             source.numel(),
             sources,
             rows,
             static_cast<int>(offsets)};
    const int64_t wanted = pairs.tiles() * offsets + 1;
    TORCH_CHECK_VALUE(start.numel() == wanted, "sparse_conv: tile_ptr must be (", wanted,
                      ",) for this plan, got ", start.sizes());
  }

  const Tensor source, row, start;
  SparsePairs pairs;
};

// Contiguous rows that start at multiples of 16 bytes, zeros beyond the tensor's own channels.
Tensor aligned_rows(const Tensor& rows) {
  const int64_t step = 16 / static_cast<int64_t>(rows.element_size());
  const int64_t missing = (step - rows.size(1) % step) % step;
  if (missing) return at::constant_pad_nd(rows, {0, missing});
  const Tensor tight = rows.contiguous();
  const bool aligned = reinterpret_cast<uintptr_t>(tight.const_data_ptr()) % 16 == 0;
  return aligned ? tight : tight.clone();
}

// float32 is multiplied as torch multiplies float32 matrices on CUDA: exactly unless the user has
// allowed TF32 (torch.backends.cuda.matmul, torch.set_float32_matmul_precision).
Product product_of(at::ScalarType type) {
  if (type != at::kFloat) return Product::exact;
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 13)
  // The older question is refused where the user has answered the newer one.
  const bool tf32 =
      at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
      at::Float32Precision::TF32;
#else
  const bool tf32 = at::globalContext().allowTF32CuBLAS();
#endif
  return tf32 ? Product::tf32 : Product::exact;
}

// Calls `function` with a null pointer of the kernels' element type.
template <class Function>
void dispatch(at::ScalarType type, const char* name, const Function& function) {
  switch (type) {
    case at::kFloat:
      return function(static_cast<float*>(nullptr));
    case at::kDouble:
      return function(static_cast<double*>(nullptr));
    case at::kHalf:
      return function(static_cast<__half*>(nullptr));
    case at::kBFloat16:
      return function(static_cast<__nv_bfloat16*>(nullptr));
    default:
      TORCH_CHECK_TYPE(false, name,
                       ": features must be float32, float64, bfloat16 or float16, got ", type);
  }
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

Tensor sparse_conv_binding(const Tensor& features, const Tensor& weight,
                           const std::optional<Tensor>& bias, TensorList gather, TensorList scatter,
                           int64_t rows) {
  TORCH_CHECK_VALUE(
      features.dim() == 2 && weight.dim() == 5 && weight.size(4) == features.size(1),
      "sparse_conv: features must be (N, Cin) and weight (Cout, kx, ky, kz, Cin), got ",
      features.sizes(), " and ", weight.sizes());
  TorchContext context(features);
  const at::ScalarType type = features.scalar_type();
  const Tensor w = weight.flatten(1, 3).to(type), x = aligned_rows(features);
  const Plan plan(gather, features.size(0), rows, w.size(1));
  Tensor start;
  if (bias) start = bias->to(type == at::kDouble ? at::kDouble : at::kFloat).contiguous();
  Tensor out = at::empty({rows, w.size(0)}, features.options());
  dispatch(type, "sparse_conv", [&]<class T>(T*) {
    const ConvWeight<T> strided{data<T>(w),  w.stride(0), w.stride(1),
                                w.stride(2), w.size(0),   w.size(2)};
    sparse_conv(context, data<T>(x), x.size(1), strided, bias ? data<Sum<T>>(start) : nullptr,
                plan.pairs, product_of(type), static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

Tensor sparse_conv_grad_weight_binding(const Tensor& features, const Tensor& grad,
                                       TensorList gather, TensorList scatter, int64_t offsets) {
  TORCH_CHECK_VALUE(features.dim() == 2 && grad.dim() == 2,
                    "sparse_conv_grad_weight: features must be (N, Cin) and grad (M, Cout), got ",
                    features.sizes(), " and ", grad.sizes());
  TorchContext context(features);
  const at::ScalarType type =
      features.scalar_type() == grad.scalar_type() || features.scalar_type() == at::kDouble
          ? features.scalar_type()
          : at::kFloat;
  const Tensor x = aligned_rows(features.to(type)), g = aligned_rows(grad.to(type));
  const Plan plan(gather, features.size(0), grad.size(0), offsets);
  Tensor out = at::empty({grad.size(1), offsets, features.size(1)},
                         features.options().dtype(type == at::kDouble ? at::kDouble : at::kFloat));
  dispatch(type, "sparse_conv_grad_weight", [&]<class T>(T*) {
    sparse_conv_grad_weight(context, data<T>(x), x.size(1), features.size(1), data<T>(g), g.size(1),
                            grad.size(1), plan.pairs, product_of(type),
                            out.mutable_data_ptr<Sum<T>>());
  });
  return out;
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("sparse_conv", &anybev::cuda::sparse_conv_binding);
  m.impl("sparse_conv_grad_weight", &anybev::cuda::sparse_conv_grad_weight_binding);
}

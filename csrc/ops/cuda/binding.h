// How a binding reaches its kernels: device, stream and scratch memory of torch's own choice.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include <vector>

#include "common/cuda/context.h"

// The emulated kernels answer for the CPU, so that the operators' own tests run them.
#ifdef ANYBEV_EMULATION
#define ANYBEV_CUDA_KEY CPU
#else
#define ANYBEV_CUDA_KEY CUDA
#endif

namespace anybev::cuda {

// Current stream of a tensor's device, which is the current device while this lives. Scratch memory
// comes from torch's caching allocator.
class TorchContext final : public Context {
 public:
  explicit TorchContext(const at::Tensor& like)
      : Context(stream_of(like.device())), guard_(like.device()), options_(like.options()) {}

  void* allocate(size_t bytes) override {
    buffers_.push_back(
        at::empty({static_cast<int64_t>(bytes ? bytes : 1)}, options_.dtype(at::kByte)));
#ifdef ANYBEV_EMULATION
    buffers_.back().fill_(0xCB);  // whoever reads it before writing it is found
#endif
    return buffers_.back().mutable_data_ptr();
  }

 private:
  static cudaStream_t stream_of(at::Device device) {
#ifdef ANYBEV_EMULATION
    return nullptr;
#else
    const c10::impl::VirtualGuardImpl guard(device.type());
    return static_cast<cudaStream_t>(guard.getStreamNativeHandle(guard.getStream(device)));
#endif
  }

  c10::DeviceGuard guard_;
  at::TensorOptions options_;
  std::vector<at::Tensor> buffers_;
};

}  // namespace anybev::cuda

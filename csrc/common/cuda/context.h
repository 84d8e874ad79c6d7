// The memory and the stream that kernels work with. For bindings and kernels alike: plain C++ and
// the CUDA runtime, no torch.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace anybev::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

// Stream and scratch memory of one operator call. What `allocate` gives is uninitialised device
// memory, aligned to 256 bytes, that lives until the context ends; use ordered by the stream may
// outlast it.
class Context {
 public:
  explicit Context(cudaStream_t stream) : stream(stream) {}
  virtual ~Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  virtual void* allocate(size_t bytes) = 0;

  template <class T>
  T* buffer(int64_t count) {
    return static_cast<T*>(allocate(static_cast<size_t>(count) * sizeof(T)));
  }

  const cudaStream_t stream;
};

inline void fill_bytes(Context& context, void* to, int value, size_t bytes) {
  if (bytes) check(cudaMemsetAsync(to, value, bytes, context.stream), "fill");
}

template <class T>
void copy_on_device(Context& context, T* to, const T* from, int64_t count) {
  if (count == 0) return;
  check(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDeviceToDevice, context.stream),
        "copy");
}

// The one host synchronisation: wait for the stream and read `count` numbers.
template <class T>
void read_back(Context& context, T* host, const T* device, int64_t count) {
  if (count == 0) return;
  check(cudaMemcpyAsync(host, device, count * sizeof(T), cudaMemcpyDeviceToHost, context.stream),
        "copy to the host");
  check(cudaStreamSynchronize(context.stream), "wait for the stream");
}

}  // namespace anybev::cuda

// Collectives named hccl: gloo's, on copies of the device's tensors.
#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

namespace simnpu {
namespace {

using Tensors = std::vector<at::Tensor>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

void check(const Tensors& tensors) {
  for (const auto& tensor : tensors) {
    TORCH_CHECK(tensor.is_privateuseone(), "hccl: tensors must be on npu, got one on ",
                tensor.device());
  }
}

// HCCL adds bfloat16, gloo does not.
at::Tensor to_host(const at::Tensor& tensor) {
  const auto host = tensor.detach().cpu().contiguous();
  return tensor.scalar_type() == at::kBFloat16 ? host.to(at::kFloat) : host;
}

Tensors to_host(const Tensors& tensors) {
  check(tensors);
  Tensors host;
  for (const auto& tensor : tensors) host.push_back(to_host(tensor));
  return host;
}

void copy_back(const Tensors& host, const Tensors& tensors) {
  at::NoGradGuard no_grad;
  for (size_t k = 0; k < tensors.size(); ++k) tensors[k].detach().copy_(host[k]);
}

class Done final : public c10d::Work {
 public:
  explicit Done(Tensors tensors)
      : future_(c10::make_intrusive<c10::ivalue::Future>(
            c10::ListType::create(c10::TensorType::get()))),
        tensors_(std::move(tensors)) {
    future_->markCompleted(tensors_);
    finish();
  }
  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
  Tensors result() override { return tensors_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }

 private:
  c10::intrusive_ptr<c10::ivalue::Future> future_;
  Tensors tensors_;
};

WorkPtr done(Tensors tensors = {}) { return c10::make_intrusive<Done>(std::move(tensors)); }

class Hccl final : public c10d::Backend {
 public:
  Hccl(c10::intrusive_ptr<c10d::Backend> gloo, int rank, int size)
      : Backend(rank, size), gloo_(std::move(gloo)) {}

  const std::string getBackendName() const override { return "hccl"; }

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto host = to_host(tensors);
    gloo_->broadcast(host, options)->wait();
    copy_back(host, tensors);
    return done(tensors);
  }

  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    auto host = to_host(tensors);
    gloo_->allreduce(host, options)->wait();
    copy_back(host, tensors);
    return done(tensors);
  }

  WorkPtr allreduce_coalesced(Tensors& tensors,
                              const c10d::AllreduceCoalescedOptions& options) override {
    auto host = to_host(tensors);
    gloo_->allreduce_coalesced(host, options)->wait();
    copy_back(host, tensors);
    return done(tensors);
  }

  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    auto host = to_host(tensors);
    gloo_->reduce(host, options)->wait();
    copy_back(host, tensors);
    return done(tensors);
  }

  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                    const c10d::AllgatherOptions& options) override {
    auto host_inputs = to_host(inputs);
    std::vector<Tensors> host_outputs;
    for (const auto& list : outputs) host_outputs.push_back(to_host(list));
    gloo_->allgather(host_outputs, host_inputs, options)->wait();
    for (size_t k = 0; k < outputs.size(); ++k) copy_back(host_outputs[k], outputs[k]);
    return done(outputs.empty() ? Tensors{} : outputs[0]);
  }

  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input,
                          const c10d::AllgatherOptions& options) override {
    Tensors host = to_host(Tensors{output, input});
    gloo_->_allgather_base(host[0], host[1], options)->wait();
    copy_back({host[0]}, {output});
    return done({output});
  }

  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override {
    Tensors host = to_host(Tensors{output, input});
    gloo_->_reduce_scatter_base(host[0], host[1], options)->wait();
    copy_back({host[0]}, {output});
    return done({output});
  }

  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_sizes,
                        std::vector<int64_t>& input_sizes,
                        const c10d::AllToAllOptions& options) override {
    Tensors host = to_host(Tensors{output, input});
    gloo_->alltoall_base(host[0], host[1], output_sizes, input_sizes, options)->wait();
    copy_back({host[0]}, {output});
    return done({output});
  }

  WorkPtr send(Tensors& tensors, int target, int tag) override {
    auto host = to_host(tensors);
    gloo_->send(host, target, tag)->wait();
    return done(tensors);
  }

  WorkPtr recv(Tensors& tensors, int source, int tag) override {
    auto host = to_host(tensors);
    gloo_->recv(host, source, tag)->wait();
    copy_back(host, tensors);
    return done(tensors);
  }

  WorkPtr barrier(const c10d::BarrierOptions&) override {
    gloo_->barrier(c10d::BarrierOptions())->wait();
    return done();
  }

 private:
  c10::intrusive_ptr<c10d::Backend> gloo_;
};

}  // namespace
}  // namespace simnpu

PYBIND11_MODULE(simnpu_native, m) {
  m.def(
      "hccl",
      [](const c10::intrusive_ptr<c10d::Backend>& gloo, int rank,
         int size) -> c10::intrusive_ptr<c10d::Backend> {
        return c10::make_intrusive<simnpu::Hccl>(gloo, rank, size);
      },
      pybind11::arg("gloo"), pybind11::arg("rank"), pybind11::arg("size"));
}

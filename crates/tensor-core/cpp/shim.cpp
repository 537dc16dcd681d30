// See shim.h. Compiled against libtorch's own headers; no CUDA headers are needed.
#include "shim.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/version.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace {

char* error_of(const char* what) {
  // libtorch appends a C++ backtrace that helps no user.
  const char* end = std::strstr(what, "\nException raised from");
  size_t n = end ? static_cast<size_t>(end - what) : std::strlen(what);
  char* out = static_cast<char*>(std::malloc(n + 1));
  std::memcpy(out, what, n);
  out[n] = 0;
  return out;
}

#define GUARD(...)                           \
  try {                                      \
    __VA_ARGS__;                             \
    return nullptr;                          \
  } catch (const std::exception& e) {        \
    return error_of(e.what());               \
  } catch (...) {                            \
    return error_of("unknown C++ exception"); \
  }

at::Tensor& ref(tensor t) { return *static_cast<at::Tensor*>(t); }

std::vector<at::Tensor> list(tensor* tensors, size_t n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (size_t i = 0; i < n; i++) out.push_back(ref(tensors[i]).detach());
  return out;
}

struct RustNode : torch::autograd::Node {
  void* env;
  shim_backward_fn apply_fn;
  shim_drop_fn drop_fn;
  size_t n_results;

  RustNode(void* env, shim_backward_fn apply_fn, shim_drop_fn drop_fn, size_t n_results)
      : env(env), apply_fn(apply_fn), drop_fn(drop_fn), n_results(n_results) {}
  ~RustNode() override { release_variables(); }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    if (!env) throw std::runtime_error("backward through a graph that was already used");
    std::vector<tensor> in;
    in.reserve(grads.size());
    for (auto& g : grads) in.push_back(g.defined() ? new at::Tensor(std::move(g)) : nullptr);
    grads.clear();
    std::vector<tensor> out(n_results, nullptr);
    void* taken = env;
    env = nullptr;  // The closure is consumed by the call, so what it saved is freed as the backward pass goes.
    char* error = apply_fn(taken, in.data(), in.size(), out.data(), out.size());
    if (error) {
      std::string message(error);
      std::free(error);
      throw std::runtime_error(message);
    }
    torch::autograd::variable_list results;
    results.reserve(n_results);
    for (auto t : out) {
      if (t) {
        results.push_back(std::move(ref(t)));
        delete static_cast<at::Tensor*>(t);
      } else {
        results.emplace_back();
      }
    }
    return results;
  }
  void release_variables() override {
    if (env) drop_fn(env);
    env = nullptr;
  }
  std::string name() const override { return "RustNode"; }
};

}  // namespace

extern "C" {

const char* shim_libtorch_version(void) { return TORCH_VERSION; }

void shim_free_error(char* error) { std::free(error); }

void shim_make_team(int threads) {
#pragma omp parallel num_threads(threads)
  {
    asm volatile("" ::: "memory");  // Work enough for the team to be made.
  }
}

int shim_is_recording(void) { return at::GradMode::is_enabled(); }

int shim_is_sole_handle(tensor t) {
  auto& it = ref(t);
  return it.use_count() == 1 && (!it.has_storage() || it.storage().use_count() == 1);
}

void shim_bump_version(tensor t) { ref(t).unsafeGetTensorImpl()->bump_version(); }

char* shim_attach(tensor* inputs, size_t n_in, tensor* outputs, size_t n_out, void* env, shim_backward_fn apply,
                  shim_drop_fn drop) {
  // From here the node owns `env`: it is dropped with the node whatever happens below.
  auto node = std::shared_ptr<RustNode>(new RustNode(env, apply, drop, n_in), torch::autograd::deleteNode);
  GUARD({
    torch::autograd::edge_list edges;
    edges.reserve(n_in);
    for (size_t i = 0; i < n_in; i++) edges.push_back(torch::autograd::impl::gradient_edge(ref(inputs[i])));
    node->set_next_edges(std::move(edges));
    for (size_t i = 0; i < n_out; i++) torch::autograd::set_history(ref(outputs[i]), node);
  })
}

char* shim_backward(tensor* roots, tensor* grads, size_t n) {
  GUARD({
    torch::autograd::edge_list edges;
    torch::autograd::variable_list inputs;
    for (size_t i = 0; i < n; i++) {
      edges.push_back(torch::autograd::impl::gradient_edge(ref(roots[i])));
      inputs.push_back(ref(grads[i]));
    }
    torch::autograd::Engine::get_default_engine().execute(edges, inputs, false, false, true);
  })
}

char* shim_drop_gradient(tensor leaf) {
  GUARD({ ref(leaf).mutable_grad().reset(); })
}

char* shim_parallel_for(int64_t begin, int64_t end, int64_t grain, void* env, shim_range_fn body) {
  GUARD({ at::parallel_for(begin, end, grain, [&](int64_t b, int64_t e) { body(env, b, e); }); })
}

char* shim_from_blob(void* data, const int64_t* sizes, size_t n, int kind, void* env, shim_drop_fn drop, tensor* out) {
  GUARD({
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(kind));
    *out = new at::Tensor(
        at::from_blob(data, at::IntArrayRef(sizes, n), [env, drop](void*) { drop(env); }, options));
  })
}

char* shim_set_f32_precision(const char* precision) {
  GUARD({ at::globalContext().setFloat32MatmulPrecision(precision); })
}

char* shim_set_num_threads(int intra) {
  GUARD({ at::set_num_threads(intra); })
}

char* shim_fused_adamw(tensor* tensors, size_t n, const double* options, double gradient_scale, int64_t step) {
  GUARD({
    at::NoGradGuard no_grad;
    auto values = list(tensors, n), gradients = list(tensors + n, n);
    auto firsts = list(tensors + 2 * n, n), seconds = list(tensors + 3 * n, n);
    if (gradient_scale != 1.0) gradients = at::_foreach_mul(gradients, at::Scalar(gradient_scale));
    auto on_device = values.at(0).options().dtype(at::kFloat);
    std::vector<at::Tensor> steps(n, at::full({}, static_cast<double>(step), on_device));
    at::_fused_adamw_(values, gradients, firsts, seconds, {}, steps, options[0], options[1], options[2], options[3],
                      options[4], /*amsgrad=*/false, /*maximize=*/false);
  })
}

char* shim_square_sum(tensor* tensors, size_t n, double* sum) {
  GUARD({
    at::NoGradGuard no_grad;
    auto norms = at::stack(at::_foreach_norm(list(tensors, n), at::Scalar(2))).to(at::kDouble);
    *sum = norms.square().sum().item<double>();
  })
}

char* shim_product_in_f32(tensor a, tensor b, tensor* out) {
  GUARD({
    at::NoGradGuard no_grad;
    *out = new at::Tensor(at::mm(ref(a), ref(b), at::kFloat));
  })
}

char* shim_accelerator_peak(int device, int64_t* bytes) {
  GUARD({
    auto* allocator = at::getDeviceAllocator(at::kCUDA);
    auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    *bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
  })
}
}

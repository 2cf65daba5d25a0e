// C ABI between Rust and libtorch. `Tensor *` is tch's C_tensor: a heap-allocated at::Tensor.
// Every function catches C++ exceptions; the message is read with poselift_torch_last_error.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <sys/stat.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdlib>
#include <string>
#include <vector>

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

static thread_local std::string last_error;

#define PROTECT(on_error, ...)                            \
  try {                                                   \
    __VA_ARGS__                                           \
  } catch (const c10::Error &error) {                     \
    last_error = error.what_without_backtrace();          \
    return on_error;                                      \
  } catch (const std::exception &error) {                 \
    last_error = error.what();                            \
    return on_error;                                      \
  } catch (...) {                                         \
    last_error = "an unknown C++ exception";              \
    return on_error;                                      \
  }

// ------------------------------------------------------------------------------------------------ implemented in Rust
// Layouts are repeated in src/kernel.rs. A pointer of an absent argument is null.
extern "C" {
struct ScanDims {
  size_t sequences, frames, channels, states;
};
struct ScanInputs {
  const void *u, *delta, *a, *b, *c, *d, *z, *delta_bias, *initial_state;
  int delta_softplus;
};
struct ScanOutputs {
  void *y, *last_state, *kept; // kept: on CUDA alone, states for the backward pass
};
struct ScanOutputGrads {
  const void *y, *last_state;
};
struct ScanInputGrads {
  void *u, *delta, *a, *b, *c, *d, *z, *delta_bias, *initial_state;
};
// 0 when done; else a message of at most `capacity` bytes, with its final 0, stands in `message`.
int poselift_scan_forward(int f64, const ScanDims *, const ScanInputs *, const ScanOutputs *, char *message, size_t capacity);
int poselift_scan_backward(int f64, const ScanDims *, const ScanInputs *, const ScanOutputGrads *, const ScanInputGrads *,
                           char *message, size_t capacity);
// The same on a device of CUDA, on a stream of it. element: 0 f32, 1 f16, 2 bf16, of u, delta, B, C, z, y; the rest is f32.
int poselift_scan_cuda_forward(int element, const ScanDims *, const ScanInputs *, const ScanOutputs *, int device, void *stream, char *message,
                               size_t capacity);
// Bytes of the states that a forward pass may keep for the backward pass, and of what that works in with them and without.
int poselift_scan_cuda_sizes(const ScanDims *, size_t *kept, size_t *workspace_with_kept, size_t *workspace, char *message, size_t capacity);
int poselift_scan_cuda_backward(int element, const ScanDims *, const ScanInputs *, const ScanOutputGrads *, const ScanInputGrads *,
                                const void *kept, void *workspace, int device, void *stream, char *message, size_t capacity);
}

namespace {

void require(int status, const char *message) { TORCH_CHECK(status == 0, message); }

const void *read(const Tensor &t) { return t.defined() ? t.const_data_ptr() : nullptr; }
void *write(Tensor &t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }
Tensor contiguous(const OptionalTensor &t) { return t.has_value() && t->defined() ? t->contiguous() : Tensor(); }

ScanDims dims_of(const Tensor &u, const Tensor &a) {
  return {size_t(u.size(0)), size_t(u.size(1)), size_t(u.size(2)), size_t(a.size(1))};
}

void check_shape(const char *name, const Tensor &t, at::IntArrayRef expected, const Tensor &u) {
  if (!t.defined()) return;
  TORCH_CHECK(t.sizes() == expected, "selective_scan: ", name, " must have shape ", expected, ", but has ", t.sizes());
  TORCH_CHECK(t.device() == u.device(), "selective_scan: ", name, " is on ", t.device(), " but u is on ", u.device());
}

// The order of every list of inputs below.
enum Input { U, DELTA, A, B, C, D, Z, DELTA_BIAS, INITIAL_STATE, INPUTS };

ScanInputs inputs_of(const variable_list &x, bool delta_softplus) {
  return {read(x[U]), read(x[DELTA]), read(x[A]), read(x[B]), read(x[C]), read(x[D]), read(x[Z]), read(x[DELTA_BIAS]), read(x[INITIAL_STATE]), delta_softplus};
}

// As the kernels for CUDA number element types.
int cuda_element(const Tensor &u) { return u.scalar_type() == at::kFloat ? 0 : u.scalar_type() == at::kHalf ? 1 : 2; }

// The stream that libtorch's own operations run on; asked of the device's guard, because CUDA's headers are not needed for that.
void *current_stream(const Tensor &t) { return c10::impl::VirtualGuardImpl(t.device().type()).getStream(t.device()).native_handle(); }

struct CudaSizes {
  size_t kept = 0, workspace_with_kept = 0, workspace = 0;
  explicit CudaSizes(const ScanDims &dims) {
    char message[512] = {0};
    require(poselift_scan_cuda_sizes(&dims, &kept, &workspace_with_kept, &workspace, message, sizeof message), message);
  }
};

Tensor bytes_like(const Tensor &t, size_t bytes) { return at::empty({int64_t(bytes)}, t.options().dtype(at::kByte)); }

struct SelectiveScan : public Function<SelectiveScan> {
  // `differentiated`: whether there will be a backward pass.
  static variable_list forward(AutogradContext *ctx, const Tensor &u, const Tensor &delta, const Tensor &a, const Tensor &b, const Tensor &c,
                               const OptionalTensor &d, const OptionalTensor &z, const OptionalTensor &delta_bias,
                               const OptionalTensor &initial_state, bool delta_softplus, bool differentiated) {
    variable_list x = {u.contiguous(), delta.contiguous(), a.contiguous(), b.contiguous(), c.contiguous(),
                       contiguous(d), contiguous(z), contiguous(delta_bias), contiguous(initial_state)};
    ScanDims dims = dims_of(u, a);
    Tensor y = at::empty_like(x[U]);
    Tensor last_state = at::empty({u.size(0), u.size(2), a.size(1)}, a.options());
    ScanInputs inputs = inputs_of(x, delta_softplus);
    Tensor kept; // undefined: the backward pass makes the states again
    char message[512] = {0};
    if (u.is_cuda()) {
      c10::DeviceGuard guard(u.device());
      if (differentiated) {
        // Where states are few, as much memory as u saves the backward pass a forward one; where they are many it is not worth it.
        CudaSizes sizes(dims);
        if (sizes.kept <= 2 * sizeof(float) * size_t(u.numel())) kept = bytes_like(u, sizes.kept);
      }
      ScanOutputs outputs = {write(y), write(last_state), write(kept)};
      require(poselift_scan_cuda_forward(cuda_element(u), &dims, &inputs, &outputs, u.device().index(), current_stream(u), message, sizeof message),
              message);
    } else {
      ScanOutputs outputs = {write(y), write(last_state), nullptr};
      require(poselift_scan_forward(u.scalar_type() == at::kDouble, &dims, &inputs, &outputs, message, sizeof message), message);
    }
    x.push_back(kept);
    ctx->save_for_backward(x);
    ctx->saved_data["delta_softplus"] = delta_softplus;
    ctx->set_materialize_grads(false);
    return {y, last_state};
  }

  static variable_list backward(AutogradContext *ctx, variable_list output_grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "selective_scan has no second derivative: call backward without create_graph");
    variable_list x = ctx->get_saved_variables();
    ScanDims dims = dims_of(x[U], x[A]);
    ScanInputs inputs = inputs_of(x, ctx->saved_data["delta_softplus"].toBool());
    Tensor grad_y = output_grads[0].defined() ? output_grads[0].contiguous() : at::zeros_like(x[U]);
    Tensor grad_last = output_grads[1].defined() ? output_grads[1].contiguous() : Tensor();
    variable_list grads(INPUTS + 2); // two more: delta_softplus and `differentiated` are arguments and have none
    for (int i = 0; i < INPUTS; ++i)
      if (x[i].defined()) grads[i] = at::empty_like(x[i]);
    ScanOutputGrads from = {read(grad_y), read(grad_last)};
    ScanInputGrads to = {write(grads[U]), write(grads[DELTA]), write(grads[A]), write(grads[B]), write(grads[C]),
                         write(grads[D]), write(grads[Z]), write(grads[DELTA_BIAS]), write(grads[INITIAL_STATE])};
    char message[512] = {0};
    if (x[U].is_cuda()) {
      c10::DeviceGuard guard(x[U].device());
      CudaSizes sizes(dims);
      const Tensor &kept = x[INPUTS];
      // Of libtorch's allocator, which gives it to nobody else before this stream's work on it is done.
      Tensor workspace = bytes_like(x[U], kept.defined() ? sizes.workspace_with_kept : sizes.workspace);
      require(poselift_scan_cuda_backward(cuda_element(x[U]), &dims, &inputs, &from, &to, read(kept), write(workspace), x[U].device().index(),
                                          current_stream(x[U]), message, sizeof message),
              message);
    } else {
      require(poselift_scan_backward(x[U].scalar_type() == at::kDouble, &dims, &inputs, &from, &to, message, sizeof message), message);
    }
    return grads;
  }
};

// Autocast hands out bf16 activations beside f32 parameters. On the CPU the scan computes in the widest of what it is given, f32 at least.
at::ScalarType compute_type(const std::vector<Tensor> &x) {
  for (const Tensor &t : x)
    if (t.defined() && t.scalar_type() == at::kDouble) return at::kDouble;
  return at::kFloat;
}

// On CUDA activations (u, delta, B, C, z) are read as they are if all are bf16 or all f16, else as f32; all else is f32, as is the arithmetic.
at::ScalarType cuda_activation_type(const std::vector<Tensor> &x) {
  at::ScalarType type = x[U].scalar_type();
  for (Input i : {U, DELTA, B, C, Z}) {
    if (!x[i].defined()) continue;
    TORCH_CHECK(x[i].scalar_type() != at::kDouble, "selective_scan: the kernels for CUDA compute in f32; give f32 tensors, or move them to the CPU");
    if (x[i].scalar_type() != type) return at::kFloat;
  }
  return type == at::kHalf || type == at::kBFloat16 ? type : at::kFloat;
}

std::vector<Tensor> tensors(Tensor **list, size_t count) {
  std::vector<Tensor> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i) out.push_back(*list[i]);
  return out;
}

} // namespace

extern "C" const char *poselift_torch_last_error() { return last_error.c_str(); }

// ------------------------------------------------------------------------------------------------------------ the scan
// `in`: INPUTS tensors, null where absent. `out`: y and last_state, owned by the caller. Returns 0, or -1 and an error.
extern "C" int poselift_torch_selective_scan(Tensor **in, int delta_softplus, Tensor **out) {
  PROTECT(-1,
    std::vector<Tensor> x(INPUTS);
    for (int i = 0; i < INPUTS; ++i) if (in[i]) x[i] = *in[i];
    TORCH_CHECK(x[U].dim() == 3, "selective_scan: u must have shape (S, L, D), but has ", x[U].sizes());
    TORCH_CHECK(x[A].dim() == 2, "selective_scan: A must have shape (D, N), but has ", x[A].sizes());
    bool cuda = x[U].is_cuda();
    at::ScalarType activations = cuda ? cuda_activation_type(x) : compute_type(x), parameters = cuda ? at::kFloat : activations;
    for (int i = 0; i < INPUTS; ++i) if (x[i].defined()) {
      Tensor &t = x[i];
      TORCH_CHECK(at::isFloatingType(t.scalar_type()), "selective_scan: every input must be floating point, but one is ", t.scalar_type());
      TORCH_CHECK(t.device().is_cpu() || t.is_cuda(), "selective_scan: tensors on ", t.device(), " are not supported; move them to the CPU or to CUDA");
      bool activation = i == U || i == DELTA || i == B || i == C || i == Z;
      t = t.to(activation ? activations : parameters);
    }
    int64_t s = x[U].size(0), l = x[U].size(1), d = x[U].size(2), n = x[A].size(1);
    check_shape("delta", x[DELTA], {s, l, d}, x[U]);
    check_shape("A", x[A], {d, n}, x[U]);
    check_shape("B", x[B], {s, l, n}, x[U]);
    check_shape("C", x[C], {s, l, n}, x[U]);
    check_shape("D", x[D], {d}, x[U]);
    check_shape("z", x[Z], {s, l, d}, x[U]);
    check_shape("delta_bias", x[DELTA_BIAS], {d}, x[U]);
    check_shape("initial_state", x[INITIAL_STATE], {s, d, n}, x[U]);
    auto optional = [&](Input i) { return x[i].defined() ? OptionalTensor(x[i]) : std::nullopt; };
    bool differentiated = false;
    for (const Tensor &t : x) differentiated = differentiated || (t.defined() && t.requires_grad());
    variable_list result = SelectiveScan::apply(x[U], x[DELTA], x[A], x[B], x[C], optional(D), optional(Z), optional(DELTA_BIAS),
                                                optional(INITIAL_STATE), delta_softplus != 0, differentiated && at::GradMode::is_enabled());
    out[0] = new Tensor(result[0]);
    out[1] = new Tensor(result[1]);
    return 0;
  )
}

// Runs task(context, i) for i in [0, count) on libtorch's own threads.
extern "C" int poselift_torch_parallel_for(size_t count, void (*task)(const void *, size_t), const void *context) {
  PROTECT(-1,
    at::parallel_for(0, int64_t(count), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) task(context, size_t(i));
    });
    return 0;
  )
}

// ----------------------------------------------------------------------------------------------------------- optimisers
// `lists` has `count` tensors each of: parameters, gradients, exp_avg, exp_avg_sq, max_exp_avg_sq (null without amsgrad), steps.
// Steps are f32 scalars on the parameters' device and are advanced here. decoupled: AdamW, else Adam with L2.
extern "C" int poselift_torch_fused_adam(int decoupled, Tensor **parameters, Tensor **gradients, Tensor **exp_avg, Tensor **exp_avg_sq,
                                         Tensor **max_exp_avg_sq, Tensor **steps, size_t count, double lr, double beta1, double beta2,
                                         double weight_decay, double eps) {
  PROTECT(-1,
    at::NoGradGuard no_grad;
    bool amsgrad = max_exp_avg_sq != nullptr;
    auto p = tensors(parameters, count);
    auto g = tensors(gradients, count);
    auto m = tensors(exp_avg, count);
    auto v = tensors(exp_avg_sq, count);
    auto x = tensors(max_exp_avg_sq, amsgrad ? count : 0);
    auto t = tensors(steps, count);
    for (Tensor &step : t) step.add_(1);
    if (decoupled)
      at::_fused_adamw_(p, g, m, v, x, t, lr, beta1, beta2, weight_decay, eps, amsgrad, false);
    else
      at::_fused_adam_(p, g, m, v, x, t, lr, beta1, beta2, weight_decay, eps, amsgrad, false);
    return 0;
  )
}

// ------------------------------------------------------------------------------------------------------------- autocast
// bf16 autocast on the CPU (cuda = 0) or CUDA; `was_enabled` receives what to give back to the exit.
extern "C" int poselift_torch_autocast_enter(int cuda, int *was_enabled) {
  PROTECT(-1,
    auto device = cuda ? at::kCUDA : at::kCPU;
    *was_enabled = at::autocast::is_autocast_enabled(device);
    at::autocast::set_autocast_dtype(device, at::kBFloat16);
    at::autocast::set_autocast_cache_enabled(true);
    at::autocast::set_autocast_enabled(device, true);
    at::autocast::increment_nesting();
    return 0;
  )
}
extern "C" int poselift_torch_autocast_exit(int cuda, int was_enabled) {
  PROTECT(-1,
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(cuda ? at::kCUDA : at::kCPU, was_enabled != 0);
    return 0;
  )
}

// ----------------------------------------------------------------------------------------------------------------- CUDA
// Loads libtorch_cuda.so from LIBTORCH_CUDA_DIR or from beside the loaded libtorch_cpu.so. 1: loaded, 0: there is none, -1: error.
extern "C" int poselift_torch_load_cuda_backend() {
  PROTECT(-1,
    std::string folder;
    if (const char *given = std::getenv("LIBTORCH_CUDA_DIR")) {
      folder = given;
    } else {
      Dl_info info;
      void *symbol = dlsym(RTLD_DEFAULT, "aoti_torch_device_type_cpu"); // any function of libtorch_cpu.so
      if (!symbol || !dladdr(symbol, &info)) { last_error = "libtorch_cpu.so is not among the loaded libraries"; return -1; }
      std::string path = info.dli_fname;
      size_t slash = path.find_last_of('/');
      folder = slash == std::string::npos ? "." : path.substr(0, slash);
    }
    std::string library = folder + "/libtorch_cuda.so";
    struct stat found;
    if (stat(library.c_str(), &found) != 0) return 0;
    // Never closed: libtorch keeps pointers into it until the process ends.
    if (!dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL)) { last_error = dlerror(); return -1; }
    return 1;
  )
}

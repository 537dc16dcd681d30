// What tch does not reach: Rust closures as autograd nodes, backward with given gradients, leaves without their
// gradient, the thread pool, tensors over foreign memory, operators over lists of tensors. Every function returns null or an error to be freed with
// shim_free_error; results go through out pointers. `tensor` is at::Tensor*, as in torch-sys.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void* tensor;

// Takes `n_in` gradients (null where undefined; ownership passes), writes `n_out` results (null for none;
// ownership passes back). Returns null, or an error that the caller frees with `free`.
typedef char* (*shim_backward_fn)(void* env, tensor* grads, size_t n_in, tensor* results, size_t n_out);
typedef void (*shim_drop_fn)(void* env);
typedef void (*shim_range_fn)(void* env, int64_t begin, int64_t end);

void shim_free_error(char* error);
const char* shim_libtorch_version(void);
int shim_is_recording(void);
void shim_make_team(int threads);  // Starts so many threads of the calling one's own team, which then sleep as long as it lives.
int shim_is_sole_handle(tensor t);  // Whether no other handle reaches this tensor or its memory.
void shim_bump_version(tensor t);  // Memory that was written without libtorch.
char* shim_attach(tensor* inputs, size_t n_in, tensor* outputs, size_t n_out, void* env, shim_backward_fn apply, shim_drop_fn drop);
char* shim_backward(tensor* roots, tensor* grads, size_t n);
char* shim_drop_gradient(tensor leaf);
char* shim_parallel_for(int64_t begin, int64_t end, int64_t grain, void* env, shim_range_fn body);
char* shim_from_blob(void* data, const int64_t* sizes, size_t n, int kind, void* env, shim_drop_fn drop, tensor* out);
char* shim_set_f32_precision(const char* precision);
char* shim_set_num_threads(int intra);
char* shim_accelerator_peak(int device, int64_t* bytes);
// `tensors` holds n values, n gradients, n first and n second moments, all f32; `options` the learning rate, both betas, the
// weight decay and epsilon; `step` counts from 1.
char* shim_fused_adamw(tensor* tensors, size_t n, const double* options, double gradient_scale, int64_t step);
char* shim_product_in_f32(tensor a, tensor b, tensor* out);  // Of bf16 or f16 matrices, unrounded: CUDA devices have it.
char* shim_square_sum(tensor* tensors, size_t n, double* sum);  // Of f32 tensors on one device: in f64, over their norms.

#ifdef __cplusplus
}
#endif

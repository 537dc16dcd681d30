//! The C surface of `cpp/shim.h`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

pub(crate) type BackwardFn = unsafe extern "C" fn(
    env: *mut c_void,
    grads: *mut *mut c_void,
    n_in: usize,
    results: *mut *mut c_void,
    n_out: usize,
) -> *mut c_char;
pub(crate) type DropFn = unsafe extern "C" fn(env: *mut c_void);
pub(crate) type RangeFn = unsafe extern "C" fn(env: *mut c_void, begin: i64, end: i64);

#[allow(unsafe_code)]
unsafe extern "C" {
    pub(crate) fn shim_libtorch_version() -> *const c_char;
    fn shim_free_error(error: *mut c_char);
    pub(crate) fn shim_is_recording() -> c_int;
    #[cfg(target_os = "linux")]
    pub(crate) fn shim_make_team(threads: c_int);
    pub(crate) fn shim_is_sole_handle(tensor: *mut c_void) -> c_int;
    pub(crate) fn shim_bump_version(tensor: *mut c_void);
    pub(crate) fn shim_attach(
        inputs: *mut *mut c_void,
        n_in: usize,
        outputs: *mut *mut c_void,
        n_out: usize,
        env: *mut c_void,
        apply: BackwardFn,
        drop: DropFn,
    ) -> *mut c_char;
    pub(crate) fn shim_backward(roots: *mut *mut c_void, grads: *mut *mut c_void, n: usize) -> *mut c_char;
    pub(crate) fn shim_drop_gradient(leaf: *mut c_void) -> *mut c_char;
    pub(crate) fn shim_parallel_for(begin: i64, end: i64, grain: i64, env: *mut c_void, body: RangeFn) -> *mut c_char;
    pub(crate) fn shim_from_blob(
        data: *mut c_void,
        sizes: *const i64,
        n: usize,
        kind: c_int,
        env: *mut c_void,
        drop: DropFn,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(crate) fn shim_set_f32_precision(precision: *const c_char) -> *mut c_char;
    pub(crate) fn shim_set_num_threads(intra: c_int) -> *mut c_char;
    pub(crate) fn shim_accelerator_peak(device: c_int, bytes: *mut i64) -> *mut c_char;
    pub(crate) fn shim_fused_adamw(
        tensors: *mut *mut c_void,
        n: usize,
        options: *const f64,
        gradient_scale: f64,
        step: i64,
    ) -> *mut c_char;
    pub(crate) fn shim_product_in_f32(a: *mut c_void, b: *mut c_void, out: *mut *mut c_void) -> *mut c_char;
    pub(crate) fn shim_square_sum(tensors: *mut *mut c_void, n: usize, sum: *mut f64) -> *mut c_char;
}

/// Turns a returned error into its text.
///
/// # Safety
/// `error` comes from a shim function and is not used again.
#[allow(unsafe_code)]
pub(crate) unsafe fn check(error: *mut c_char) -> Result<(), String> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: non-null errors are nul-terminated and ours to free.
    unsafe {
        let text = crate::autograd::text(CStr::from_ptr(error));
        shim_free_error(error);
        Err(text)
    }
}

/// An error text that the C++ side frees with `free`.
pub(crate) fn error_text(text: &str) -> *mut c_char {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // SAFETY: strdup copies a nul-terminated string with malloc.
    #[allow(unsafe_code)]
    unsafe {
        libc::strdup(text.as_ptr())
    }
}

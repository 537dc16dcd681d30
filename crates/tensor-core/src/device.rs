//! Devices, and what this process must do before its first tensor.
//!
//! The binary links libtorch's CPU half only. [`load_cuda`] loads the CUDA half if it lies beside it; libtorch decides
//! once for the life of the process whether it has CUDA, at the first seed, backward or query, so this comes first.

use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::sync::OnceLock;

use tch::Device;

use crate::{Error, Result, shim};

/// Products that oneDNN keeps ready, beside libtorch's own.
const PRODUCTS: &str = "64";

/// Lets oneDNN keep only so many products ready, unless the environment says how many. Call it in `main`, before anything
/// is computed: once this process has a second thread it changes nothing, for the environment is read by all of them.
///
/// oneDNN makes code and scratch memory for each new shape, and keeps a thousand of them by itself. Rows of documents hardly
/// ever have the same length twice, so a run of many steps would fill that: over 4-bit weights of SmolLM2-135M it grew by
/// 20 MB a step.
pub fn keep_few_products() {
    if !is_single_threaded() {
        return;
    }
    for name in ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"] {
        if std::env::var_os(name).is_none() {
            // SAFETY: there is no other thread, as was checked, and this one starts none before the end of the call.
            #[allow(unsafe_code)]
            unsafe {
                std::env::set_var(name, PRODUCTS);
            }
        }
    }
}

/// Whether this is the process's only thread; false where the system does not tell.
fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Loads libtorch's CUDA half if it lies beside the CPU half. The first statement of `main`.
///
/// Returns the library's path, or none where this libtorch is for the CPU only.
pub fn load_cuda() -> Result<Option<PathBuf>> {
    static LOADED: OnceLock<std::result::Result<Option<PathBuf>, String>> = OnceLock::new();
    LOADED.get_or_init(try_load).clone().map_err(|found| Error::Device {
        wanted: "cuda".into(),
        found,
        hint: "the CUDA libraries that libtorch was built for must lie beside it, as pip lays them out",
    })
}

fn try_load() -> std::result::Result<Option<PathBuf>, String> {
    // SAFETY: plain libc queries about a function of libtorch that this binary links; strings are nul-terminated.
    #[allow(unsafe_code)]
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"_ZN2at17manual_seedEm".as_ptr());
        let symbol = if symbol.is_null() {
            libc::dlsym(libc::RTLD_DEFAULT, c"_ZN2at15get_num_threadsEv".as_ptr())
        } else {
            symbol
        };
        if symbol.is_null() || libc::dladdr(symbol, &raw mut info) == 0 || info.dli_fname.is_null() {
            return Ok(None);
        }
        let cpu = PathBuf::from(CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned());
        let cuda = cpu.with_file_name("libtorch_cuda.so");
        if !cuda.exists() {
            return Ok(None);
        }
        let name = CString::new(cuda.to_string_lossy().as_bytes()).map_err(|e| e.to_string())?;
        if libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL).is_null() {
            return Err(CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned());
        }
        Ok(Some(cuda))
    }
}

/// Tells the allocator to keep what it has: large tensors are otherwise mapped and unmapped at every step.
pub fn keep_memory() {
    // SAFETY: documented glibc settings, made before any thread exists.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Gives the free pages of the heap back to the system.
///
/// After [`keep_memory`] a large block that is freed stays in the heap, and a small one that comes next is cut from it; the
/// following large block no longer fits, so the heap grows by one for each weight that is read and packed. Worth
/// calling after each of them; it takes about a millisecond.
pub fn trim_memory() {
    // SAFETY: a documented function of glibc, safe with any number of threads.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The device of a `--device` value: `auto`, `cpu`, `cuda` or `cuda:N`.
pub fn parse(wanted: &str) -> Result<Device> {
    let refuse = |found: &str, hint| Error::Device {
        wanted: wanted.into(),
        found: found.into(),
        hint,
    };
    match wanted.split_once(':').unwrap_or((wanted, "")) {
        ("cpu", "") => Ok(Device::Cpu),
        ("auto", "") => Ok(if load_cuda()?.is_some() && tch::Cuda::device_count() > 0 {
            Device::Cuda(0)
        } else {
            Device::Cpu
        }),
        ("cuda", number) => {
            let index: usize = if number.is_empty() { Ok(0) } else { number.parse() }
                .map_err(|_| refuse("no such number", "write cuda:0, cuda:1, …"))?;
            if load_cuda()?.is_none() {
                return Err(refuse(
                    "this libtorch is for the CPU only",
                    "set LIBTORCH_USE_PYTORCH=1 with a CUDA PyTorch 2.11 and build again",
                ));
            }
            let count = tch::Cuda::device_count();
            if (index as i64) < count {
                Ok(Device::Cuda(index))
            } else {
                Err(refuse(
                    &format!("{count} CUDA devices seen"),
                    "check the driver with nvidia-smi",
                ))
            }
        }
        _ => Err(refuse("unknown device", "use auto, cpu, cuda or cuda:N")),
    }
}

/// The version of the libtorch that this program was built against, such as `2.11.0`.
pub fn libtorch_version() -> &'static str {
    // SAFETY: a nul-terminated constant of the program.
    #[allow(unsafe_code)]
    let version = unsafe { CStr::from_ptr(shim::shim_libtorch_version()) };
    version.to_str().unwrap_or("unknown")
}

/// Peak bytes of this process: resident memory on the CPU, allocated memory on a CUDA device.
pub fn peak_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(index) => {
            let mut bytes = 0;
            // SAFETY: a plain query with an out pointer.
            #[allow(unsafe_code)]
            unsafe { shim::check(shim::shim_accelerator_peak(index as i32, &raw mut bytes)) }.ok()?;
            Some(bytes as u64)
        }
        _ => status_bytes("VmHWM:"),
    }
}

/// Bytes of this process now resident in memory.
pub fn resident_memory() -> Option<u64> {
    status_bytes("VmRSS:")
}

fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Lets f32 matrix products round their inputs to bf16 (`true`) or not. Off unless asked for.
pub fn allow_fast_f32(allow: bool) -> Result<()> {
    let precision = if allow { c"medium" } else { c"highest" };
    // SAFETY: a nul-terminated constant.
    #[allow(unsafe_code)]
    unsafe { shim::check(shim::shim_set_f32_precision(precision.as_ptr())) }.map_err(Error::Torch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_left_alone_while_there_are_other_threads() {
        // The thread that runs this test is never the only one.
        let waiting = std::thread::spawn(std::thread::park);
        assert!(!is_single_threaded());
        let before: Vec<_> = std::env::vars_os().collect();
        keep_few_products();
        assert_eq!(std::env::vars_os().collect::<Vec<_>>(), before);
        waiting.thread().unpark();
        waiting.join().unwrap();
    }
}

//! Compiles the shim against the libtorch that torch-sys links.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=cpp/shim.cpp");
    println!("cargo::rerun-if-changed=cpp/shim.h");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let view = libtorch();
    let include = view.join("include");
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .opt_level(2)
        .flag("-std=c++17")
        .flag("-fopenmp")
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("cpp/shim.cpp")
        .compile("finetune_shim");
    println!("cargo::rustc-link-lib=dylib=gomp");
}

/// The folder that holds `include` and `lib`, found as torch-sys finds it.
fn libtorch() -> PathBuf {
    if let Some(path) = env::var_os("LIBTORCH") {
        return PathBuf::from(path);
    }
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        let python = env::var("PYTHON").unwrap_or_else(|_| "python3".into());
        let found = std::process::Command::new(python)
            .args(["-c", "import torch, os; print(os.path.dirname(torch.__file__))"])
            .output();
        if let Ok(out) = found
            && out.status.success()
        {
            return PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
        }
    }
    eprintln!("error: libtorch was not found\nhint: run `cargo xtask setup` once, or set LIBTORCH");
    std::process::exit(1);
}

//! Compiles the shim against the headers of the very libtorch that torch-sys links.
//!
//! torch-sys tells where that one's libraries lie (its `links` metadata); the headers lie beside them, or where
//! `LIBTORCH_INCLUDE` says, as torch-sys reads it. Nothing is looked for a second time.

#[path = "build/libtorch.rs"]
mod libtorch;

use std::env;

use self::libtorch::{Said, libtorch};

fn main() {
    // Documentation links nothing.
    if env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() {
        return;
    }
    println!("cargo::rerun-if-changed=cpp/shim.cpp");
    println!("cargo::rerun-if-changed=cpp/shim.h");
    for name in ["LIBTORCH_INCLUDE", "LIBTORCH_USE_PYTORCH", "LIBTORCH_CXX11_ABI"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let uses_pytorch = env::var("LIBTORCH_USE_PYTORCH").is_ok();
    let said = Said {
        libraries: env::var_os("DEP_TCH_LIBTORCH_LIB").map(Into::into),
        include: env::var_os("LIBTORCH_INCLUDE").map(Into::into),
        uses_pytorch,
    };
    let (include, libraries) = libtorch(said).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        std::process::exit(1);
    });
    // PyTorch's own packages are built so; torch-sys asks the interpreter for the same answer.
    let abi = match env::var("LIBTORCH_CXX11_ABI") {
        Ok(abi) if !uses_pytorch => abi,
        _ => "1".into(),
    };
    println!("cargo::rerun-if-changed={}", libraries.display());
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .opt_level(2)
        .flag("-std=c++17")
        .flag("-fopenmp")
        .flag(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"))
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("cpp/shim.cpp")
        .compile("finetune_shim");
    println!("cargo::rustc-link-lib=dylib=gomp");
}

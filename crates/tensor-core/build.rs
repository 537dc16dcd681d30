//! Compiles the shim against the headers of the very libtorch that torch-sys links.
//!
//! torch-sys tells where that one's libraries lie (its `links` metadata); the headers lie beside them, or where
//! `LIBTORCH_INCLUDE` says, as torch-sys reads it. Nothing is looked for a second time.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

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
    let (include, libraries) = libtorch().unwrap_or_else(|error| {
        eprintln!("error: {error}");
        std::process::exit(1);
    });
    // PyTorch's own packages are built so; torch-sys asks the interpreter for the same answer.
    let abi = match env::var("LIBTORCH_CXX11_ABI") {
        Ok(abi) if !uses_pytorch() => abi,
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

fn uses_pytorch() -> bool {
    env::var("LIBTORCH_USE_PYTORCH").is_ok()
}

/// The folders of libtorch's headers and of its libraries.
fn libtorch() -> Result<(PathBuf, PathBuf), String> {
    let libraries = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).ok_or(
        "torch-sys does not say which libtorch it links\n\
         hint: set LIBTORCH to the folder of a libtorch 2.11 (with `include` and `lib`), or LIBTORCH_USE_PYTORCH=1 where \
         Python has PyTorch 2.11, and build without tch's feature `doc-only`; `cargo xtask setup` fetches one for a checkout",
    )?;
    // Python's installation has its headers beside its libraries; otherwise the variable may put them elsewhere.
    let root = match env::var_os("LIBTORCH_INCLUDE") {
        Some(root) if !uses_pytorch() => PathBuf::from(root),
        _ => beside(&libraries).to_owned(),
    };
    let include = root.join("include");
    let header = "torch/headeronly/version.h";
    let text = fs::read_to_string(include.join(header)).map_err(|error| {
        format!(
            "the headers of the libtorch in `{}`: wanted `{header}` in `{}`: {error}\n\
             hint: set LIBTORCH_INCLUDE to the folder whose `include` belongs to that libtorch",
            libraries.display(),
            include.display()
        )
    })?;
    same_version(&text, &libraries)?;
    Ok((include, libraries))
}

/// The folder that the libraries' own lies in; by name, since it may be a link into another one.
fn beside(libraries: &Path) -> &Path {
    libraries.parent().unwrap_or(libraries)
}

/// An error if the headers are of another version than the libraries, as far as these say theirs.
fn same_version(header: &str, libraries: &Path) -> Result<(), String> {
    let Ok(built) = fs::read_to_string(beside(libraries).join("build-version")) else {
        return Ok(());
    };
    let of = |text: &str| text.trim().split('+').next().unwrap_or_default().to_owned();
    let number = |part: &str| {
        let key = format!("#define TORCH_VERSION_{part} ");
        let line = header.lines().find_map(|line| line.strip_prefix(&key));
        line.unwrap_or_default().trim().to_owned()
    };
    let headers = ["MAJOR", "MINOR", "PATCH"].map(number).join(".");
    if headers == of(&built) {
        return Ok(());
    }
    Err(format!(
        "headers of libtorch {headers} beside libraries of libtorch {} in `{}`\n\
         hint: LIBTORCH_INCLUDE names another libtorch than LIBTORCH or LIBTORCH_LIB",
        of(&built),
        libraries.display()
    ))
}

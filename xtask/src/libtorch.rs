//! `cargo xtask setup`: libtorch into the cache, and a few lines that tell cargo where it lies.
//!
//! The wheels are unpacked side by side as pip would lay them, so that the libraries find each other. The build links against
//! a *view* of them that shows the CPU libraries only: one binary then runs with and without CUDA, and loads it when it is there.

use crate::place::{Cache, checkout, write_if_changed};
use crate::{cargo, compiler};
use anyhow::{Context, Result, bail, ensure};
use fetch::Tools;
use fetch::Wheels;
use fetch::{Manifest, unpack};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that tch is made for.
pub(crate) const VERSION: &str = "2.11.0";

/// About what is unpacked, in bytes: libraries and headers.
const UNPACKED: u64 = 540_000_000;

/// A usable libtorch.
#[derive(Debug, PartialEq, Eq)]
struct Libtorch {
    /// What the build is given as `LIBTORCH`: `include/` and `lib/`.
    build: PathBuf,
    /// Where the libraries are searched for at run time.
    run: PathBuf,
}

/// Fetches libtorch unless one is named or was set up before, and writes `.cargo/libtorch.toml`.
pub(crate) fn setup(cache: &Cache, tools: &Tools, wheels: Wheels) -> Result<()> {
    let compiler = compiler::find(tools)?;
    let path = config_path();
    let before = fs::read_to_string(&path).ok().as_deref().and_then(named_in);
    let asked = std::env::var_os("LIBTORCH")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let libtorch = if let Some(asked) = asked.filter(|asked| Some(asked) != before.as_ref()) {
        // Cargo hands the program its own `[env]`; only a value that is not from there was set by the user.
        given(&asked).context("LIBTORCH")?
    } else if std::env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        let libtorch = installed_pytorch(cache, tools).context("LIBTORCH_USE_PYTORCH")?;
        eprintln!("LIBTORCH_USE_PYTORCH may be unset now: cargo has been told where it lies");
        libtorch
    } else if let Some(libtorch) = before.as_deref().and_then(|before| given(before).ok()) {
        libtorch
    } else {
        fetched(cache, tools, wheels)?
    };
    if write_if_changed(&path, &config(&libtorch, &cargo::host()?, compiler))? {
        eprintln!("wrote {}", path.display());
    }
    eprintln!("libtorch {VERSION}: {}", libtorch.build.display());
    if std::env::var_os("RUSTFLAGS").is_some() {
        eprintln!(
            "warning: RUSTFLAGS hides what setup wrote; add `-C link-arg=-Wl,-rpath,{}` to it",
            libtorch.run.display()
        );
    }
    Ok(())
}

/// The file that `.cargo/config.toml` includes.
fn config_path() -> PathBuf {
    checkout().join(".cargo/libtorch.toml")
}

fn config(libtorch: &Libtorch, host: &str, compiler: Option<&str>) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let build = quoted(&libtorch.build.to_string_lossy());
    let run = quoted(&format!("link-arg=-Wl,-rpath,{}", libtorch.run.display()));
    let compiler = compiler.map_or(String::new(), |name| format!("CXX = {}\n", quoted(name)));
    // Examples in the documentation are programs too, linked by rustdoc.
    format!(
        "# Written by `cargo xtask setup`; remove it to have libtorch looked for anew.\n\
         [env]\nLIBTORCH = {build}\n{compiler}\n\
         [target.{host}]\nrustflags = [\"-C\", {run}]\nrustdocflags = [\"-C\", {run}]\n"
    )
}

/// The `LIBTORCH` that `setup` wrote for this checkout.
pub(crate) fn named() -> Option<PathBuf> {
    named_in(&std::fs::read_to_string(config_path()).ok()?)
}

/// The `LIBTORCH` that a written configuration names.
fn named_in(config: &str) -> Option<PathBuf> {
    let table: toml::Table = config.parse().ok()?;
    table.get("env")?.get("LIBTORCH")?.as_str().map(PathBuf::from)
}

/// Where the libraries lie that setup has found, for programs that are linked without its flags.
pub(crate) fn libraries() -> Option<PathBuf> {
    libraries_in(&std::fs::read_to_string(config_path()).ok()?)
}

fn libraries_in(config: &str) -> Option<PathBuf> {
    let table: toml::Table = config.parse().ok()?;
    let targets = table.get("target")?.as_table()?.values();
    let mut flags = targets.filter_map(|target| target.get("rustflags")?.as_array());
    let run = flags.find_map(|flags| flags.iter().filter_map(toml::Value::as_str).find_map(rpath))?;
    Some(run.into())
}

fn rpath(flag: &str) -> Option<&str> {
    flag.strip_prefix("link-arg=-Wl,-rpath,")
}

/// A libtorch that somebody else unpacked, checked for its version.
fn given(build: &Path) -> Result<Libtorch> {
    let lib = build.join("lib");
    let library = ["libtorch_cpu.so", "libtorch_cpu.dylib"]
        .into_iter()
        .map(|name| lib.join(name))
        .find(|path| path.exists());
    let library = library.with_context(|| {
        format!(
            "`{}` holds no libtorch: `lib/libtorch_cpu.so` was wanted",
            build.display()
        )
    })?;
    ensure!(
        build.join("include").is_dir(),
        "`{}` has no folder `include`",
        build.display()
    );
    let stated = fs::read_to_string(build.join("build-version")).ok();
    let stated = stated.or_else(|| {
        fs::read_to_string(build.join("version.py"))
            .ok()
            .and_then(|text| python_version(&text))
    });
    if let Some(stated) = stated {
        let found = stated.trim().split('+').next().unwrap_or_default().to_owned();
        ensure!(
            found == VERSION,
            "`{}` is libtorch {found}, {VERSION} was wanted",
            build.display()
        );
    }
    // A view holds links; what is loaded at run time is what they lead to.
    let real = fs::canonicalize(&library).with_context(|| format!("`{}`", library.display()))?;
    let run = real.parent().context("a library lies in a folder")?.to_owned();
    Ok(Libtorch {
        build: std::path::absolute(build)?,
        run,
    })
}

/// `2.11.0` of a line `__version__ = '2.11.0+cu130'`.
fn python_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    line.split(['\'', '"']).nth(1).map(str::to_owned)
}

/// A view of the PyTorch that the Python interpreter imports.
fn installed_pytorch(cache: &Cache, tools: &Tools) -> Result<Libtorch> {
    let python = tools.python()?;
    let output = Command::new(&python)
        .args(["-c", "import torch; print(torch.__path__[0])"])
        .output();
    let output = output.with_context(|| format!("cannot run `{}`", python.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` cannot import torch: {}",
            python.display(),
            said.lines().last().unwrap_or_default()
        );
    }
    let torch = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    given(&torch)?;
    let digest = Sha256::digest(torch.as_os_str().as_encoded_bytes());
    let place = cache.root().join(format!(
        "libtorch-view-{:02x}{:02x}{:02x}{:02x}",
        digest[0], digest[1], digest[2], digest[3]
    ));
    if !place.exists() {
        let aside = place.with_extension("partial");
        view(&aside, &torch, &torch)?;
        fs::rename(&aside, &place).with_context(|| format!("cannot write `{}`", place.display()))?;
    }
    given(&place)
}

/// The wheels, unpacked below the cache.
fn fetched(cache: &Cache, tools: &Tools, wheels: Wheels) -> Result<Libtorch> {
    let place = cache.root().join(format!("libtorch-{VERSION}"));
    let manifest = Manifest::compiled_in()?;
    let packages = ["torch", "cuda-runtime", "cuda-cupti"].map(|id| manifest.package(id));
    let packages = packages.into_iter().collect::<Result<Vec<_>>>()?;
    let lines: Vec<String> = packages
        .iter()
        .map(|package| format!("{} {}", package.sha256, package.file))
        .collect();
    let stamp = lines.join(
        "
",
    ) + "
";
    let complete = |place: &Path| fs::read_to_string(place.join("complete")).is_ok_and(|found| found == stamp);
    if !complete(&place) {
        ensure!(
            cfg!(all(target_os = "linux", target_arch = "x86_64")),
            "libtorch is fetched for Linux on x86-64 only\nhint: set LIBTORCH to an unpacked libtorch {VERSION}, or LIBTORCH_USE_PYTORCH=1 for the PyTorch {VERSION} that Python imports"
        );
        let _lock = cache.lock()?;
        // Another process may have done it while this one waited.
        if !complete(&place) {
            let archives = packages
                .iter()
                .map(|package| fetch::archive(package, cache, tools))
                .collect::<Result<Vec<_>>>()?;
            unpack(cache, &archives, &place, &stamp)?;
            for archive in &archives {
                wheels.after_unpacking(archive)?;
            }
        }
    }
    given(&place.join("view"))
}

fn unpack(cache: &Cache, archives: &[PathBuf], place: &Path, stamp: &str) -> Result<()> {
    let aside = place.with_file_name(format!("libtorch-{VERSION}.partial"));
    for old in [aside.as_path(), place] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove `{}`", old.display()))?;
        }
    }
    let watch = cache.watch("unpacking libtorch", &aside, UNPACKED);
    for archive in archives {
        unpack::members(archive, &mut |name| needed(name).then(|| aside.join(name)))?;
    }
    view(&aside.join("view"), Path::new("../torch"), &aside.join("torch"))?;
    fs::write(aside.join("complete"), stamp)?;
    fs::rename(&aside, place).with_context(|| format!("cannot write `{}`", place.display()))?;
    watch.done();
    Ok(())
}

fn needed(member: &str) -> bool {
    let library = |name: &str| ["libtorch_cpu.so", "libc10.so"].contains(&name) || name.starts_with("libgomp");
    if member.contains("/../") {
        return false;
    }
    member.strip_prefix("torch/lib/").is_some_and(library)
        || member.starts_with("torch/include/")
        || member == "torch/version.py"
        || (member.starts_with("nvidia/cu13/lib/") && member.contains(".so"))
}

/// Links to the CPU part of a torch folder, for the linker: without `libtorch_cuda.so` in sight nothing links against it.
///
/// `link` is how the torch folder is reached from `at`, `torch` where it lies now.
fn view(at: &Path, link: &Path, torch: &Path) -> Result<()> {
    if at.exists() {
        fs::remove_dir_all(at)?;
    }
    let place = || format!("cannot write `{}`", at.display());
    fs::create_dir_all(at.join("lib")).with_context(place)?;
    symlink(link.join("include"), at.join("include")).with_context(place)?;
    let from_lib = if link.is_absolute() {
        link.to_owned()
    } else {
        Path::new("..").join(link)
    };
    for entry in fs::read_dir(torch.join("lib")).with_context(|| format!("`{}`", torch.display()))? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if ["libtorch_cpu.so", "libc10.so"].contains(&text.as_ref()) || text.starts_with("libgomp") {
            symlink(from_lib.join("lib").join(&name), at.join("lib").join(&name)).with_context(place)?;
        }
    }
    // A linker script: `-ltorch` becomes the two libraries there are.
    fs::write(at.join("lib/libtorch.so"), "INPUT(libtorch_cpu.so libc10.so)\n").with_context(place)?;
    fs::write(at.join("build-version"), format!("{VERSION}\n")).with_context(place)
}

/// What `setup` wrote is known to `cargo`; plain builds need nothing else.
pub(crate) fn build_release() -> Result<PathBuf> {
    build(&["--release"], "release")
}

/// The command as tests use it: not as fast, but soon built.
pub(crate) fn build_dev() -> Result<PathBuf> {
    build(&[], "debug")
}

fn build(options: &[&str], folder: &str) -> Result<PathBuf> {
    cargo::run(
        cargo::command()
            .args(["build", "--package", "finetune", "--bin", "finetune"])
            .args(options),
    )?;
    let binary = cargo::metadata()?.target_directory.join(folder).join("finetune");
    ensure!(binary.is_file(), "`{}` was not built", binary.display());
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn torch_folder(version: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for folder in ["torch/lib", "torch/include"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        for name in ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libtorch_cuda.so"] {
            fs::write(home.path().join("torch/lib").join(name), name).unwrap();
        }
        fs::write(
            home.path().join("torch/version.py"),
            format!("__version__ = '{version}+cu130'\n"),
        )
        .unwrap();
        home
    }

    #[test]
    fn a_view_shows_the_cpu_libraries_only_and_survives_a_move() {
        let home = torch_folder(VERSION);
        view(
            &home.path().join("view"),
            Path::new("../torch"),
            &home.path().join("torch"),
        )
        .unwrap();
        let moved = tempfile::tempdir().unwrap();
        let there = moved.path().join("there");
        fs::rename(home.path(), &there).unwrap();
        let libtorch = given(&there.join("view")).unwrap();
        assert!(!libtorch.build.join("lib/libtorch_cuda.so").exists());
        assert_eq!(
            fs::read_to_string(libtorch.build.join("lib/libtorch_cpu.so")).unwrap(),
            "libtorch_cpu.so"
        );
        assert_eq!(libtorch.run, fs::canonicalize(there.join("torch/lib")).unwrap());
    }

    #[test]
    fn another_version_and_an_empty_folder_are_refused_with_what_was_found() {
        let home = torch_folder("2.9.1");
        let text = given(&home.path().join("torch")).unwrap_err().to_string();
        assert!(text.contains("2.9.1") && text.contains("2.11.0 was wanted"), "{text}");
        let text = given(home.path()).unwrap_err().to_string();
        assert!(text.contains("lib/libtorch_cpu.so"), "{text}");
    }

    #[test]
    fn the_written_lines_are_read_back() {
        let libtorch = Libtorch {
            build: "/a b/\"view\"".into(),
            run: "/a b/lib".into(),
        };
        let text = config(&libtorch, "x86_64-unknown-linux-gnu", Some("clang++"));
        assert_eq!(named_in(&text).unwrap(), libtorch.build);
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["env"]["CXX"].as_str(), Some("clang++"));
        for kind in ["rustflags", "rustdocflags"] {
            let flags = table["target"]["x86_64-unknown-linux-gnu"][kind].as_array().unwrap();
            assert_eq!(flags[1].as_str(), Some("link-arg=-Wl,-rpath,/a b/lib"));
        }
        assert_eq!(libraries_in(&text), Some("/a b/lib".into()));
        assert!(!config(&libtorch, "x86_64-unknown-linux-gnu", None).contains("CXX"));
    }

    #[test]
    fn only_what_a_cpu_build_needs_is_taken_from_the_wheels() {
        let rows = [
            ("torch/lib/libtorch_cpu.so", true),
            ("torch/lib/libgomp.so.1", true),
            ("torch/lib/libtorch_cuda.so", false),
            ("torch/lib/libtorch_python.so", false),
            ("torch/include/ATen/ATen.h", true),
            ("torch/include/../../evil", false),
            ("torch/version.py", true),
            ("torch/nn/modules/linear.py", false),
            ("nvidia/cu13/lib/libcudart.so.13", true),
            ("nvidia/cu13/lib/libcudart_static.a", false),
            ("nvidia/cu13/include/cuda.h", false),
        ];
        for (member, wanted) in rows {
            assert_eq!(needed(member), wanted, "{member}");
        }
    }
}

//! Which libtorch is compiled against: what `build.rs` asks, in a file that tests can read too.

use std::fs;
use std::path::{Path, PathBuf};

/// What the environment says: the library's folder from torch-sys, and `LIBTORCH_INCLUDE` and `LIBTORCH_USE_PYTORCH` as
/// torch-sys reads them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// `DEP_TCH_LIBTORCH_LIB`.
    pub(crate) libraries: Option<PathBuf>,
    /// `LIBTORCH_INCLUDE`.
    pub(crate) include: Option<PathBuf>,
    /// Whether `LIBTORCH_USE_PYTORCH` is set.
    pub(crate) uses_pytorch: bool,
}

/// The folders of libtorch's headers and of its libraries.
pub(crate) fn libtorch(said: Said) -> Result<(PathBuf, PathBuf), String> {
    let libraries = said.libraries.ok_or(
        "torch-sys does not say which libtorch it links\n\
         hint: set LIBTORCH to the folder of a libtorch 2.11 (with `include` and `lib`), or LIBTORCH_USE_PYTORCH=1 where \
         Python has PyTorch 2.11, and build without tch's feature `doc-only`; `cargo xtask setup` fetches one for a checkout",
    )?;
    // Python's installation has its headers beside its libraries; otherwise the variable may put them elsewhere.
    let root = match said.include {
        Some(root) if !said.uses_pytorch => root,
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

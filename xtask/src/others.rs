//! What whoever depends on a crate meets: its examples, its package, its README followed in a project of their own.

use crate::cargo::{self, Metadata};
use crate::libtorch;
use crate::place::checkout;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A check by name.
pub(crate) type Check = (String, Box<dyn Fn() -> Result<()>>);

/// The crates whose README is followed to the letter; the READMEs of all are compiled as tests of documentation.
const FOLLOWED: [&str; 4] = ["gemm", "block-codecs", "lora", "quant"];

/// All checks. The examples must have been built, as `cargo test` does.
pub(crate) fn checks() -> Result<Vec<Check>> {
    let metadata = cargo::metadata()?;
    let built = metadata.target_directory.join("debug/examples");
    let mut checks: Vec<Check> = Vec::new();
    for package in metadata.packages.iter().filter(|package| package.is_published()) {
        for example in package.targets.iter().filter(|target| target.is_example()) {
            let mut program = built.join(&example.name);
            program.set_extension(std::env::consts::EXE_EXTENSION);
            let name = format!("example {} of {}", example.name, package.name);
            checks.push((name, Box::new(move || cargo::run(&mut Command::new(&program)))));
        }
    }
    let target = metadata.target_directory.clone();
    checks.push((
        "a project outside the checkout".into(),
        Box::new(move || follow_readmes(&target)),
    ));
    checks.push((
        "a package of every crate".into(),
        Box::new(move || cargo::run(&mut packages(&metadata))),
    ));
    Ok(checks)
}

/// Packs what can be published, as `cargo publish` would.
fn packages(metadata: &Metadata) -> Command {
    let mut command = cargo::command();
    // What verifies a package is that all of this workspace compiles.
    command.args(["package", "--quiet", "--offline", "--no-verify", "--allow-dirty"]);
    for package in metadata.packages.iter().filter(|package| package.is_published()) {
        command.args(["--package", &package.name]);
    }
    command
}

/// Makes a project in a temporary folder that depends on crates of this checkout by path, with the programs of their READMEs,
/// and runs these with no more than the READMEs ask for.
fn follow_readmes(target: &Path) -> Result<()> {
    let unknown = "no libtorch is known\nhint: `cargo xtask setup`";
    let (named, libraries) = (
        libtorch::named().context(unknown)?,
        libtorch::libraries().context(unknown)?,
    );
    let home = tempfile::tempdir()?;
    let source = home.path().join("src/bin");
    fs::create_dir_all(&source)?;
    let mut manifest =
        "[package]\nname = \"outside\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n".to_owned();
    for name in FOLLOWED {
        let folder = checkout().join("crates").join(name);
        let readme = folder.join("README.md");
        let text = fs::read_to_string(&readme).with_context(|| format!("`{}`", readme.display()))?;
        let program = program(&text).with_context(|| format!("no Rust program in `{}`", readme.display()))?;
        fs::write(source.join(format!("{name}.rs")), program)?;
        let folder = toml::Value::from(folder.to_string_lossy().into_owned());
        writeln!(manifest, "finetune-{name} = {{ path = {folder} }}")?;
    }
    fs::write(home.path().join("Cargo.toml"), manifest)?;
    // The versions that are tested here; no index is asked.
    fs::copy(checkout().join("Cargo.lock"), home.path().join("Cargo.lock"))?;
    for name in FOLLOWED {
        let mut command = cargo::command();
        command
            .args(["run", "--quiet", "--offline", "--bin", name])
            .current_dir(home.path())
            .env("CARGO_TARGET_DIR", target)
            .env("LIBTORCH", &named)
            .env("LD_LIBRARY_PATH", &libraries);
        cargo::run(&mut command).with_context(|| format!("the program of `crates/{name}/README.md`"))?;
    }
    Ok(())
}

/// The first program in a page.
fn program(page: &str) -> Option<&str> {
    let (_, rest) = page.split_once("```rust\n")?;
    Some(rest.split_once("```")?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_of_a_crate_that_is_followed_has_a_program() {
        assert_eq!(
            program("a\n```toml\nx\n```\n```rust\nfn main() {}\n```\n"),
            Some("fn main() {}\n")
        );
        assert_eq!(program("```rust,no_run\nfn main() {}\n```\n"), None);
        for name in FOLLOWED {
            let page = fs::read_to_string(checkout().join("crates").join(name).join("README.md")).unwrap();
            assert!(program(&page).unwrap().contains("fn main()"), "{name}");
        }
    }

    #[test]
    fn every_method_has_an_example() {
        let metadata = cargo::metadata().unwrap();
        for name in [
            "lora",
            "dora",
            "quant",
            "prune",
            "hft",
            "adapters",
            "moe",
            "memory-tuning",
            "align-dpo-ppo",
        ] {
            let package = metadata
                .packages
                .iter()
                .find(|package| package.name == format!("finetune-{name}"));
            assert!(package.unwrap().targets.iter().any(cargo::Target::is_example), "{name}");
        }
    }

    #[test]
    fn what_is_packed_is_what_may_be_published() {
        let arguments: Vec<_> = packages(&cargo::metadata().unwrap())
            .get_args()
            .map(ToOwned::to_owned)
            .collect();
        assert!(arguments.contains(&"finetune-lora".into()) && arguments.contains(&"finetune".into()));
        assert!(!arguments.contains(&"golden".into()) && !arguments.contains(&"xtask".into()));
    }
}

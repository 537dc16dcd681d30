//! The built command on machines that lack something: what it says, and what it leaves alone.

use std::path::Path;
use std::process::{Command, Output};

fn xtask(cache: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).env("FINETUNE_CACHE", cache).env("PATH", "");
    for name in ["PYTHON", "CXX", "LIBTORCH", "LIBTORCH_USE_PYTORCH"] {
        command.env_remove(name);
    }
    command.output().expect("xtask runs")
}

#[test]
fn without_python_a_fetch_fails_and_names_the_packages_to_install() {
    let home = tempfile::tempdir().expect("a folder");
    let output = xtask(home.path(), &["fetch", "sarcasm"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("Python 3 was not found") && said.contains("apt-get install python3 python3-pip"),
        "{said}"
    );
    assert!(!home.path().join("data/sarcasm").exists());
}

#[test]
fn without_a_compiler_setup_fails_before_anything_is_fetched() {
    let home = tempfile::tempdir().expect("a folder");
    let output = xtask(home.path(), &["setup"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no C++ compiler was found") && said.contains("apt-get install g++"),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(home.path()).expect("the cache").count(), 0);
}

#[test]
fn a_cache_inside_the_checkout_is_refused() {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this");
    let checkout = Path::new(&manifest).parent().expect("the checkout");
    let output = xtask(&checkout.join("cache"), &["fetch", "sarcasm"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("inside the checkout") && said.contains("hint: set FINETUNE_CACHE"),
        "{said}"
    );
    assert!(!checkout.join("cache").exists());
}

#[test]
fn the_list_of_what_can_be_fetched_needs_no_tools() {
    let home = tempfile::tempdir().expect("a folder");
    let output = xtask(home.path(), &["fetch", "--list"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("smollm2-135m-instruct") && said.contains("Apache-2.0"),
        "{said}"
    );
}

#[test]
fn wrong_usage_exits_with_two() {
    let home = tempfile::tempdir().expect("a folder");
    assert_eq!(xtask(home.path(), &["fetch"]).status.code(), Some(2));
    assert_eq!(xtask(home.path(), &["dance"]).status.code(), Some(2));
}

//! The build script compiles against the headers of the libtorch that torch-sys links, or says which do not fit.

#[path = "../build/libtorch.rs"]
mod libtorch;

use std::fs;
use std::path::{Path, PathBuf};

use libtorch::{Said, libtorch};

/// A folder like an unpacked libtorch: headers of one version, libraries of another.
fn unpacked(at: &Path, name: &str, headers: &str, built: Option<&str>) -> PathBuf {
    let root = at.join(name);
    let folder = root.join("include/torch/headeronly");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(root.join("lib")).unwrap();
    let lines: Vec<String> = ["MAJOR", "MINOR", "PATCH"]
        .iter()
        .zip(headers.split('.'))
        .map(|(part, number)| format!("#define TORCH_VERSION_{part} {number}\n"))
        .collect();
    fs::write(folder.join("version.h"), lines.concat()).unwrap();
    if let Some(built) = built {
        fs::write(root.join("build-version"), built).unwrap();
    }
    root
}

fn said(root: &Path) -> Said {
    Said {
        libraries: Some(root.join("lib")),
        ..Said::default()
    }
}

#[test]
fn the_headers_are_those_beside_the_libraries_or_where_the_variable_says() {
    let at = tempfile::tempdir().unwrap();
    let linked = unpacked(at.path(), "linked", "2.11.0", Some("2.11.0+cpu\n"));
    let same = unpacked(at.path(), "same", "2.11.0", None);
    assert_eq!(
        libtorch(said(&linked)),
        Ok((linked.join("include"), linked.join("lib")))
    );
    let elsewhere = Said {
        include: Some(same.clone()),
        ..said(&linked)
    };
    assert_eq!(libtorch(elsewhere.clone()).unwrap().0, same.join("include"));
    // With PyTorch's installation torch-sys does not read the variable, so neither is it read here.
    let pytorch = Said {
        uses_pytorch: true,
        ..elsewhere
    };
    assert_eq!(libtorch(pytorch).unwrap().0, linked.join("include"));
    // Libraries that do not say their version are believed.
    let silent = unpacked(at.path(), "silent", "2.9.1", None);
    assert!(libtorch(said(&silent)).is_ok());
}

#[test]
fn headers_of_another_libtorch_and_none_are_refused_with_what_to_do() {
    let at = tempfile::tempdir().unwrap();
    let linked = unpacked(at.path(), "linked", "2.11.0", Some("2.11.0+cpu\n"));
    let older = unpacked(at.path(), "older", "2.9.1", None);
    let wrong = Said {
        include: Some(older),
        ..said(&linked)
    };
    let error = libtorch(wrong).unwrap_err();
    for part in [
        "libtorch 2.9.1 beside libraries of libtorch 2.11.0",
        "hint: LIBTORCH_INCLUDE",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let missing = libtorch(said(&at.path().join("nowhere"))).unwrap_err();
    assert!(
        missing.contains("version.h") && missing.contains("hint: set LIBTORCH_INCLUDE"),
        "{missing}"
    );
    let unknown = libtorch(Said::default()).unwrap_err();
    assert!(unknown.contains("hint: set LIBTORCH to the folder"), "{unknown}");
}

//! The C++ compiler that the build will use: found, or asked for by name.

use anyhow::{Context, Result};
use fetch::Tools;
use std::env;
use std::ffi::OsStr;

/// Its name as `CXX` wants it, or `None` where `c++` exists, or `CXX` is set already.
pub(crate) fn find(tools: &Tools) -> Result<Option<&'static str>> {
    let named = env::var_os("CXX").filter(|value| !value.is_empty());
    choose(tools, named.as_deref())
}

fn choose(tools: &Tools, named: Option<&OsStr>) -> Result<Option<&'static str>> {
    if let Some(named) = named {
        // CXX may hold a launcher and flags; its first word is the program.
        let text = named.to_string_lossy().into_owned();
        let program = text.split_whitespace().next().unwrap_or_default().to_owned();
        tools
            .find(OsStr::new(&program))
            .with_context(|| format!("CXX names `{text}`, which is no program"))?;
        return Ok(None);
    }
    let found = ["c++", "g++", "clang++"]
        .into_iter()
        .find(|name| tools.find(OsStr::new(name)).is_some());
    match found.context(
        "no C++ compiler was found: no `c++`, `g++` or `clang++` on PATH (the build compiles libtorch's bindings)\n\
         hint: on Debian or Ubuntu `apt-get install g++`, or name one with CXX=/path/to/compiler",
    )? {
        "c++" => Ok(None),
        other => Ok(Some(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_compiler_of_another_name_is_passed_on_and_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let tools = Tools::on(folder.path());
        let error = format!("{:#}", choose(&tools, None).unwrap_err());
        assert!(
            error.contains("no C++ compiler was found") && error.contains("apt-get install g++"),
            "{error}"
        );
        program("clang++");
        assert_eq!(choose(&tools, None).unwrap(), Some("clang++"));
        program("c++");
        assert_eq!(choose(&tools, None).unwrap(), None);
        assert_eq!(choose(&tools, Some(OsStr::new("clang++ -O2"))).unwrap(), None);
        let error = choose(&tools, Some(OsStr::new("icc"))).unwrap_err().to_string();
        assert!(error.contains("`icc`"), "{error}");
    }
}

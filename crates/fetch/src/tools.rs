//! The programs of other people that fetching needs: found, or asked for by name.

use anyhow::{Context, Result, bail};
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where to look for programs.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    path: OsString,
    python: Option<OsString>,
}

impl Tools {
    /// `PATH`, and what `PYTHON` names.
    pub fn from_env() -> Self {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            path: set("PATH").unwrap_or_default(),
            python: set("PYTHON"),
        }
    }

    /// Programs of `path` only.
    pub fn on(path: &Path) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }

    /// A Python 3 interpreter.
    pub fn python(&self) -> Result<PathBuf> {
        if let Some(named) = &self.python {
            return self
                .find(named)
                .with_context(|| format!("PYTHON names `{}`, which is no program", named.display()));
        }
        let found = ["python3", "python"]
            .into_iter()
            .find_map(|name| self.find(OsStr::new(name)));
        found.context(
            "Python 3 was not found: no `python3` or `python` on PATH (it fetches files; nothing is run with it)\n\
             hint: on Debian or Ubuntu `apt-get install python3 python3-pip`, or name one with PYTHON=/path/to/python3",
        )
    }

    /// A command that runs pip, without its subcommand.
    pub fn pip(&self) -> Result<Command> {
        let python = self.python()?;
        let answers = Command::new(&python)
            .args(["-m", "pip", "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !answers {
            bail!(
                "pip was not found: `{} -m pip --version` fails (it fetches files; nothing is installed with it)\n\
                 hint: on Debian or Ubuntu `apt-get install python3-pip`, elsewhere `{} -m ensurepip --user`",
                python.display(),
                python.display(),
            );
        }
        let mut command = Command::new(python);
        command.args(["-m", "pip"]);
        Ok(command)
    }

    /// The npm program.
    pub fn npm(&self) -> Result<PathBuf> {
        self.find(OsStr::new("npm")).context(
            "npm was not found on PATH (it fetches files; nothing is run with it)\n\
             hint: on Debian or Ubuntu `apt-get install npm`",
        )
    }

    /// A program by its name on the path, or by its own path.
    pub fn find(&self, name: &OsStr) -> Option<PathBuf> {
        if Path::new(name).components().count() > 1 {
            return Some(PathBuf::from(name)).filter(|path| path.is_file());
        }
        env::split_paths(&self.path)
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn program(folder: &Path, name: &str, script: &str) {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_missing_tool_is_named_with_the_package_that_brings_it() {
        let nothing = Tools::default();
        let rows = [
            (
                nothing.python().unwrap_err(),
                "Python 3 was not found",
                "apt-get install python3 python3-pip",
            ),
            (
                nothing.pip().unwrap_err(),
                "Python 3 was not found",
                "apt-get install python3 python3-pip",
            ),
            (nothing.npm().unwrap_err(), "npm was not found", "apt-get install npm"),
        ];
        for (error, what, hint) in rows {
            let text = format!("{error:#}");
            assert!(text.contains(what) && text.contains(hint), "{text}");
        }
    }

    #[test]
    fn a_python_without_pip_is_told_from_no_python() {
        let folder = tempfile::tempdir().unwrap();
        program(folder.path(), "python3", "exit 1");
        let text = format!("{:#}", Tools::on(folder.path()).pip().unwrap_err());
        assert!(
            text.contains("pip was not found") && text.contains("apt-get install python3-pip"),
            "{text}"
        );
    }

    #[test]
    fn python3_is_preferred_and_the_variable_wins() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["python", "python3", "python3.99"] {
            program(folder.path(), name, "exit 0");
        }
        let mut tools = Tools::on(folder.path());
        assert_eq!(tools.python().unwrap(), folder.path().join("python3"));
        tools.python = Some("python3.99".into());
        assert_eq!(tools.python().unwrap(), folder.path().join("python3.99"));
        tools.python = Some("python4".into());
        assert!(tools.python().unwrap_err().to_string().contains("python4"));
    }
}

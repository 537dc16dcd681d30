//! Adapters as users name them: `DIR`, `NAME=DIR` or `DIR=WEIGHT`.

mod chosen;
mod templates;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use chosen::{Adapters, COLUMN, mix, tell_base, tell_first};
use data::ReadConfig;
pub use templates::Templates;

/// One `--adapter`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterArg {
    /// The adapter's folder.
    pub path: PathBuf,
    /// What rows and messages call it.
    pub name: Option<String>,
    /// What its update is multiplied by.
    pub weight: Option<f64>,
}

impl fmt::Display for AdapterArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match (&self.name, self.weight) {
            (Some(name), _) => write!(f, "{name}={path}"),
            (None, Some(weight)) => write!(f, "{path}={weight}"),
            (None, None) => write!(f, "{path}"),
        }
    }
}

impl FromStr for AdapterArg {
    type Err = String;

    /// A folder may have `=` in its name: what lies there says which part is the folder.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_folder = |text: &str| Path::new(text).is_dir();
        let plain = |path: &str| Self {
            path: path.into(),
            name: None,
            weight: None,
        };
        let (Some((name, folder)), Some((before, after))) = (text.split_once('='), text.rsplit_once('=')) else {
            return Ok(plain(text));
        };
        if is_folder(text) {
            return Ok(plain(text));
        }
        let number = after.parse::<f64>().ok();
        let named = !name.is_empty() && (is_folder(folder) || number.is_none());
        match number {
            Some(weight) if is_folder(before) || !named => Ok(Self {
                weight: Some(weight),
                ..plain(before)
            }),
            None if is_folder(before) && !is_folder(folder) => Err(format!(
                "`{after}` is no number; wanted DIR=WEIGHT, such as {before}=0.5"
            )),
            _ if named => Ok(Self {
                name: Some(name.to_owned()),
                ..plain(folder)
            }),
            _ => Err(format!("wanted DIR, NAME=DIR or DIR=WEIGHT, found `{text}`")),
        }
    }
}

/// How rows are read, with what chooses their adapters.
pub fn reading(args: &[AdapterArg]) -> ReadConfig {
    let keep = args.iter().any(|arg| arg.name.is_some());
    ReadConfig {
        keep: keep.then(|| COLUMN.to_owned()).into_iter().collect(),
        ..ReadConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_told_from_its_name_and_its_weight() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name).display().to_string();
        for folder in ["a", "rate=0.1"] {
            std::fs::create_dir(home.path().join(folder)).unwrap();
        }
        let (a, odd, gone) = (at("a"), at("rate=0.1"), at("gone"));
        let rows = [
            (a.clone(), &a, None, None),
            (odd.clone(), &odd, None, None),
            (format!("{a}=-0.5"), &a, None, Some(-0.5)),
            (format!("{odd}=2"), &odd, None, Some(2.0)),
            (format!("x={a}"), &a, Some("x"), None),
            (format!("x={odd}"), &odd, Some("x"), None),
            // What is not there is named as it was meant.
            (gone.clone(), &gone, None, None),
            (format!("{gone}=0.5"), &gone, None, Some(0.5)),
            (format!("x={gone}"), &gone, Some("x"), None),
        ];
        for (text, path, name, weight) in rows {
            let wanted = AdapterArg {
                path: path.into(),
                name: name.map(str::to_owned),
                weight,
            };
            assert_eq!(text.parse::<AdapterArg>().as_ref(), Ok(&wanted), "{text}");
        }
        let error = format!("{a}=half").parse::<AdapterArg>().unwrap_err();
        assert!(error.contains("`half` is no number"), "{error}");
        assert!(format!("={gone}").parse::<AdapterArg>().is_err());
    }
}

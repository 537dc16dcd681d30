//! Which modules a method adapts: PEFT's rules exactly, except that a pattern which matches nothing is an error.
//!
//! A list matches a whole path or a suffix after a dot; a string is a regular expression for the whole path;
//! `all-linear` is every projection but the output layer.

use std::collections::BTreeSet;

use fancy_regex::Regex;

use crate::{Error, ModulePath, Result};

/// One `target_modules` or `exclude_modules` value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Every projection of the blocks; the output layer is left out.
    AllLinear,
    /// Whole paths, or what stands after a dot at their end.
    Names(Vec<String>),
    /// A regular expression for the whole path.
    Pattern(String),
}

/// Which modules are chosen: targets, less exclusions, in some layers only.
#[derive(Clone, Debug)]
pub struct Modules {
    targets: Targets,
    exclude: Option<Targets>,
    layers: Option<Vec<usize>>,
    target_regex: Option<Regex>,
    exclude_regex: Option<Regex>,
    layer_regexes: Vec<Regex>,
}

impl Modules {
    /// These targets in every layer.
    pub fn new(targets: Targets) -> Result<Self> {
        let target_regex = whole("target_modules", &targets)?;
        let layer_regexes = vec![compile("layers_pattern", r"^.*\.[^.]*\.(\d+)\.")?];
        Ok(Self {
            targets,
            exclude: None,
            layers: None,
            target_regex,
            exclude_regex: None,
            layer_regexes,
        })
    }

    /// Without the modules that `exclude` matches.
    pub fn excluding(self, exclude: Targets) -> Result<Self> {
        Ok(Self {
            exclude_regex: whole("exclude_modules", &exclude)?,
            exclude: Some(exclude),
            ..self
        })
    }

    /// Only in these layers; `patterns` name the module lists that count them (`layers`, `h`), none for any.
    pub fn in_layers(self, layers: Vec<usize>, patterns: &[String]) -> Result<Self> {
        let layer_regexes = if patterns.is_empty() {
            self.layer_regexes
        } else {
            patterns
                .iter()
                .map(|p| compile("layers_pattern", &format!(r"^.*\.{p}\.(\d+)\.")))
                .collect::<Result<_>>()?
        };
        Ok(Self {
            layers: Some(layers),
            layer_regexes,
            ..self
        })
    }

    /// Whether the module at `path` is chosen; `is_output` marks the output layer.
    pub fn contains(&self, path: &ModulePath, is_output: bool) -> bool {
        let path = path.as_str();
        let excluded = match (&self.exclude, &self.exclude_regex) {
            (Some(Targets::Names(names)), _) => names.iter().any(|name| is_suffix(path, name)),
            (Some(Targets::Pattern(_)), Some(regex)) => matches(regex, path),
            (Some(Targets::AllLinear), _) => !is_output,
            _ => false,
        };
        if excluded {
            return false;
        }
        match (&self.targets, &self.target_regex) {
            (Targets::Pattern(_), Some(regex)) => matches(regex, path),
            // As in PEFT, a name that is the whole path is taken whatever its layer.
            (Targets::Names(names), _) => {
                names.iter().any(|name| name == path)
                    || (names.iter().any(|name| is_suffix(path, name)) && self.in_chosen_layer(path))
            }
            _ => !is_output && self.in_chosen_layer(path),
        }
    }

    fn in_chosen_layer(&self, path: &str) -> bool {
        let Some(layers) = &self.layers else { return true };
        let layer = self
            .layer_regexes
            .iter()
            .find_map(|regex| regex.captures(path).ok()??.get(1)?.as_str().parse::<usize>().ok());
        layer.is_some_and(|layer| layers.contains(&layer))
    }

    /// The modules chosen among `paths` (with their output marks); an error if a name or the whole choice matches none.
    pub fn choose<'a>(&self, paths: impl IntoIterator<Item = (&'a ModulePath, bool)>) -> Result<Vec<ModulePath>> {
        let paths: Vec<_> = paths.into_iter().collect();
        if let Targets::Names(names) = &self.targets {
            for name in names {
                if !paths.iter().any(|(path, _)| is_suffix(path.as_str(), name)) {
                    return Err(Error::NoMatch {
                        what: format!("`{name}` in `target_modules`"),
                        hint: hint(&paths, name),
                    });
                }
            }
        }
        let chosen: Vec<_> = paths
            .iter()
            .filter(|(path, is_output)| self.contains(path, *is_output))
            .map(|(path, _)| (*path).clone())
            .collect();
        if chosen.is_empty() {
            let what = match &self.targets {
                Targets::Pattern(pattern) => format!("`target_modules = \"{pattern}\"`"),
                Targets::AllLinear => "`target_modules = \"all-linear\"` with its exclusions and layers".to_owned(),
                Targets::Names(names) => {
                    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                    format!("`target_modules` ({}) with its exclusions and layers", names.join(", "))
                }
            };
            return Err(Error::NoMatch {
                what,
                hint: hint(&paths, ""),
            });
        }
        Ok(chosen)
    }
}

/// A pattern that gives up on a path (it backtracks too long) does not match it.
fn matches(regex: &Regex, path: &str) -> bool {
    regex.is_match(path).unwrap_or(false)
}

fn is_suffix(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

fn whole(option: &str, targets: &Targets) -> Result<Option<Regex>> {
    match targets {
        Targets::Pattern(pattern) => compile(&format!("`{option}`"), &format!("^(?:{pattern})$")).map(Some),
        _ => Ok(None),
    }
}

fn compile(what: &str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|source| Error::Pattern {
        what: what.to_owned(),
        source: Box::new(source),
    })
}

fn hint(paths: &[(&ModulePath, bool)], wanted: &str) -> String {
    let names: BTreeSet<&str> = paths.iter().map(|(path, _)| path.name()).collect();
    let near = names
        .iter()
        .map(|name| (strsim::levenshtein(name, wanted), *name))
        .min()
        .filter(|(far, _)| *far <= 2);
    let there = names.iter().copied().collect::<Vec<_>>().join(", ");
    match near {
        Some((_, near)) => format!("did you mean `{near}`? this model has {there}"),
        None => format!("this model has {there}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(modules: &Modules) -> Vec<String> {
        let paths: Vec<ModulePath> = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.1.mlp.up_proj",
            "lm_head",
        ]
        .map(ModulePath::from)
        .to_vec();
        modules
            .choose(paths.iter().map(|path| (path, path.as_str() == "lm_head")))
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_list_matches_suffixes_after_a_dot() {
        let modules = Modules::new(Targets::Names(vec!["q_proj".into(), "lm_head".into()])).unwrap();
        assert_eq!(
            chosen(&modules),
            [
                "model.layers.0.self_attn.q_proj",
                "model.layers.1.self_attn.q_proj",
                "lm_head"
            ]
        );
        assert!(!modules.contains(&"model.layers.0.xq_proj".into(), false));
    }

    #[test]
    fn a_string_matches_whole_paths() {
        let modules = Modules::new(Targets::Pattern(r".*\.1\..*(q|up)_proj".into())).unwrap();
        assert_eq!(
            chosen(&modules),
            ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"]
        );
    }

    #[test]
    fn all_linear_leaves_the_output_layer_out() {
        let modules = Modules::new(Targets::AllLinear)
            .unwrap()
            .excluding(Targets::Names(vec!["up_proj".into()]))
            .unwrap();
        let modules = modules.in_layers(vec![1], &[]).unwrap();
        assert_eq!(chosen(&modules), ["model.layers.1.self_attn.q_proj"]);
    }

    #[test]
    fn a_name_that_matches_nothing_is_an_error_with_a_hint() {
        let modules = Modules::new(Targets::Names(vec!["q_prj".into()])).unwrap();
        let path = ModulePath::from("model.layers.0.self_attn.q_proj");
        let error = modules.choose([(&path, false)]).unwrap_err().to_string();
        assert!(
            error.contains("`q_prj`") && error.contains("did you mean `q_proj`"),
            "{error}"
        );
    }
}

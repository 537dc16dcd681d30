//! The house's own pipelines and studies, compiled in, so that their names work without a checkout.

use anyhow::{Context, Result, bail};
use fetch::nearest;
use std::fs;
use std::path::{Path, PathBuf};

macro_rules! files {
    ($($folder:literal / $name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../", $folder, "/", $name, ".toml")))),*]
    };
}

/// Name and text of each.
const FILES: &[(&str, &str)] = files![
    "pipelines" / "chapter-6",
    "studies" / "adapters",
    "studies" / "combine",
    "studies" / "dora",
    "studies" / "dpo",
    "studies" / "hft",
    "studies" / "memory",
    "studies" / "moa",
    "studies" / "moe",
    "studies" / "ppo",
    "studies" / "prune",
    "studies" / "qlora",
    "studies" / "routing",
];

/// A file that was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// What errors call it.
    pub(crate) file: String,
    pub(crate) text: String,
    /// Where relative data lies.
    pub(crate) beside: PathBuf,
}

/// The names that there are, each with its title.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    let title = |text: &'static str| text.lines().find_map(|line| line.strip_prefix("title = \""));
    FILES
        .iter()
        .map(move |(name, text)| (*name, title(text).unwrap_or_default().trim_end_matches('"')))
}

/// A file's path, or one of the house's own names.
pub(crate) fn find(name: &str) -> Result<Found> {
    let path = Path::new(name);
    if path.is_file() {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read `{name}`"))?;
        let path = std::path::absolute(path).with_context(|| format!("`{name}`"))?;
        return Ok(Found {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            file: name.to_owned(),
            text,
            beside: path.parent().map_or_else(PathBuf::new, Path::to_owned),
        });
    }
    if let Some((known, text)) = FILES.iter().find(|(known, _)| *known == name) {
        return Ok(Found {
            name: (*known).to_owned(),
            file: format!("{known}.toml"),
            text: (*text).to_owned(),
            beside: std::env::current_dir().context("the working directory")?,
        });
    }
    let hint = match nearest(name, FILES.iter().map(|(name, _)| *name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "there is {}",
            FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        ),
    };
    bail!("`{name}`: wanted the file of a pipeline or study, or the name of one, found neither\nhint: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Source;
    use crate::stages::Pipeline;
    use crate::study::Step;
    use crate::study_file;

    #[test]
    fn every_file_is_compiled_in_has_a_title_and_can_be_read() {
        for folder in ["pipelines", "studies"] {
            for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_str().unwrap();
                let found = find(name).unwrap();
                assert_eq!(found.text, fs::read_to_string(&path).unwrap(), "{name}");
                let source = Source {
                    file: &found.file,
                    text: &found.text,
                };
                match folder {
                    "studies" => drop(study_file::read(name, source, 4).unwrap()),
                    _ => drop(Pipeline::read(source).unwrap()),
                }
            }
        }
        assert!(names().all(|(_, title)| !title.is_empty()));
    }

    #[test]
    fn every_recipe_of_a_study_is_toml_and_no_claim_holds_of_nothing() {
        for (name, text) in FILES.iter().filter(|(_, text)| study_file::is_study(text)) {
            let study = study_file::read(name, Source { file: name, text }, 1).unwrap();
            for step in study.arms.iter().flat_map(|arm| &arm.steps) {
                if let Step::Train { recipe, .. } = step {
                    let table = recipe.replace("{seed}", "0").parse::<toml::Table>();
                    assert!(
                        table.is_ok_and(|table| table.contains_key("surgery")),
                        "{name}: {recipe}"
                    );
                }
            }
            let verdicts = study.verdicts(&crate::results::Results::default()).unwrap();
            assert!(
                !verdicts.is_empty() && verdicts.iter().all(|verdict| !verdict.holds),
                "{name}"
            );
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_near_one() {
        let near = find("drao").unwrap_err().to_string();
        assert!(near.contains("did you mean `dora`?"), "{near}");
        let far = find("x.toml").unwrap_err().to_string();
        assert!(far.contains("`x.toml`") && far.contains("chapter-6"), "{far}");
    }

    fn study(name: &str) -> crate::study::Study {
        let found = find(name).unwrap();
        let source = Source {
            file: &found.file,
            text: &found.text,
        };
        study_file::read(name, source, 1).unwrap()
    }

    #[test]
    fn overall_performance_and_backward_transfer_are_traces() {
        let rows = [
            ("s1.chapter", 0.8),
            ("s2.region", 0.9),
            ("s3.chapter", 0.4),
            ("s3.region", 0.7),
            ("s3.article", 0.6),
        ];
        let mut measures = rows
            .map(|(key, value)| (format!("{key}.exact_match"), value))
            .into_iter()
            .collect();
        study("hft").derive(&mut measures).unwrap();
        // ((.4 - .8) + (.7 - .9)) / 2 = -.3, (.4 + .7 + .6) / 3.
        assert!((measures["backward"] + 0.3).abs() < 1e-12);
        assert!((measures["overall"] - 1.7 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn what_holds_of_memory_tuning_is_what_was_measured() {
        let mut results = crate::results::Results::default();
        for (arm, recall, perplexity) in [
            ("base", 0.02, 20.0),
            ("memory experts", 0.97, 20.2),
            ("memory experts, random answers", 0.96, 20.3),
            ("sparse memory by TF-IDF", 0.99, 20.6),
            ("LoRA r 16", 0.99, 40.0),
            ("full", 0.90, 30.0),
        ] {
            let measures = [("facts.exact_match", recall), ("general.perplexity", perplexity)];
            let measures = measures.map(|(key, value)| (format!("after.{key}"), value));
            results.add(arm, measures.into_iter().collect());
        }
        let verdicts = study("memory").verdicts(&results).unwrap();
        let holds: Vec<bool> = verdicts.iter().map(|verdict| verdict.holds).collect();
        // Sparse memory is 3 % off; full fine-tuning does not recall enough to be compared.
        assert_eq!(holds, [true, true, true, false, true, false]);
    }
}

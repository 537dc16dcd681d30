//! A sequence file: which report was written after which stage of a training on one task after another.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Continual, Error, Report, Result, Stage, continual};

/// The reports of a sequence of tasks, as a TOML file names them.
///
/// ```toml
/// before = "base.json"           # the report before the first stage; may be left out
/// general = ["wiki"]             # perplexity tasks whose drift is shown; all if left out
///
/// [[stage]]
/// task = "reviews"               # what the stage taught: a task of the reports
/// report = "after-reviews.json"  # beside this file; from `finetune evaluate --json`
/// ```
#[derive(Clone, Debug)]
pub struct Sequence {
    before: Option<Report>,
    general: Vec<String>,
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    before: Option<PathBuf>,
    #[serde(default)]
    general: Vec<String>,
    #[serde(default)]
    stage: Vec<StageFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StageFile {
    task: String,
    report: PathBuf,
}

impl Sequence {
    /// Reads the file and every report that it names.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let file: File = toml::from_str(&text).map_err(|source| Error::Suite {
            path: path.to_owned(),
            message: source.to_string(),
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let read = |report: &Path| Report::read(&folder.join(report));
        let stages = file.stage.into_iter().map(|stage| {
            Ok(Stage {
                report: read(&stage.report)?,
                task: stage.task,
            })
        });
        Ok(Self {
            stages: stages.collect::<Result<_>>()?,
            before: file.before.as_deref().map(read).transpose()?,
            general: file.general,
        })
    }

    /// What the sequence left.
    pub fn measure(&self) -> Result<Continual> {
        continual(self.before.as_ref(), &self.stages, &self.general)
    }
}

//! The output folder: whole checkpoints or none, and never two runs in one place.
//!
//! A checkpoint is a folder that appears whole; the model at the top is a generation of files that changes in one step
//! ([`staging`]): killed at any moment, the folder holds whole checkpoints and one whole model.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use staging::StagedDir;
use tch::Tensor;

use crate::state::State;
use crate::{BoxError, Error, Result, tensors};

/// What may become of a run that the folder holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It is refused.
    New,
    /// It is thrown away.
    Overwrite,
    /// It is continued from its newest checkpoint; a run without one begins at its first step.
    Resume,
}

/// A whole checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checkpoint {
    /// Optimiser steps done.
    pub step: usize,
    /// The folder.
    pub path: PathBuf,
}

impl Checkpoint {
    /// Whether a run of `seed` and `num_steps_per_epoch` whose optimiser holds tensors shaped as `masters` can go on from
    /// here. What is read is thrown away.
    pub fn check(&self, seed: u64, num_steps_per_epoch: usize, masters: &[(String, Tensor)]) -> Result<()> {
        State::resume(&self.path.join(STATE), seed, num_steps_per_epoch)?;
        let wanted: Vec<(String, Tensor)> = masters
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.empty_like()))
            .collect();
        tensors::read_into(&self.path.join(MASTERS), &wanted)
    }

    /// The whole checkpoints of the run in `folder`, oldest first; none if there is no folder.
    pub fn all_in(folder: &Path) -> Result<Vec<Self>> {
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut found: Vec<Self> = names(folder)?
            .into_iter()
            .filter_map(|name| {
                let step = name.strip_prefix("checkpoint-")?.parse().ok()?;
                let path = folder.join(&name);
                is_whole(&path).then_some(Self { step, path })
            })
            .collect();
        found.sort();
        Ok(found)
    }
}

/// A run's output folder, held by this process alone.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    recipe: String,
    record: Option<String>,
    start: Start,
    lock: File,
}

pub(crate) const STATE: &str = "state.json";
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
pub(crate) const MASTERS: &str = "masters.safetensors";
pub(crate) const COUNTED: &str = "counted.safetensors";
const RECIPE: &str = "recipe.toml";
const RECORD: &str = "run.json";
const LOCK: &str = ".run.lock";

/// What a run leaves at the top of its folder, besides the model.
const TRACES: [&str; 7] = [
    RECIPE,
    RECORD,
    "metrics.jsonl",
    "trainer_state.json",
    "report.md",
    "report",
    "rollouts",
];

impl RunDir {
    /// Opens or makes the folder of the run that `recipe` (the resolved recipe's text) describes, if it may be used.
    ///
    /// What an earlier run left stays as it is until [`Self::claim`].
    pub fn open(root: impl Into<PathBuf>, recipe: &str, start: Start) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(Error::file(&root, "make the folder"))?;
        let held = File::create(root.join(LOCK)).map_err(Error::file(root.join(LOCK), "write"))?;
        if held.try_lock().is_err() {
            return Err(Error::Occupied {
                path: root,
                found: "a run that another process is training now".into(),
                hint: "wait for it, or choose another `train.output_dir`",
            });
        }
        let dir = Self {
            root,
            recipe: recipe.to_owned(),
            record: None,
            start,
            lock: held,
        };
        dir.refuse_other()?;
        staging::tidy(&dir.root)?;
        Ok(dir)
    }

    /// With `record`, the text of `run.json` here and in each checkpoint: what the run is beyond its recipe.
    #[must_use]
    pub fn with_record(mut self, record: String) -> Self {
        self.record = Some(record);
        self
    }

    /// Makes the folder this run's: an earlier run goes if it is to be overwritten, and record and recipe are written.
    pub fn claim(&self) -> Result<()> {
        if self.start == Start::Overwrite {
            self.clear()?;
        }
        // The recipe first: by it a folder is known as ours.
        self.write_file(RECIPE, self.recipe.as_bytes())?;
        match &self.record {
            Some(record) => self.write_file(RECORD, record.as_bytes()),
            None => Ok(()),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The checkpoint to continue from, if this run is to be continued.
    pub fn resume_from(&self) -> Result<Option<Checkpoint>> {
        match self.start {
            Start::Resume => self.latest(),
            Start::New | Start::Overwrite => Ok(None),
        }
    }

    /// The newest whole checkpoint.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        Ok(self.checkpoints()?.pop())
    }

    /// The whole checkpoints, oldest first.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        Checkpoint::all_in(&self.root)
    }

    /// Where checkpoint `step` lies.
    pub fn checkpoint_path(&self, step: usize) -> PathBuf {
        self.root.join(format!("checkpoint-{step}"))
    }

    /// Makes `checkpoint-{step}` of what `write` puts into the folder it is given. On an error nothing is changed.
    pub fn save(&self, step: usize, write: impl FnOnce(&Path) -> Result<(), BoxError>) -> Result<Checkpoint> {
        let path = self.checkpoint_path(step);
        let done = (|| -> Result<(), BoxError> {
            let staged = StagedDir::create(&path)?;
            write(staged.path())?;
            if let Some(record) = &self.record {
                fs::write(staged.path().join(RECORD), record)?;
            }
            // The same step saved again replaces all of it.
            Ok(staged.publish(|_| true)?)
        })();
        match done {
            Ok(()) => Ok(Checkpoint { step, path }),
            Err(source) => Err(Error::Save {
                step,
                path,
                source,
                saved: self.saved(),
            }),
        }
    }

    /// Deletes the oldest checkpoints beyond `limit`, but never the newest nor that of step `best`.
    pub fn rotate(&self, limit: usize, best: Option<usize>) -> Result<()> {
        let checkpoints = self.checkpoints()?;
        let newest = checkpoints.last().map(|checkpoint| checkpoint.step);
        let mut excess = checkpoints.len().saturating_sub(limit);
        for Checkpoint { step, path } in &checkpoints {
            if excess > 0 && Some(*step) != best && Some(*step) != newest {
                excess -= 1;
                staging::remove_dir(path)?;
            }
        }
        Ok(())
    }

    /// Writes a file at the folder's top: whole or not at all.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(staging::write_file(&self.root.join(name), bytes)?)
    }

    /// Puts the files that `write` puts into the folder it is given at the folder's top, in the place of an older model or
    /// adapter, whatever its form, in one step. On an error nothing is changed.
    pub fn publish(&self, write: impl FnOnce(&Path) -> Result<(), BoxError>) -> Result<()> {
        let done = (|| -> Result<(), BoxError> {
            let staged = StagedDir::create(&self.root)?;
            write(staged.path())?;
            Ok(staged.with_list()?.publish(staging::is_model_file)?)
        })();
        done.map_err(|source| Error::Publish {
            path: self.root.clone(),
            source,
            saved: self.saved(),
        })
    }

    /// What is safe on disk, in words.
    pub(crate) fn saved(&self) -> String {
        match self.latest() {
            Ok(Some(Checkpoint { path, .. })) => {
                format!("`{}` is whole, and `--resume` continues from it", path.display())
            }
            _ => "no checkpoint was saved yet".into(),
        }
    }

    /// Refuses a folder that holds what this run must not touch.
    fn refuse_other(&self) -> Result<()> {
        let refuse = |found: String, hint| {
            Err(Error::Occupied {
                path: self.root.clone(),
                found,
                hint,
            })
        };
        let Ok(there) = fs::read_to_string(self.root.join(RECIPE)) else {
            let is_taken = |name: &String| TRACES.contains(&name.as_str()) || name.starts_with("checkpoint-");
            let taken = names(&self.root)?.into_iter().find(is_taken);
            return match staging::model_in(&self.root).or(taken) {
                Some(name) => refuse(
                    format!("`{name}`, which no run of ours left"),
                    "choose an empty folder for `train.output_dir`",
                ),
                None => Ok(()),
            };
        };
        if self.start != Start::New {
            return Ok(());
        }
        if there != self.recipe {
            return refuse(
                format!("a run of another recipe ({})", difference(&there, &self.recipe)),
                "choose another `train.output_dir`, or set `train.overwrite_output_dir = true` to lose that run",
            );
        }
        match self.latest()? {
            Some(Checkpoint { step, .. }) => refuse(
                format!("this run, saved after step {step}"),
                "`--resume` continues it; `train.overwrite_output_dir = true` begins again",
            ),
            None => Ok(()),
        }
    }

    /// Removes what an earlier run of ours left, but for the model at the top, which stays until a new one is ready.
    fn clear(&self) -> Result<()> {
        for name in names(&self.root)? {
            let is_ours = TRACES.contains(&name.as_str())
                || name.starts_with("events.out.tfevents.")
                || name
                    .strip_prefix("checkpoint-")
                    .is_some_and(|step| step.parse::<usize>().is_ok());
            // The recipe goes last, so that a half-cleared folder is still known as ours.
            if is_ours && name != RECIPE {
                remove(&self.root.join(name))?;
            }
        }
        Ok(())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Closing is not enough: a process that is just being started by another thread holds the file too for a moment.
        let _ = self.lock.unlock();
    }
}

fn is_whole(checkpoint: &Path) -> bool {
    let state = fs::read(checkpoint.join(STATE)).is_ok_and(|text| {
        serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|state| state.get("step").is_some())
    });
    state
        && [OPTIMIZER, MASTERS]
            .iter()
            .all(|name| tensors::is_whole(&checkpoint.join(name)))
}

/// The first line in which two recipes differ.
fn difference(there: &str, here: &str) -> String {
    let pair = there.lines().zip(here.lines()).find(|(there, here)| there != here);
    match pair {
        Some((there, here)) => format!("it says `{}`, this one `{}`", there.trim(), here.trim()),
        None => "one of the two is longer".into(),
    }
}

fn remove(path: &Path) -> Result<()> {
    if path.is_dir() {
        // Half a checkpoint never bears a checkpoint's name.
        return Ok(staging::remove_dir(path)?);
    }
    fs::remove_file(path).map_err(Error::file(path, "delete"))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()?;
        names.sort();
        Ok(names)
    };
    read().map_err(Error::file(folder, "read the folder"))
}

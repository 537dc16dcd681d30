//! What training made: an adapter or a whole model, read matrix by matrix.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use checkpoint::ModelDir;
use dora::{Change, change};
use events::Events;
use methods::Attached as _;
use methods::bottleneck;
use methods::peft::Adapter;
use models::quantised::Quantisation;
use tch::Device;
use tensor_core::{Dense, ModulePath, Param, Role};

/// One result of training, with the group that it is a point of.
#[derive(Debug)]
pub struct Tuned {
    path: PathBuf,
    group: String,
    name: String,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Adapter(Box<(Adapter, dora::Placement)>),
    Whole(Box<ModelDir>),
}

/// The results that the command line names, runs resolved to their checkpoints.
pub fn of_runs(single: &[PathBuf], runs: &[PathBuf], events: &Events) -> Result<Vec<Tuned>> {
    let mut found = Vec::new();
    for path in single {
        let mut result = Tuned::open(path, String::new(), path.display().to_string(), events)?;
        result.method().clone_into(&mut result.group);
        found.push(result);
    }
    for run in runs {
        let name = |run: &Path| {
            run.file_name()
                .unwrap_or(run.as_os_str())
                .to_string_lossy()
                .into_owned()
        };
        // Runs of one name in several places are told apart by their places.
        let is_alone = runs.iter().filter(|other| name(other) == name(run)).count() == 1;
        let group = if is_alone { name(run) } else { run.display().to_string() };
        let checkpoints = checkpoints(run)?;
        if checkpoints.is_empty() {
            bail!(
                "`{}`: wanted `checkpoint-N` folders, found none\nhint: train with `save_strategy = \"steps\"`, or give single results to `--adapter`",
                run.display()
            );
        }
        for (step, path) in checkpoints {
            found.push(Tuned::open(&path, group.clone(), format!("checkpoint-{step}"), events)?);
        }
    }
    Ok(found)
}

/// A run's checkpoints by their steps.
fn checkpoints(run: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let entries = std::fs::read_dir(run).with_context(|| format!("`{}` cannot be read", run.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(step) = name.strip_prefix("checkpoint-").and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

impl Tuned {
    fn open(path: &Path, group: String, name: String, events: &Events) -> Result<Self> {
        if bottleneck::is_in(path) {
            bail!(
                "`{}`: bottleneck adapters stand beside the weights and move none of them: nothing to analyse",
                path.display()
            );
        }
        let held = if path.join("adapter_config.json").is_file() {
            let adapter = Adapter::open(path)?;
            adapter.tell(events);
            if let Some(own) = Quantisation::of_adapter(path)? {
                events.warn(|| format!(
                    "adapter `{}` was trained over {own}; how far it moved the weights is measured against the dense ones",
                    path.display()
                ));
            }
            let placement = adapter.placement()?;
            Held::Adapter(Box::new((adapter, placement)))
        } else {
            Held::Whole(Box::new(ModelDir::open(path)?))
        };
        Ok(Self {
            path: path.to_owned(),
            group,
            name,
            held,
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The group that it is a point of.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// What tells it from the others of its group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it was trained.
    pub fn method(&self) -> &'static str {
        match &self.held {
            Held::Adapter(held) if held.0.use_dora() => "DoRA",
            Held::Adapter(..) => "LoRA",
            Held::Whole(_) => "full fine-tuning",
        }
    }

    /// How far the matrix at `at` moved; none if the result does not hold it.
    pub fn change(&self, base: &ModelDir, at: &ModulePath, device: Device) -> Result<Option<Change>> {
        let name = at.join("weight");
        let stored = match base.contains(name.as_str()) {
            true => name.as_str(),
            // A tied head.
            false if at.as_str() == "lm_head" => "model.embed_tokens.weight",
            false => return Ok(None),
        };
        match &self.held {
            Held::Adapter(held) => {
                let (adapter, placement) = &**held;
                if !adapter.touches(at.as_str()) {
                    return Ok(None);
                }
                let before = base.tensor(stored)?.to_device(device);
                let dense = Dense::new(Param::frozen(before.shallow_clone(), Role::Base));
                let after = placement.projection(at, Box::new(dense))?.weight();
                Ok(Some(change(&before, &after)))
            }
            Held::Whole(dir) => {
                if !dir.contains(name.as_str()) {
                    return Ok(None);
                }
                let after = dir.tensor(name.as_str())?.to_device(device);
                // What the saved dtype rounds away is no change.
                let before = base.tensor(stored)?.to_device(device).to_kind(after.kind());
                anyhow::ensure!(
                    before.size() == after.size(),
                    "`{name}`: wanted shape {:?}, found {:?}\nhint: it was trained from another model",
                    before.size(),
                    after.size()
                );
                Ok(Some(change(&before, &after)))
            }
        }
    }
}

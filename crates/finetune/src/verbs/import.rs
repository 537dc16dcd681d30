//! `finetune import`: a model into the local store, or a folder, as a Hugging Face directory.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use checkpoint::Existing;
use models::Source;
use session::convert::Conversion;

use crate::args::MachineArgs;
use crate::output;

/// Arguments of `import`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Tensors are written in their own dtype (f32 for quantised ones), or in that of --dtype.\n\n\
                  Example:\n  finetune import SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2-f32"
)]
pub struct Args {
    /// A .gguf file, a hub id, a model directory, or a name in the local store
    model: String,
    /// The name in the local store [default: the last part of the model's name]
    #[arg(long, conflicts_with = "output")]
    name: Option<String>,
    /// Write to this folder instead of the local store
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    /// Reads, converts, writes.
    pub fn run(self) -> Result<ExitCode> {
        let folder = match (&self.output, &self.name) {
            (Some(folder), _) => folder.clone(),
            (None, name) => in_store(name.as_deref().unwrap_or(&last_part(&self.model)))?,
        };
        let source = Source::open(&self.model, &output::events())?;
        let device = self.machine.start()?.device;
        let (dtype, existing) = (self.machine.written(device), Existing::Refuse);
        Conversion {
            source: &source,
            adapter: None,
            dtype,
            device,
            existing,
            verb: "import",
            against: None,
            keep_zeros: false,
        }
        .write(&folder)?;
        output::note(format!("model written to `{}`", folder.display()));
        Ok(ExitCode::SUCCESS)
    }
}

fn in_store(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        bail!("`--name {name}`: wanted a plain name without slashes");
    }
    let cache = checkpoint::cache_dir()
        .context("there is no local store\nhint: set FINETUNE_CACHE, or write to a folder with --output")?;
    Ok(cache.join("models").join(name))
}

/// `SmolLM2.Q4_1` of `some/SmolLM2.Q4_1.gguf`, `name` of `org/name`.
fn last_part(model: &str) -> String {
    let last = model.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or(model);
    last.strip_suffix(".gguf").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_last_part_without_its_ending() {
        for (model, wanted) in [("a/b.Q4_1.gguf", "b.Q4_1"), ("org/name", "name"), ("dir/", "dir")] {
            assert_eq!(last_part(model), wanted);
        }
        assert!(in_store("../x").is_err());
    }
}

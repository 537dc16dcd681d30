//! `finetune export`: a model in a format that others read.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use checkpoint::Existing;
use clap::ValueEnum;
use models::Source;
use models::quantised::Against;
use session::convert::Conversion;

use crate::args::MachineArgs;
use crate::output;

/// Arguments of `export`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Tensors are written in their own dtype (f32 for quantised ones), or in that of --dtype.\n\n\
                  Example:\n  finetune export --model smollm2-135m-instruct --format hf --output smollm2-hf --dtype bf16"
)]
pub struct Args {
    /// A model directory, a .gguf file, a name in the local store, or a hub id
    #[arg(long, value_name = "M")]
    model: String,
    /// The folder of an adapter to merge into the weights first
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What is put under an adapter that was trained over packed weights [default: quantized]
    #[arg(long, value_enum, value_name = "W", requires = "adapter")]
    against: Option<Against>,
    /// The format to write
    #[arg(long, value_enum)]
    format: Format,
    /// Where it is written; a model that is there is not replaced
    #[arg(long, value_name = "PATH")]
    output: PathBuf,
    #[command(flatten)]
    machine: MachineArgs,
}

/// A format that others read.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// A Hugging Face model directory: config.json, safetensors, tokenizer
    Hf,
}

impl Args {
    /// Writes it.
    pub fn run(self) -> Result<ExitCode> {
        let adapter = self.adapter.as_deref().map(methods::open_to_merge).transpose()?;
        let source = Source::open(&self.model, &output::events())?;
        let source = match &adapter {
            Some(adapter) => source.with_templates_of(adapter.path())?,
            None => source,
        };
        let device = self.machine.start()?.device;
        match self.format {
            Format::Hf => {
                let (dtype, existing) = (self.machine.written(device), Existing::Refuse);
                Conversion {
                    source: &source,
                    adapter: adapter.as_deref(),
                    dtype,
                    device,
                    existing,
                    verb: "export",
                    against: self.against,
                    keep_zeros: false,
                }
                .write(&self.output)?
                .tell(source.events());
            }
        }
        output::note(format!("model written to `{}`", self.output.display()));
        Ok(ExitCode::SUCCESS)
    }
}

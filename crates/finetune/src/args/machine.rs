//! What a verb computes on: `--dtype`, `--device`, `--threads`.

use anyhow::Result;
use clap::Args;
use models::machine::{Dtype, Machine};
use tch::{Device, Kind};

use crate::ranges;

/// Flags of every verb that loads a model.
#[derive(Args, Clone, Debug, Default)]
pub struct MachineArgs {
    /// The number format to compute in; `auto`, the default, is the one that this machine multiplies faster (`finetune doctor`)
    #[arg(long, value_enum, value_name = "D", help_heading = "Machine")]
    pub dtype: Option<Dtype>,
    /// Where to compute: `auto` (the default), `cpu`, `cuda` or `cuda:N`
    #[arg(long, value_name = "D", help_heading = "Machine", value_parser = device_name)]
    pub device: Option<String>,
    /// Threads to compute with [default: `OMP_NUM_THREADS`, else the physical cores]
    #[arg(long, value_name = "N", help_heading = "Machine", value_parser = ranges::count(1))]
    pub threads: Option<usize>,
}

/// A device's name; whether the machine has it is asked later.
fn device_name(name: &str) -> Result<String, String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_one = match name.strip_prefix("cuda:") {
        Some(number) => is_number(number),
        None => matches!(name, "auto" | "cpu" | "cuda"),
    };
    match is_one {
        true => Ok(name.to_owned()),
        false => Err("wanted `auto`, `cpu`, `cuda` or `cuda:N`".into()),
    }
}

impl MachineArgs {
    /// These flags, and where they say nothing, a recipe's word.
    #[must_use]
    pub fn or(self, dtype: Dtype, device: &str) -> Self {
        Self {
            dtype: self.dtype.or(Some(dtype)),
            device: self.device.or_else(|| Some(device.to_owned())),
            ..self
        }
    }

    /// These flags for a verb that writes the model it computes on, whose files have dtype `stored`: where none is asked for
    /// it computes in that one, so that no number is rounded because of the machine it is written on.
    #[must_use]
    pub fn keeping(&self, stored: Option<Kind>) -> Self {
        let own = match stored {
            Some(Kind::BFloat16) => Dtype::Bf16,
            _ => Dtype::F32,
        };
        Self {
            dtype: self.dtype.filter(|dtype| *dtype != Dtype::Auto).or(Some(own)),
            ..self.clone()
        }
    }

    /// The dtype of a model that is written: none, which keeps each tensor's own, unless one was asked for.
    pub fn written(&self, on: Device) -> Option<Kind> {
        self.dtype
            .filter(|dtype| *dtype != Dtype::Auto)
            .map(|dtype| dtype.kind(on))
    }

    /// Sets the threads and chooses: once, before the first operation.
    pub fn start(&self) -> Result<Machine> {
        let device = self.device.as_deref().unwrap_or("auto");
        Machine::start(self.dtype.unwrap_or_default(), device, self.threads)
    }
}

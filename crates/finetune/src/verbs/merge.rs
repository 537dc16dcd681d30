//! `finetune merge`: an adapter into its model's weights.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use checkpoint::Existing;
use clap::ValueEnum;
use tensor_core::ModulePath;

use crate::convert::{Conversion, Written};
use crate::machine::MachineArgs;
use crate::model::{Adapter, Source};
use crate::output;
use crate::quantised::{Lost, Quantisation};

/// Arguments of `merge`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Tensors are summed in f32 and written in their own dtype (f32 for quantised ones), or in that of --dtype.\n\n\
                  Example:\n  finetune merge --model smollm2-135m-instruct --adapter runs/demo --output merged"
)]
pub struct Args {
    /// The model that the adapter was made for
    #[arg(long, value_name = "M")]
    model: String,
    /// The adapter's folder
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Where the merged model is written; a model that is there is not replaced
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// What an adapter that was trained over packed weights is merged into [default: quantized]
    #[arg(long, value_enum, value_name = "W")]
    against: Option<Against>,
    /// Leave what was pruned from the model at zero, though the adapter was trained without that: it loses a part of itself
    #[arg(long)]
    keep_zeros: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Weights that an adapter can be merged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Against {
    /// The packed weights that it was trained over, dequantised
    Quantized,
    /// The weights from before they were packed
    Dense,
}

impl Args {
    /// Merges tensor by tensor.
    pub fn run(self) -> Result<ExitCode> {
        let adapter = Adapter::open(&self.adapter)?;
        let source = Source::open(&self.model)?.with_templates_of(&adapter)?;
        let device = self.machine.start()?.device;
        let through = self.through(&source)?;
        let written = self.machine.written(device);
        let conversion = Conversion {
            source: &source,
            adapter: Some(&adapter),
            // Weights that were packed had this dtype, so nothing is gained by a longer one.
            dtype: written.or(through.as_ref().map(|through| through.dtype.kind(device))),
            device,
            existing: Existing::Refuse,
            through: through.as_ref(),
            keep_zeros: self.keep_zeros,
        };
        if let Some(text) = told(&conversion.write(&self.output)?) {
            output::note(text);
        }
        output::note(format!("merged model written to `{}`", self.output.display()));
        Ok(ExitCode::SUCCESS)
    }

    /// How the weights are packed and unpacked first, if they are.
    fn through(&self, source: &Source) -> Result<Option<Quantisation>> {
        let said = Quantisation::of_adapter(&self.adapter)?;
        match (self.against, said, source.dir().config().is_quantised()) {
            (Some(Against::Dense), _, true) => bail!(
                "`--against dense`: model `{}` is in 4 bits, so the dense weights are not there\n\
                 hint: give the model that it was made from as `--model`",
                source.name()
            ),
            // Its dequantised weights are the ones; no dense ones are there to lose anything.
            (_, _, true) | (Some(Against::Dense) | None, None, _) | (Some(Against::Dense), _, _) => Ok(None),
            (Some(Against::Quantized), None, _) => bail!(
                "`--against quantized`: the adapter does not say how its base was packed\n\
                 hint: give the 4-bit model that it was trained over as `--model`"
            ),
            (_, Some(said), _) => Ok(Some(said)),
        }
    }
}

/// What packing has cost, for people; nothing if nothing was packed.
fn told(written: &Written) -> Option<String> {
    let relative = |(module, lost): &(ModulePath, Lost)| (lost.relative(), module.clone());
    let (most, module) = written.lost.iter().map(relative).max_by(|a, b| a.0.total_cmp(&b.0))?;
    let whole = written
        .lost
        .iter()
        .fold(Lost::default(), |sum, (_, lost)| sum.and(*lost));
    Some(format!(
        "merged into dequantised weights: packing had changed {} of them by {:.2} % (relative root mean square), at most \
         by {:.2} % at `{module}`\nhint: `--against dense` takes the weights from before",
        written.lost.len(),
        100.0 * whole.relative(),
        100.0 * most,
    ))
}

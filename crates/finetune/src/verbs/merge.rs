//! `finetune merge`: an adapter into its model's weights.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use checkpoint::Existing;
use models::Source;
use models::quantised::Against;
use session::convert::Conversion;

use crate::args::MachineArgs;
use crate::output;

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
    /// For an adapter that was trained over a 4-bit model (QLoRA): merge it into the weights that it was trained over,
    /// 4-bit ones dequantised (quantized, the default), or into the original weights of --model (dense)
    #[arg(long, value_enum, value_name = "W")]
    against: Option<Against>,
    /// Keep the zeros of a pruned model: where the model's weight is zero, the adapter's update is dropped. An adapter that
    /// was not trained with `keep_zeros` loses that part of what it learnt
    #[arg(long)]
    keep_zeros: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

impl Args {
    /// Merges tensor by tensor.
    pub fn run(self) -> Result<ExitCode> {
        let adapter = methods::open_to_merge(&self.adapter)?;
        let source = Source::open(&self.model, &output::events())?.with_templates_of(adapter.path())?;
        let device = self.machine.start()?.device;
        let conversion = Conversion {
            source: &source,
            adapter: Some(&*adapter),
            dtype: self.machine.written(device),
            device,
            existing: Existing::Refuse,
            verb: "merge",
            against: self.against,
            keep_zeros: self.keep_zeros,
        };
        conversion.write(&self.output)?.tell(source.events());
        output::note(format!("merged model written to `{}`", self.output.display()));
        Ok(ExitCode::SUCCESS)
    }
}

//! `finetune quantize`: a model in bitsandbytes' 4 bits, or an adapter in 8 or 4.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use models::Source;
use quant::QuantizeConfig;
use quant::codec::{BlockSize, Scheme};
use rewrite::quantize::adapter::{self, AdapterCost};
use rewrite::quantize::model::{self, Form};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::args::MachineArgs;
use crate::failure::usage;
use crate::output;

/// Arguments of `quantize`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A model's projections are written in bitsandbytes' 4-bit form, which Transformers loads too; what stays dense is\n\
                  written in bf16, or in --dtype. An adapter's factors are written in 8 or 4 bits for `--adapter` of this program.\n\
                  What it costs is shown: bytes, and relative root mean square errors (of an adapter: of each update B A).\n\n\
                  Example:\n  finetune quantize --model smollm2-135m-instruct --scheme nf4 --double-quant --output smollm2-nf4\n  \
                  finetune quantize --adapter runs/demo --bits 8 --output runs/demo-8bit"
)]
pub struct Args {
    /// The model to quantise
    #[arg(
        long,
        value_name = "M",
        required_unless_present = "adapter",
        conflicts_with = "adapter"
    )]
    model: Option<String>,
    /// The adapter to quantise
    #[arg(long, value_name = "DIR", requires = "bits")]
    adapter: Option<PathBuf>,
    /// The 4-bit format of a model's weights: nf4 (the default) or fp4; with --dense also int4 or int8
    #[arg(long, value_name = "S", value_parser = scheme, conflicts_with = "adapter")]
    scheme: Option<Scheme>,
    /// How many neighbouring numbers share one scale: a power of two from 32 to 4096
    #[arg(long, value_name = "N", default_value = "64", value_parser = block_size)]
    block_size: BlockSize,
    /// Quantise the scales of a model's weights too, to 8 bits
    #[arg(long, conflicts_with = "adapter")]
    double_quant: bool,
    /// A model's modules that stay dense: paths, or parts of them between dots [default: `lm_head`]
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "adapter")]
    skip_modules: Vec<String>,
    /// Quantise and dequantise again: write a dense model with the rounded weights, to measure in any tool what quantising
    /// costs
    #[arg(long, conflicts_with = "adapter")]
    dense: bool,
    /// Bits for each number of an adapter: 8 or 4
    #[arg(long, value_name = "N", value_parser = bits, conflicts_with = "model")]
    bits: Option<u8>,
    /// Where it is written; what is there is not replaced
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// What it costs as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

fn scheme(name: &str) -> Result<Scheme, String> {
    match name {
        "nf4" => Ok(Scheme::Nf4),
        "fp4" => Ok(Scheme::Fp4),
        "int4" => Ok(Scheme::Int4),
        "int8" => Ok(Scheme::Int8),
        _ => Err("wanted nf4, fp4, int4 or int8".into()),
    }
}

fn bits(text: &str) -> Result<u8, String> {
    match text {
        "4" => Ok(4),
        "8" => Ok(8),
        _ => Err("wanted 8 or 4".into()),
    }
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let numbers = text.parse().map_err(|_| "wanted a number".to_owned())?;
    BlockSize::new(numbers).map_err(|error| error.to_string())
}

impl Args {
    /// Quantises what was given.
    pub fn run(self) -> Result<ExitCode> {
        if let Some(adapter) = &self.adapter {
            let scheme = match self.bits {
                Some(4) => Scheme::Nf4,
                Some(8) => Scheme::Int8,
                _ => bail!("`--bits`: wanted 8 or 4"),
            };
            self.machine.start()?;
            let cost = adapter::quantize(adapter, scheme, self.block_size, &self.output)?;
            self.show_adapter(scheme, &cost)?;
        } else if let Some(model) = &self.model {
            let mut config = QuantizeConfig {
                scheme: self.scheme.unwrap_or_default(),
                block_size: self.block_size,
                double_quant: self.double_quant,
                ..QuantizeConfig::default()
            };
            if !self.skip_modules.is_empty() {
                config.skip_modules.clone_from(&self.skip_modules);
            }
            if !self.dense && !matches!(config.scheme, Scheme::Nf4 | Scheme::Fp4) {
                return Err(usage(format!(
                    "`--scheme {}`: no checkpoint format that others read holds whole numbers in blocks; wanted nf4 or fp4\n\
                     hint: `--dense` writes the dequantised weights",
                    config.scheme
                )));
            }
            let form = if self.dense { Form::Dense } else { Form::Packed };
            let source = Source::open(model, &output::events())?;
            self.machine.start()?;
            let dtype = self.machine.written(Device::Cpu).unwrap_or(Kind::BFloat16);
            let report = model::quantize(&source, &config, form, dtype, &self.output)?;
            match self.json {
                true => output::json(&report)?,
                false => show(&report)?,
            }
            let what = if self.dense { "dequantised" } else { "4-bit" };
            output::note(format!("{what} model written to `{}`", self.output.display()));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn show_adapter(&self, scheme: Scheme, cost: &AdapterCost) -> Result<()> {
        if self.json {
            let modules: serde_json::Map<String, Value> = cost
                .modules
                .iter()
                .map(|(module, lost)| (module.clone(), json!(lost.relative())))
                .collect();
            output::json(&json!({
                "scheme": scheme, "block_size": self.block_size, "bytes_before": cost.bytes_before,
                "bytes": cost.bytes, "relative_error": cost.relative(), "modules": modules,
            }))?;
        } else {
            for (module, lost) in &cost.modules {
                output::line(format!("{module:<48} {:>8.3} %", 100.0 * lost.relative()))?;
            }
            output::line(format!(
                "{} became {}; the updates changed by {:.3} %",
                output::bytes(cost.bytes_before as f64),
                output::bytes(cost.bytes as f64),
                100.0 * cost.relative()
            ))?;
        }
        output::note(format!("quantised adapter written to `{}`", self.output.display()));
        Ok(())
    }
}

/// The report for people.
fn show(report: &Value) -> Result<()> {
    let number = |value: &Value, name: &str| value[name].as_f64().unwrap_or(0.0);
    let row = |name: &str, value: &Value| {
        let (before, after) = (
            output::bytes(number(value, "bytes_before")),
            output::bytes(number(value, "bytes")),
        );
        format!(
            "{name:<16} {before:>10} {after:>10} {:>9.3} %",
            100.0 * number(value, "relative_rmse")
        )
    };
    output::line(format!("{:<16} {:>10} {:>10} {:>11}", "", "before", "after", "error"))?;
    for (name, value) in report["kinds"].as_object().into_iter().flatten() {
        output::line(row(name, value))?;
    }
    let dense = output::bytes(number(report, "bytes_dense"));
    output::line(format!("{:<16} {dense:>10} {dense:>10} {:>11}", "stays dense", "none"))?;
    output::line(row("all", report))?;
    output::line(format!(
        "{:.3} bits a packed number",
        number(report, "bits_per_packed_number")
    ))
}

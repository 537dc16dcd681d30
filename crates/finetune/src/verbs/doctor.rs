//! `finetune doctor`: what this machine can do.

use std::process::ExitCode;

use anyhow::Result;
use models::machine::{cpu_features, cpu_line, default_threads, physical_cores};
use models::rates;
use serde_json::{Value, json};
use tch::{Device, Kind};
use tensor_core::{Unit, device, parallel};

use crate::output;

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "`dtype = \"auto\"` is the dtype with the higher rate, bf16's being that of libtorch's products and of those with frozen weights together.\nIn bf16 it also takes the fastest instruction set; FINETUNE_UNIT=avx2 fixes another one.\nThe rates are measured once and kept in the cache.\n\nExample:\n  finetune doctor"
)]
pub struct Args {
    /// Measure the rates again, and keep the new ones for `dtype = "auto"`
    #[arg(long)]
    measure: bool,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Looks around and reports.
    pub fn run(self) -> Result<ExitCode> {
        parallel::set_num_threads(default_threads())?;
        let report = report(self.measure);
        if self.json {
            output::json(&report)?;
            return Ok(ExitCode::SUCCESS);
        }
        for (name, value) in report.as_object().into_iter().flatten() {
            output::line(format!("{:<22} {}", name.replace('_', " "), plain(value)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn report(again: bool) -> Value {
    let cuda = match device::load_cuda() {
        Ok(None) => json!("this libtorch is for the CPU only"),
        Ok(Some(_)) => json!(format!("{} devices", tch::Cuda::device_count())),
        Err(error) => json!(error.to_string()),
    };
    let chosen = device::parse("auto").unwrap_or(Device::Cpu);
    let rates = match again {
        true => rates::measure_again(chosen),
        false => rates::of(chosen),
    };
    let kind = rates.fastest();
    let rate = |gflops: f64| format!("{gflops:.1} GFLOP/s");
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "libtorch": libtorch(),
        "cpu": cpu_line("model name"),
        "cpu_features": cpu_features(),
        "physical_cores": physical_cores(),
        "threads": parallel::num_threads(),
        "memory_free": train::free_memory(Device::Cpu).map(|bytes| output::bytes(bytes as f64)),
        "cuda": cuda,
        "device_auto": format!("{chosen:?}").to_lowercase(),
        "dtype_auto": if kind == Kind::BFloat16 { "bf16" } else { "f32" },
        "matmul_f32": rate(rates.f32),
        "matmul_bf16": rate(rates.bf16),
        "matmul_bf16_frozen": rate(rates.bf16_frozen),
        "instruction_sets": units(&rates),
        "instruction_set_auto": rates.unit().to_string(),
        "store": checkpoint::cache_dir().map(|dir| dir.display().to_string()),
        "models_in_store": models(),
    })
}

/// The rate of frozen bf16 weights on each instruction set, the widest first.
fn units(rates: &rates::Rates) -> Vec<String> {
    let rate = |unit: &Unit| {
        let name = unit.to_string();
        rates.units.get(&name).map(|rate| format!("{name} {rate:.1} GFLOP/s"))
    };
    Unit::available().iter().filter_map(rate).collect()
}

fn libtorch() -> String {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return "linked".into();
    };
    let path = maps.split_whitespace().find(|word| word.ends_with("libtorch_cpu.so"));
    path.unwrap_or("linked statically").to_owned()
}

fn models() -> Vec<String> {
    let entries = checkpoint::cache_dir().and_then(|cache| std::fs::read_dir(cache.join("models")).ok());
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".into(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

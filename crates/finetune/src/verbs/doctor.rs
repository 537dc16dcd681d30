//! `finetune doctor`: what this machine can do.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tensor_core::{device, parallel};

use crate::machine::{cpu_features, cpu_line, default_threads, physical_cores};
use crate::output;

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  finetune doctor")]
pub struct Args {
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Looks around and reports.
    pub fn run(self) -> Result<ExitCode> {
        parallel::set_num_threads(default_threads())?;
        let report = report();
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

fn report() -> Value {
    let cuda = match device::load_cuda() {
        Ok(None) => json!("this libtorch is for the CPU only"),
        Ok(Some(_)) => json!(format!("{} devices", tch::Cuda::device_count())),
        Err(error) => json!(error.to_string()),
    };
    let chosen = device::parse("auto").unwrap_or(Device::Cpu);
    let kind = device::fast_kind(chosen);
    let rate = |kind| format!("{:.0} GFLOP/s", matmul_rate(chosen, kind) / 1e9);
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
        "matmul_f32": rate(Kind::Float),
        "matmul_bf16": rate(Kind::BFloat16),
        "store": checkpoint::cache_dir().map(|dir| dir.display().to_string()),
        "models_in_store": models(),
    })
}

/// Multiply-adds a second (two operations each) of a large matrix product: the best of a few.
pub fn matmul_rate(on: Device, kind: Kind) -> f64 {
    let n = 1024;
    let a = Tensor::ones([n, n], (Kind::Float, on)).to_kind(kind);
    let once = || {
        let start = Instant::now();
        // Reading a number waits for the device.
        let _ = tch::no_grad(|| a.matmul(&a))
            .get(0)
            .get(0)
            .to_kind(Kind::Float)
            .double_value(&[]);
        start.elapsed().as_secs_f64()
    };
    once();
    let best = (0..5).map(|_| once()).fold(f64::INFINITY, f64::min);
    2.0 * (n as f64).powi(3) / best
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

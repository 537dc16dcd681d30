//! What is computed on: device, dtype, threads, instruction set.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Device, Kind};
use tensor_core::{Unit, device, parallel};

use crate::rates;

/// What to compute in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bf16 or f32, whichever this machine multiplies faster, as measured once.
    #[default]
    Auto,
    /// 32-bit floats.
    #[serde(alias = "float32")]
    #[schemars(extend("x-aliases" = ["float32"]))]
    F32,
    /// bfloat16.
    #[serde(alias = "bfloat16")]
    #[schemars(extend("x-aliases" = ["bfloat16"]))]
    Bf16,
}

/// A device and a dtype that were chosen.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Where tensors lie.
    pub device: Device,
    /// What activations and frozen weights are held in.
    pub kind: Kind,
}

impl Machine {
    /// Sets the threads (where none are given, those of [`default_threads`]) and chooses: once, before the first operation.
    ///
    /// `device` is `auto`, `cpu`, `cuda` or `cuda:N`.
    pub fn start(dtype: Dtype, device: &str, threads: Option<usize>) -> Result<Self> {
        parallel::set_num_threads(threads.unwrap_or_else(default_threads))?;
        let device = device::parse(device)?;
        choose_unit(dtype, device)?;
        Ok(Self {
            device,
            kind: dtype.kind(device),
        })
    }
}

/// Fixes the instruction set that kernels use on the CPU, by its name as `finetune doctor` shows it.
const UNIT: &str = "FINETUNE_UNIT";

/// Has kernels use the instruction set that was fixed, or, where everything is left to this machine, the fastest one.
fn choose_unit(dtype: Dtype, on: Device) -> Result<()> {
    if let Some(name) = std::env::var_os(UNIT) {
        let unit: Unit = name.to_string_lossy().parse().context(UNIT)?;
        return unit.choose().context(UNIT);
    }
    if dtype == Dtype::Auto && on == Device::Cpu {
        let rates = rates::of(on);
        if rates.fastest() == Kind::BFloat16 {
            rates.unit().choose()?;
        }
    }
    Ok(())
}

impl Dtype {
    /// As libtorch's dtype on `device`.
    pub fn kind(self, on: Device) -> Kind {
        match self {
            Self::Auto => rates::of(on).fastest(),
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }

    /// The dtype that stands for `kind`.
    pub fn of(kind: Kind) -> Self {
        if kind == Kind::BFloat16 { Self::Bf16 } else { Self::F32 }
    }
}

/// What a run computes on, as it stands in its record.
pub fn facts(machine: Machine) -> Value {
    let device = match machine.device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    };
    json!({
        "cpu": cpu_line("model name"),
        "cpu_features": cpu_features(),
        "threads": parallel::num_threads(),
        "device": device,
        "compute": Dtype::of(machine.kind),
        "unit": Unit::best().to_string(),
        // What decided, where the dtype was not fixed.
        "gflops": rates::choice(machine.kind, machine.device).rates,
    })
}

/// A line of what the system says of its first processor.
pub fn cpu_line(key: &str) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_once(':')
        .map_or("unknown", |(_, value)| value.trim())
        .to_owned()
}

/// Instruction sets that kernels are chosen by.
pub fn cpu_features() -> Vec<String> {
    let wanted = [
        "avx2",
        "fma",
        "avx512f",
        "avx512_bf16",
        "avx512_vnni",
        "amx_bf16",
        "amx_int8",
    ];
    let flags = cpu_line("flags");
    let flags = flags.split_whitespace().filter(|flag| wanted.contains(flag));
    flags.map(str::to_owned).collect()
}

/// What `OMP_NUM_THREADS` says, as every program on libtorch or OpenMP heeds it; else the physical cores.
pub fn default_threads() -> usize {
    let said = std::env::var("OMP_NUM_THREADS").ok();
    // The variable may list a number for each level of nesting; the outermost comes first.
    let first = said.as_deref().and_then(|said| said.split(',').next());
    first
        .and_then(|threads| threads.trim().parse().ok())
        .filter(|&threads| threads > 0)
        .unwrap_or_else(physical_cores)
}

/// Cores with arithmetic units of their own, as far as this process may use them.
pub fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |line: &str| line.split(':').nth(1).unwrap_or_default().trim().to_owned();
    let mut cores = BTreeSet::new();
    let mut package = String::new();
    for line in info.lines() {
        if line.starts_with("physical id") {
            package = value(line);
        } else if line.starts_with("core id") {
            cores.insert((package.clone(), value(line)));
        }
    }
    if cores.is_empty() {
        allowed
    } else {
        allowed.min(cores.len())
    }
}

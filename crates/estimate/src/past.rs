//! What a run that is over took, from its `metrics.jsonl`, and what it computed on, from its `recipe.toml`.

use std::path::Path;

use models::machine::{Dtype, Machine};
use serde_json::{Value, json};

use crate::object;

/// The record of a run.
#[derive(Debug)]
pub struct Past {
    /// The most memory that it held, in bytes, if it was measured.
    pub peak: Option<f64>,
    /// Tokens through the model in a second: the median of its log.
    pub tokens_per_second: f64,
    dtype: Option<String>,
    device: Option<String>,
}

/// Reads it; none if the folder holds no run with a logged step.
pub(crate) fn read(folder: &Path) -> Option<Past> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).ok()?;
    let entries: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let numbers = |name: &str| -> Vec<f64> { entries.iter().filter_map(|entry| entry.get(name)?.as_f64()).collect() };
    let mut speeds = numbers("tokens_per_second");
    speeds.sort_by(f64::total_cmp);
    let recipe = std::fs::read_to_string(folder.join("recipe.toml")).unwrap_or_default();
    let recipe: toml::Table = recipe.parse().unwrap_or_default();
    let of_model = |key: &str| Some(recipe.get("model")?.get(key)?.as_str()?.to_owned());
    Some(Past {
        peak: numbers("peak_memory_bytes").into_iter().reduce(f64::max),
        tokens_per_second: *speeds.get(speeds.len() / 2)?,
        dtype: of_model("dtype"),
        device: of_model("device"),
    })
}

impl Past {
    /// What the run computed in.
    pub fn dtype(&self) -> Option<&str> {
        self.dtype.as_deref()
    }

    /// Why its numbers are not those of an estimate for `machine`; none if they may be compared.
    pub fn differs(&self, machine: Machine) -> Option<String> {
        let here = match Dtype::of(machine.kind) {
            Dtype::Bf16 => "bf16",
            _ => "f32",
        };
        let is_cuda = |device: &str| device.starts_with("cuda");
        match (&self.dtype, &self.device) {
            (Some(dtype), _) if dtype != here => {
                Some(format!("that run computed in {dtype}, this estimate is for {here}"))
            }
            (_, Some(device)) if is_cuda(device) != machine.device.is_cuda() => {
                let here = if machine.device.is_cuda() { "cuda" } else { "cpu" };
                Some(format!("that run computed on {device}, this estimate is for {here}"))
            }
            _ => None,
        }
    }

    pub(crate) fn as_json(&self, machine: Machine) -> Value {
        let mut found = object(
            self.peak
                .map(|peak| ("peak", peak))
                .into_iter()
                .chain([("tokens per second", self.tokens_per_second)]),
        );
        found["dtype"] = json!(self.dtype);
        found["device"] = json!(self.device);
        found["not_compared"] = json!(self.differs(machine));
        found
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn a_run_in_another_dtype_is_not_compared() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
        write(
            "metrics.jsonl",
            "{\"step\": 1, \"tokens_per_second\": 10.0}\n{\"tokens_per_second\": 12.0}\n",
        );
        write(
            "recipe.toml",
            "[model]\nname_or_path = \"m\"\ndtype = \"f32\"\ndevice = \"cpu\"\n",
        );
        let past = read(home.path()).unwrap();
        assert_eq!(past.tokens_per_second, 12.0);
        let on = |kind| Machine {
            device: Device::Cpu,
            kind,
        };
        assert_eq!(past.differs(on(Kind::Float)), None);
        let why = past.differs(on(Kind::BFloat16)).unwrap();
        assert_eq!(why, "that run computed in f32, this estimate is for bf16");
    }
}

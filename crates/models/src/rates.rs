//! How fast this machine multiplies, measured once and kept in the cache: what `dtype = "auto"` goes by.
//!
//! A flag of the processor does not tell: there are some whose bf16 products take twice the time of f32. Measured are a
//! product by libtorch, which weights that train go through, and one with a packed matrix, which frozen bf16 weights go
//! through, on each instruction set of the processor: bf16 is then computed on the fastest of them. The rates belong to a
//! processor, its instructions, a libtorch and a number of threads; a cache that cannot be read or written is measured
//! past.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use tensor_core::{Dense, Documents, Param, Pass, Projection as _, Role, Unit, device, parallel};

use crate::machine::cpu_line;

/// Multiplications and additions a second, in units of 10^9.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// In f32.
    pub f32: f64,
    /// In bf16, by libtorch.
    pub bf16: f64,
    /// In bf16 with a frozen weight, as it is kept for products on the CPU, on the fastest unit.
    pub bf16_frozen: f64,
    /// The same on each unit of the processor, by name; empty on other devices.
    pub units: BTreeMap<String, f64>,
}

/// How much faster than the widest unit another one must be to be taken instead: more than measurements vary.
const CLEARLY: f64 = 1.2;

/// What computation is in, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// `f32` or `bf16`.
    pub dtype: &'static str,
    /// The rates that decided; none if the dtype was fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
}

impl Rates {
    /// The dtype in which work on frozen and on trained weights, as much of the one as of the other, takes less time.
    pub fn fastest(&self) -> Kind {
        let bf16 = 2.0 / (1.0 / self.bf16 + 1.0 / self.bf16_frozen);
        // Where neither is faster, bf16 takes half the memory.
        if bf16 >= self.f32 { Kind::BFloat16 } else { Kind::Float }
    }

    /// The unit on which bf16 is computed in the least time; the widest one unless another one is clearly faster.
    pub fn unit(&self) -> Unit {
        let rate = |unit: &Unit| self.units.get(&unit.to_string()).copied().unwrap_or(0.0);
        let widest = Unit::available()[0];
        let fastest = Unit::available()
            .iter()
            .copied()
            .max_by(|a, b| rate(a).total_cmp(&rate(b)))
            .unwrap_or(widest);
        if rate(&fastest) > CLEARLY * rate(&widest) {
            fastest
        } else {
            widest
        }
    }

    fn is_sound(&self) -> bool {
        [self.f32, self.bf16, self.bf16_frozen]
            .iter()
            .chain(self.units.values())
            .all(|rate| rate.is_finite() && *rate > 0.0)
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            f32, bf16, bf16_frozen, ..
        } = self;
        write!(
            f,
            "f32 {f32:.0}, bf16 {bf16:.0}, bf16 with frozen weights {bf16_frozen:.0} GFLOP/s"
        )
    }
}

/// Rates that this process knows, by machine.
static KNOWN: Mutex<Vec<(String, Rates)>> = Mutex::new(Vec::new());

/// The rates of `on` for the threads that are set: known, read from the cache, or measured now and kept there.
pub fn of(on: Device) -> Rates {
    of_in(on, checkpoint::cache_dir().as_deref())
}

/// Measures the rates of `on` again, and keeps them instead of what is known.
pub fn measure_again(on: Device) -> Rates {
    let rates = measure(on);
    keep(&machine(on), &rates, checkpoint::cache_dir().as_deref());
    rates
}

/// What this process computes in, with the rates that decided if `auto` did: for a run's record.
pub fn choice(kind: Kind, on: Device) -> Choice {
    let machine = machine(on);
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    Choice {
        dtype: if kind == Kind::BFloat16 { "bf16" } else { "f32" },
        rates: known
            .iter()
            .find(|(of, _)| *of == machine)
            .map(|(_, rates)| rates.clone()),
    }
}

fn of_in(on: Device, cache: Option<&Path>) -> Rates {
    let machine = machine(on);
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, rates)) = known.iter().find(|(of, _)| *of == machine) {
        return rates.clone();
    }
    drop(known);
    let read = cache.and_then(|cache| read(&file(cache, &machine), &machine));
    let is_new = read.is_none();
    let rates = read.unwrap_or_else(|| measure(on));
    keep(&machine, &rates, cache.filter(|_| is_new));
    rates
}

fn keep(machine: &str, rates: &Rates, cache: Option<&Path>) {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|(of, _)| of != machine);
    known.push((machine.to_owned(), rates.clone()));
    drop(known);
    if let Some(cache) = cache {
        // Whoever cannot keep them measures again.
        if let Err(error) = write(&file(cache, machine), machine, rates) {
            tracing::debug!("the rates of this machine are not kept: {error}");
        }
    }
}

/// One machine's rates in the cache.
#[derive(Serialize, Deserialize)]
struct Entry {
    machine: String,
    gflops: Rates,
}

/// What rates hold for, as text.
fn machine(on: Device) -> String {
    let flags = cpu_line("flags");
    let mut flags: Vec<&str> = flags.split_whitespace().collect();
    flags.sort_unstable();
    format!(
        "{on:?}; {}; {:?}; flags {:016x}; libtorch {}; {} threads; finetune {}",
        cpu_line("model name"),
        Unit::available()[0],
        hash(&flags.join(" ")),
        device::libtorch_version(),
        parallel::num_threads(),
        env!("CARGO_PKG_VERSION"),
    )
}

fn file(cache: &Path, machine: &str) -> PathBuf {
    cache.join("rates").join(format!("{:016x}.json", hash(machine)))
}

/// FNV-1a: the same in every build.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn read(path: &Path, machine: &str) -> Option<Rates> {
    let entry: Entry = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    (entry.machine == machine && entry.gflops.is_sound()).then_some(entry.gflops)
}

fn write(path: &Path, machine: &str, gflops: &Rates) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let machine = machine.to_owned();
    let gflops = gflops.clone();
    let text = serde_json::to_string_pretty(&Entry { machine, gflops })?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// Tokens, and both widths of the weight.
const SIDES: [i64; 3] = [256, 1024, 1024];
/// Seconds that measuring takes, about; a product that takes longer is measured twice.
const SECONDS: f64 = 0.25;
/// Times that each product is measured at most.
const ROUNDS: usize = 12;

/// The best of some rounds, in which the products take turns, so that a busy moment slows all of them.
fn measure(on: Device) -> Rates {
    let [tokens, inputs, outputs] = SIDES;
    let ones = |shape: [i64; 2], kind| Tensor::ones(shape, (Kind::Float, on)).to_kind(kind);
    let [x, x_bf16] = [Kind::Float, Kind::BFloat16].map(|kind| ones([tokens, inputs], kind));
    let [weight, weight_bf16] = [Kind::Float, Kind::BFloat16].map(|kind| ones([outputs, inputs], kind));
    let frozen = Dense::new(Param::frozen(weight_bf16.shallow_clone(), Role::Base));
    let documents = Documents::new(&[tokens as usize]);
    let frozen = || frozen.forward(&x_bf16, &Pass::evaluate(&documents));
    let units = if on == Device::Cpu { Unit::available() } else { &[] };
    let on_units: Vec<_> = units.iter().map(|unit| || unit.run(frozen)).collect();
    let (dense, dense_bf16) = (|| x.matmul(&weight.tr()), || x_bf16.matmul(&weight_bf16.tr()));
    let mut products: Vec<&dyn Fn() -> Tensor> = vec![&dense, &dense_bf16, &frozen];
    products.extend(on_units.iter().map(|product| product as &dyn Fn() -> Tensor));
    let seconds = |product: &dyn Fn() -> Tensor| {
        let start = Instant::now();
        // Reading a number waits for the device.
        let _ = tch::no_grad(product)
            .get(0)
            .get(0)
            .to_kind(Kind::Float)
            .double_value(&[]);
        start.elapsed().as_secs_f64()
    };
    // Weights are packed and code is made at the first one.
    for product in &products {
        seconds(product);
    }
    let (start, mut best) = (Instant::now(), vec![f64::INFINITY; products.len()]);
    for round in 0..ROUNDS {
        if round >= 2 && start.elapsed().as_secs_f64() > SECONDS {
            break;
        }
        for (best, product) in best.iter_mut().zip(&products) {
            *best = best.min(seconds(product));
        }
    }
    let operations = 2.0 * (tokens * inputs * outputs) as f64;
    let rates: Vec<f64> = best
        .iter()
        .map(|seconds| operations / seconds.max(1e-9) / 1e9)
        .collect();
    let named = units.iter().map(ToString::to_string).zip(rates[3..].iter().copied());
    let mut rates = Rates {
        f32: rates[0],
        bf16: rates[1],
        bf16_frozen: rates[2],
        units: named.collect(),
    };
    if let Some(rate) = rates.units.get(&rates.unit().to_string()) {
        rates.bf16_frozen = *rate;
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates {
        f32: 276.0,
        bf16: 152.0,
        bf16_frozen: 300.0,
        units: BTreeMap::new(),
    };

    #[test]
    fn a_narrower_unit_is_taken_only_where_it_is_clearly_faster() {
        let [widest, .., narrowest] = Unit::available() else {
            return golden::skip!("needs a processor with more than one instruction set");
        };
        for (rate, wanted) in [(90.0, widest), (110.0, widest), (130.0, narrowest)] {
            let units = BTreeMap::from([(widest.to_string(), 100.0), (narrowest.to_string(), rate)]);
            assert_eq!(Rates { units, ..RATES }.unit(), *wanted, "{rate}");
        }
        assert_eq!(RATES.unit(), *widest);
    }

    #[test]
    fn the_faster_dtype_is_chosen_by_the_time_of_both_products() {
        for (bf16, bf16_frozen, wanted) in [
            // 2 / (1/152 + 1/300) = 202.
            (152.0, 300.0, Kind::Float),
            (276.0, 276.0, Kind::BFloat16),
            (2000.0, 1800.0, Kind::BFloat16),
            (10.0, 5000.0, Kind::Float),
            (200.0, 500.0, Kind::BFloat16),
        ] {
            let rates = Rates {
                bf16,
                bf16_frozen,
                ..RATES
            };
            assert_eq!(rates.fastest(), wanted, "{rates}");
        }
    }

    #[test]
    fn rates_are_measured_once_and_then_read() {
        let cache = tempfile::tempdir().unwrap();
        let machine = "a machine";
        let path = file(cache.path(), machine);
        assert_eq!(read(&path, machine), None);
        write(&path, machine, &RATES).unwrap();
        assert_eq!(read(&path, machine), Some(RATES));
        // Another machine's, a broken file, and rates that are none are measured past.
        assert_eq!(read(&path, "another machine"), None);
        write(&path, machine, &Rates { f32: 0.0, ..RATES }).unwrap();
        assert_eq!(read(&path, machine), None);
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path, machine), None);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let cache = tempfile::tempdir().unwrap();
        let blocked = cache.path().join("file");
        fs::write(&blocked, "").unwrap();
        let rates = of_in(Device::Cpu, Some(&blocked));
        assert!(rates.is_sound(), "{rates}");
        // Known from now on, whatever the cache.
        assert_eq!(of_in(Device::Cpu, None), rates);
        assert_eq!(choice(Kind::Float, Device::Cpu).rates, Some(rates));
    }

    #[test]
    fn what_is_measured_is_a_rate() {
        let rates = measure(Device::Cpu);
        // A core that multiplies once a clock reaches more than this, and none reaches the other.
        assert_eq!(rates.units.len(), Unit::available().len());
        for rate in [rates.f32, rates.bf16, rates.bf16_frozen] {
            assert!(rate > 0.05 && rate < 1e6, "{rates}");
        }
    }
}

//! The optimiser's states as `train.optim` asks for them.

use quant::adamw::{LEAST_NUMBERS, Step, adamw_tensors};
use quant::codec::{DynamicMap, NESTED_BLOCK};
use tch::{Device, Kind, Tensor};
use train::{AdamW, StateMemory, StateTensor, States, TrainConfig, Trained, Update};

/// States for this run.
pub fn states(config: &TrainConfig) -> train::Result<Box<dyn States>> {
    let memory = StateMemory::of(config)?;
    Ok(if config.optim.is_8bit() {
        Box::new(AdamW8bit::new(memory))
    } else {
        Box::new(AdamW::new(memory))
    })
}

/// `AdamW` with the running means of large parameters in 8 bits, of small ones in f32.
#[derive(Debug)]
struct AdamW8bit {
    memory: StateMemory,
    small: AdamW,
    /// Of large parameters, in their order.
    large: Vec<[EightBits; 2]>,
}

/// A running mean: codes of the parameter's shape, and an absmax a block.
#[derive(Debug)]
struct EightBits {
    codes: StateTensor,
    absmax: StateTensor,
}

/// What the two running means are called in `optimizer.safetensors`.
const NAMES: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl AdamW8bit {
    fn new(memory: StateMemory) -> Self {
        Self {
            small: AdamW::new(memory.clone()),
            memory,
            large: Vec::new(),
        }
    }
}

/// Those with f32 states and those with 8-bit ones.
fn split(params: &[Trained]) -> (Vec<Trained>, Vec<Trained>) {
    let share = |param: &Trained| Trained {
        path: param.path.clone(),
        value: param.value.shallow_clone(),
        ..*param
    };
    params
        .iter()
        .map(share)
        .partition(|param| param.value.numel() < LEAST_NUMBERS)
}

impl States for AdamW8bit {
    fn allocate(&mut self, params: &[Trained]) -> train::Result<()> {
        let (small, large) = split(params);
        self.small.allocate(&small)?;
        let one = |value: &Tensor| -> train::Result<EightBits> {
            let blocks = value.numel().div_ceil(NESTED_BLOCK) as i64;
            Ok(EightBits {
                codes: self.memory.zeros(&value.size(), Kind::Uint8, value.device())?,
                absmax: self.memory.zeros(&[blocks], Kind::Float, value.device())?,
            })
        };
        let both = |param: &Trained| Ok([one(&param.value)?, one(&param.value)?]);
        self.large = large.iter().map(both).collect::<train::Result<_>>()?;
        Ok(())
    }

    fn update(&mut self, params: &[Trained], update: &Update) {
        let (small, large) = split(params);
        self.small.update(&small, update);
        for (param, states) in large.iter().zip(&self.large) {
            let step = Step {
                number: (update.step - param.since) as u64,
                learning_rate: update.learning_rate * param.rate,
                weight_decay: param.weight_decay,
                beta1: update.beta1,
                beta2: update.beta2,
                eps: update.epsilon,
                gradient_scale: update.gradient_scale,
            };
            let device = param.value.device();
            let held = states
                .each_ref()
                .map(|state| [state.codes.on(device), state.absmax.on(device)]);
            let (value, gradient) = (param.value.detach(), param.gradient().contiguous());
            if device == Device::Cpu {
                let [mean, square] = &held;
                adamw_tensors(&value, &gradient, [mean.each_ref(), square.each_ref()], &step);
            } else {
                by_operators(&value, &gradient, &held, &step);
            }
            for (state, [codes, absmax]) in states.iter().zip(&held) {
                state.codes.put(codes);
                state.absmax.put(absmax);
            }
        }
    }

    fn tensors(&self, params: &[Trained]) -> Vec<(String, Tensor)> {
        let (small, large) = split(params);
        let mut tensors = self.small.tensors(&small);
        for (param, states) in large.iter().zip(&self.large) {
            for (name, state) in NAMES.into_iter().zip(states) {
                let path = format!("{}.{name}", param.path);
                tensors.push((format!("{path}.absmax"), state.absmax.tensor().shallow_clone()));
                tensors.push((path, state.codes.tensor().shallow_clone()));
            }
        }
        tensors
    }
}

/// As [`adamw_tensors`] in libtorch's operators: the way on other devices, and the plain twin.
fn by_operators(value: &Tensor, gradient: &Tensor, states: &[[Tensor; 2]; 2], step: &Step) {
    let maps = [DynamicMap::signed(), DynamicMap::unsigned()]
        .map(|map| Tensor::from_slice(map.levels()).to_device(value.device()));
    let block = NESTED_BLOCK as i64;
    let count = value.numel() as i64;
    let padded = (count + block - 1) / block * block;
    let [m, v] = [0, 1].map(|idx: usize| {
        let [codes, absmax] = &states[idx];
        let numbers = maps[idx].index_select(0, &codes.view([-1]).to_kind(Kind::Int64));
        let scales = absmax
            .unsqueeze(1)
            .expand([-1, block], false)
            .reshape([-1])
            .narrow(0, 0, count);
        numbers * scales
    });
    let g = gradient.view([-1]) * step.gradient_scale;
    let m = m * step.beta1 + &g * (1.0 - step.beta1);
    let v = v * step.beta2 + g.square() * (1.0 - step.beta2);
    let correction = |beta: f64| 1.0 - beta.powf(step.number as f64);
    let root = v.sqrt() / correction(step.beta2).sqrt() + step.eps;
    let moved = value.view([-1]) * (1.0 - step.learning_rate * step.weight_decay)
        - (&m / root) * (step.learning_rate / correction(step.beta1));
    value.shallow_clone().copy_(&moved.view_as(value));
    for ((numbers, levels), [codes, absmax]) in [m, v].into_iter().zip(&maps).zip(states) {
        let blocks = numbers.constant_pad_nd([0, padded - count]).view([-1, block]);
        let largest = blocks.abs().amax([1], true);
        let scaled = (&blocks / largest.clamp_min(1e-38)).view([-1]).narrow(0, 0, count);
        let bounds = (levels.narrow(0, 0, 255) + levels.narrow(0, 1, 255)) * 0.5;
        let found = scaled.bucketize(&bounds, true, false).to_kind(Kind::Uint8);
        codes.shallow_clone().copy_(&found.view_as(codes));
        absmax.shallow_clone().copy_(&largest.view([-1]));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use train::Optim;

    use super::*;

    /// The same numbers for the same seed: libtorch's generator is the whole process's, so drawing is one at a time.
    fn random(seed: i64, shape: &[i64]) -> Tensor {
        static DRAWING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _drawing = DRAWING.lock();
        tch::manual_seed(seed);
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn params() -> Vec<Trained> {
        let param = |path: &str, shape: &[i64], rate| Trained {
            path: path.into(),
            value: random(shape[0], shape).set_requires_grad(true),
            rate,
            weight_decay: 0.1,
            since: 0,
        };
        vec![
            param("a", &[70, 61], 1.0),
            param("b", &[33], 1.0),
            param("c", &[16, 300], 4.0),
        ]
    }

    /// Six updates from the same gradients; the parameters and states then.
    fn trained(optim: Optim, folder: &Path) -> (Vec<Tensor>, Vec<(String, Tensor)>) {
        let config = TrainConfig {
            optim,
            output_dir: folder.to_owned(),
            ..TrainConfig::default()
        };
        let (mut states, params) = (states(&config).unwrap(), params());
        states.allocate(&params).unwrap();
        for step in 1..=6 {
            for (idx, param) in params.iter().enumerate() {
                let loss = (&param.value * random(100 * step + idx as i64, &param.value.size())).sum(Kind::Float);
                let mut value = param.value.shallow_clone();
                value.zero_grad();
                loss.backward();
            }
            let update = Update {
                step: step as usize,
                learning_rate: 1e-2,
                beta1: 0.9,
                beta2: 0.99,
                epsilon: 1e-8,
                gradient_scale: 0.5,
            };
            tch::no_grad(|| states.update(&params, &update));
        }
        let kept = states
            .tensors(&params)
            .into_iter()
            .map(|(name, tensor)| (name, tensor.copy()));
        (
            params.iter().map(|param| param.value.detach()).collect(),
            kept.collect(),
        )
    }

    #[test]
    fn paged_states_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for (resident, paged) in [
            (Optim::Adamw, Optim::PagedAdamw),
            (Optim::Adamw8bit, Optim::PagedAdamw8bit),
        ] {
            let (values, states) = trained(resident, folder.path());
            let (paged_values, paged_states) = trained(paged, folder.path());
            assert!(values.iter().zip(&paged_values).all(|(a, b)| a.equal(b)), "{paged:?}");
            assert!(
                states
                    .iter()
                    .zip(&paged_states)
                    .all(|((name, a), (other, b))| name == other && a.equal(b)),
                "{paged:?}"
            );
        }
    }

    #[test]
    fn eight_bits_are_near_and_only_large_parameters_have_them() {
        let folder = tempfile::tempdir().unwrap();
        let (wanted, _) = trained(Optim::Adamw, folder.path());
        let (found, states) = trained(Optim::Adamw8bit, folder.path());
        let start = params();
        for (idx, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let norm = |tensor: Tensor| tensor.square().sum(Kind::Double).sqrt().double_value(&[]);
            let share = norm(found - wanted) / norm(wanted - start[idx].value.detach());
            if idx == 1 {
                assert!(found.equal(wanted));
            } else {
                assert!(share > 0.0 && share < 0.1, "{share}");
            }
        }
        let kind = |name: &str| {
            states
                .iter()
                .find(|(state, _)| state == name)
                .map(|(_, tensor)| tensor.kind())
        };
        assert_eq!(kind("a.exp_avg"), Some(Kind::Uint8));
        assert_eq!(kind("a.exp_avg.absmax"), Some(Kind::Float));
        assert_eq!(kind("b.exp_avg"), Some(Kind::Float));
    }

    #[test]
    fn operators_move_as_the_kernel_does() {
        let step = |number| Step {
            number,
            learning_rate: 1e-2,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            gradient_scale: 0.5,
        };
        let made = || {
            let state = || {
                [
                    Tensor::zeros([20, 30], (Kind::Uint8, Device::Cpu)),
                    Tensor::zeros([3], (Kind::Float, Device::Cpu)),
                ]
            };
            (random(1, &[20, 30]), [state(), state()])
        };
        let ((value, states), (plain, plain_states)) = (made(), made());
        for number in 1..=4 {
            let gradient = random(10 + number as i64, &[20, 30]);
            let [mean, square] = &states;
            adamw_tensors(&value, &gradient, [mean.each_ref(), square.each_ref()], &step(number));
            by_operators(&plain, &gradient, &plain_states, &step(number));
            // f32 sums and quotients rounded in another order: a mean on an edge may take the next level.
            let off = (&value - &plain).abs().max().double_value(&[]);
            assert!(off < 1e-3, "step {number}: {off}");
            for ([codes, absmax], [plain_codes, plain_absmax]) in states.iter().zip(&plain_states) {
                golden::assert_close("absmax", absmax, plain_absmax, 1e-4, 0.0);
                let apart = codes.ne_tensor(plain_codes).sum(Kind::Int64).int64_value(&[]);
                assert!(apart <= 6, "step {number}: {apart} of 600 codes differ");
            }
        }
    }
}

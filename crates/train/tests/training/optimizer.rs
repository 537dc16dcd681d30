//! Groups, schedule, clipping and AdamW together follow torch's trajectory.

use serde::Deserialize;
use tch::Tensor;
use tensor_core::{ModulePath, Param, Parameters, Role};
use train::{AdamW, Optimizer, TrainConfig};

#[derive(Deserialize)]
struct Golden {
    recipe: String,
    total_steps: usize,
    initial: Vec<Vec<f32>>,
    shapes: Vec<Vec<i64>>,
    targets: Vec<Vec<f32>>,
    norms: Vec<f64>,
    last: Vec<Vec<f32>>,
}

struct Leaves(Vec<Param>);

impl Parameters for Leaves {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        for (idx, param) in self.0.iter().enumerate() {
            visitor(&at.join(idx), param);
        }
    }
}

const ROLES: [Role; 4] = [Role::Base, Role::Norm, Role::Adapter, Role::AdapterOut];

fn tensor(values: &[f32], shape: &[i64]) -> Tensor {
    Tensor::from_slice(values).view(shape)
}

#[test]
fn trajectories_equal_those_of_torch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/adamw.json");
    let runs: Vec<Golden> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for golden in runs {
        let config: TrainConfig = toml::from_str(&golden.recipe).unwrap();
        let held = |values: &[Vec<f32>]| -> Vec<Tensor> {
            values
                .iter()
                .zip(&golden.shapes)
                .map(|(values, shape)| tensor(values, shape))
                .collect()
        };
        let targets = held(&golden.targets);
        let leaves = Leaves(
            held(&golden.initial)
                .iter()
                .zip(ROLES)
                .map(|(value, role)| Param::trainable(value, role))
                .collect(),
        );
        let mut optimizer = Optimizer::new(&leaves, &config, Box::<AdamW>::default()).unwrap();
        let schedule = config.schedule(golden.total_steps).unwrap();
        for (step, wanted) in golden.norms.iter().enumerate() {
            for (param, target) in leaves.0.iter().zip(&targets) {
                (param.value() - target).square().sum(tch::Kind::Float).backward();
            }
            let norm = optimizer.gradient_norm();
            assert!(
                (norm - wanted).abs() <= 2e-6 * wanted,
                "{} step {step}: {norm} {wanted}",
                golden.recipe
            );
            let scale = (config.max_grad_norm / (norm + 1e-6)).min(1.0);
            optimizer.update(config.learning_rate * schedule.factor(step), scale);
        }
        for (param, wanted) in leaves.0.iter().zip(held(&golden.last)) {
            let far = (param.value() - wanted).abs().max().double_value(&[]);
            // 20 updates of about 0.05, each exact to a few f32 roundings.
            assert!(far <= 2e-6, "{}: {:?} is {far} off", golden.recipe, param.role());
        }
    }
}

#[test]
fn a_model_without_trainable_parameters_is_refused() {
    let leaves = Leaves(vec![Param::frozen(tensor(&[1.0], &[1]), Role::Base)]);
    let error = Optimizer::new(&leaves, &TrainConfig::default(), Box::<AdamW>::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("hint: add an adapter"), "{error}");
}

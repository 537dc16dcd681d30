//! From options to surgery: which projections are scaled, and on which side.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rand_distr::StandardNormal;
use tch::{Device, Kind, Tensor};
use tensor_core::{Error as CoreError, Found, ModulePath, Projection};

use crate::{Error, Ia3, Ia3Config, Result, Side, TargetModules};

/// A choice of modules and what is done to them: hand [`Self::projection`] to the model.
#[derive(Debug)]
pub struct Wrapping {
    config: Ia3Config,
    chosen: BTreeMap<ModulePath, Side>,
}

impl Wrapping {
    /// Chooses among the model's projections, each with a mark at the output layer.
    ///
    /// Errors: options that cannot work; a name or pattern that matches nothing.
    pub fn choose(config: Ia3Config, projections: &[(ModulePath, bool)]) -> Result<Self> {
        let all = projections.iter().map(|(path, output)| (path, *output));
        let mut chosen = BTreeMap::new();
        for path in config.modules()?.choose(all)? {
            let side = config.side(&path)?;
            chosen.insert(path, side);
        }
        // What was named explicitly must scale something.
        let idle = match &config.feedforward_modules {
            None => None,
            Some(TargetModules::One(pattern)) => {
                let is_met = chosen.values().any(|side| *side == Side::Inputs);
                (!is_met).then(|| format!("the pattern `{pattern}`"))
            }
            Some(TargetModules::Many(names)) => {
                let is_met = |name: &String| chosen.keys().any(|path| ends_with(path, name));
                names.iter().find(|name| !is_met(name)).map(|name| format!("`{name}`"))
            }
        };
        match idle {
            None => Ok(Self { config, chosen }),
            Some(what) => Err(Error::Option {
                option: "feedforward_modules",
                found: format!("{what} matches none of the modules that are scaled"),
                hint: "name modules of `target_modules`, such as `down_proj`",
            }),
        }
    }

    /// The modules that are scaled, in order.
    pub fn chosen(&self) -> impl Iterator<Item = (&ModulePath, Side)> {
        self.chosen.iter().map(|(path, side)| (path, *side))
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        let Some(side) = self.chosen.get(at) else {
            return Ok(base);
        };
        let shape = side.shape(matrix(at, &*base)?);
        let scale = if self.config.init_ia3_weights {
            Tensor::ones(shape, (Kind::Float, Device::Cpu))
        } else {
            let mut rng = StdRng::seed_from_u64(self.config.seed ^ at.site());
            let numbers: Vec<f32> = (0..shape[0] * shape[1]).map(|_| rng.sample(StandardNormal)).collect();
            Tensor::from_slice(&numbers).view(shape)
        };
        Ok(Box::new(over(at, Ia3::new(base, *side, &scale))?))
    }
}

/// The widths of the weight at `at`: out and in.
pub(crate) fn matrix(at: &ModulePath, base: &dyn Projection) -> tensor_core::Result<[i64; 2]> {
    let size = base.weight().size();
    <[i64; 2]>::try_from(size.as_slice()).map_err(|_| CoreError::Shape {
        at: at.clone(),
        wanted: vec![-1, -1],
        found: size,
    })
}

/// What was made, or the error of its place.
pub(crate) fn over(at: &ModulePath, made: std::result::Result<Ia3, Found>) -> tensor_core::Result<Ia3> {
    made.map_err(|Found(found)| CoreError::NotDense {
        at: at.clone(),
        found,
        hint: "IA3 scales a frozen layer: put it first, and merge an adapter that is there",
    })
}

fn ends_with(path: &ModulePath, name: &str) -> bool {
    let path = path.as_str();
    path == name || path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

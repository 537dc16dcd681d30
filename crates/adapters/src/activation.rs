//! What stands between the two matrices: φ and its slope.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// The non-linearity of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(u, 0)`.
    Relu,
    /// `u Φ(u)` with the normal distribution's own Φ.
    Gelu,
    /// `u σ(u)`.
    #[serde(alias = "silu")]
    #[schemars(extend("x-aliases" = ["silu"]))]
    Swish,
}

impl Activation {
    /// φ(u), in the dtype of `u`.
    pub fn of(self, u: &Tensor) -> Tensor {
        match self {
            Self::Relu => u.relu(),
            Self::Gelu => u.gelu("none"),
            Self::Swish => u.silu(),
        }
    }

    /// `dz φ'(u)`, in the dtype of `u`.
    pub(crate) fn backward(self, u: &Tensor, dz: &Tensor) -> Tensor {
        match self {
            Self::Relu => dz * u.gt(0.0).to_kind(u.kind()),
            Self::Gelu => {
                let wide = u.to_kind(math_kind(u));
                let distribution = ((&wide * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
                let density = (&wide * &wide * -0.5).exp()
                    * (std::f64::consts::FRAC_2_SQRT_PI * 0.5 * std::f64::consts::FRAC_1_SQRT_2);
                dz * (distribution + wide * density).to_kind(u.kind())
            }
            Self::Swish => {
                let wide = u.to_kind(math_kind(u));
                let s = wide.sigmoid();
                let slope = &s * (wide * (s.neg() + 1.0) + 1.0);
                dz * slope.to_kind(u.kind())
            }
        }
    }
}

fn math_kind(u: &Tensor) -> Kind {
    if u.kind() == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    }
}

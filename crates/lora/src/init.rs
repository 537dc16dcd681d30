//! How A and B begin.
//!
//! `default`: A uniform in `±1/√in` (Kaiming with a = √5), B zero. `gaussian`: A normal with deviation `1/r`, B zero.
//! `pissa`: the top r singular triples of W, `A = √(S/s) Vᵀ`, `B = U √(S/s)`, and `W - s B A` stays (arXiv:2404.02948).
//! `loftq`: the top r singular triples of `W - Ŵ`, what quantising W to Ŵ has lost; Ŵ stays (arXiv:2310.08659 with T = 1,
//! so that the base is the one that anybody gets who quantises W). PEFT leaves out s, which is 1 there.
//! `olora`: `W = QR`, `A = R[..r]`, `B = Q[.., ..r]`, and `W - s B A` stays (arXiv:2406.01775).

use std::borrow::Cow;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tch::{Kind, Tensor};

/// The value of `init_lora_weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Init {
    /// Kaiming-uniform A, zero B (`true`).
    Default,
    /// Normal A, zero B.
    Gaussian,
    /// Both factors drawn, so that step 0 already differs (`false`): for tests.
    Random,
    /// Principal singular vectors, exactly.
    Pissa,
    /// Principal singular vectors by this many subspace iterations.
    PissaIterations(u32),
    /// The first columns and rows of a QR decomposition.
    Olora,
    /// Principal singular vectors of what quantising lost: see [`crate::Wrapping::with_originals`].
    Loftq,
}

impl Init {
    /// Whether the first product is taken out of the base weight.
    pub fn takes_from_base(self) -> bool {
        matches!(self, Self::Pissa | Self::PissaIterations(_) | Self::Olora)
    }

    /// Its name among PEFT's; `true` and `false` have none and stand as they are.
    pub fn name(self) -> String {
        match self {
            Self::Default => "true".into(),
            Self::Random => "false".into(),
            Self::Gaussian => "gaussian".into(),
            Self::Pissa => "pissa".into(),
            Self::PissaIterations(n) => format!("pissa_niter_{n}"),
            Self::Olora => "olora".into(),
            Self::Loftq => "loftq".into(),
        }
    }

    /// A `[rank, in]` and B `[out, rank]` in f32 for `weight` `[out, in]`; of `loftq`, for `W - Ŵ`.
    pub fn factors(self, weight: &Tensor, rank: i64, scale: f64, seed: u64) -> (Tensor, Tensor) {
        let (out, input) = weight.size2().expect("a projection's weight has two dimensions");
        let mut rng = StdRng::seed_from_u64(seed);
        let zeros = || Tensor::zeros([out, rank], (Kind::Float, weight.device()));
        let bound = 1.0 / (input as f32).sqrt();
        match self {
            Self::Default => (
                uniform(&mut rng, rank, input, bound).to_device(weight.device()),
                zeros(),
            ),
            Self::Gaussian => (
                normal(&mut rng, rank, input, 1.0 / rank as f32).to_device(weight.device()),
                zeros(),
            ),
            Self::Random => {
                let a = uniform(&mut rng, rank, input, bound).to_device(weight.device());
                (
                    a,
                    uniform(&mut rng, out, rank, 1.0 / (rank as f32).sqrt()).to_device(weight.device()),
                )
            }
            Self::Pissa => {
                let (u, s, vt) = thin_svd(&weight.to_kind(Kind::Float));
                split(
                    &u.narrow(1, 0, rank),
                    &s.narrow(0, 0, rank),
                    &vt.narrow(0, 0, rank),
                    scale,
                )
            }
            Self::PissaIterations(iterations) => {
                let (u, s, vt) = subspace_svd(&weight.to_kind(Kind::Float), rank, iterations, &mut rng);
                split(&u, &s, &vt, scale)
            }
            Self::Loftq => principal(&weight.to_kind(Kind::Double), rank, scale),
            Self::Olora => {
                let (q, r) = Tensor::linalg_qr(&weight.to_kind(Kind::Float), "reduced");
                (r.narrow(0, 0, rank).contiguous(), q.narrow(1, 0, rank).contiguous())
            }
        }
    }

    /// A `[rank, vocabulary]` and B `[d, rank]` for a token table: A zero, B normal, as PEFT does.
    pub fn embedding_factors(vocabulary: i64, width: i64, rank: i64, seed: u64) -> (Tensor, Tensor) {
        let mut rng = StdRng::seed_from_u64(seed);
        (
            Tensor::zeros([rank, vocabulary], (Kind::Float, tch::Device::Cpu)),
            normal(&mut rng, width, rank, 1.0),
        )
    }
}

/// `M = U diag(S) Vᵀ`, thin. (`linalg_svd` wants a driver's name, which the CPU refuses.)
fn thin_svd(matrix: &Tensor) -> (Tensor, Tensor, Tensor) {
    let (u, s, v) = matrix.svd(true, true);
    (u, s, v.tr())
}

fn split(u: &Tensor, s: &Tensor, vt: &Tensor, scale: f64) -> (Tensor, Tensor) {
    let root = (s / scale).sqrt();
    (
        (root.unsqueeze(1) * vt).contiguous(),
        (u * root.unsqueeze(0)).contiguous(),
    )
}

/// The best product of rank r, by the eigenvectors of the smaller of `M Mᵀ` and `Mᵀ M`: noise has no gap in its spectrum
/// that iterations could use, and a whole SVD would take several times as long.
fn principal(matrix: &Tensor, rank: i64, scale: f64) -> (Tensor, Tensor) {
    let (out, input) = matrix.size2().expect("a matrix");
    if out > input {
        let (b, a) = principal(&matrix.tr(), rank, scale);
        return (a.tr().contiguous(), b.tr().contiguous());
    }
    let (_, vectors) = matrix.matmul(&matrix.tr()).linalg_eigh("L");
    // Ascending there.
    let u = vectors.narrow(1, out - rank, rank).flip([1]);
    let rows = u.tr().matmul(matrix);
    let root = (rows
        .square()
        .sum_dim_intlist([1i64].as_slice(), true, Kind::Double)
        .sqrt()
        / scale)
        .clamp_min(1e-30)
        .sqrt();
    let a = (rows / (&root * scale)).to_kind(Kind::Float);
    (a, (u * root.tr()).to_kind(Kind::Float).contiguous())
}

/// Halko, Martinsson and Tropp 2011, algorithm 4.4, then an exact SVD of the small core.
fn subspace_svd(weight: &Tensor, rank: i64, iterations: u32, rng: &mut StdRng) -> (Tensor, Tensor, Tensor) {
    let (out, input) = weight.size2().expect("a matrix");
    let width = (rank + 6).min(out.min(input));
    let probe = normal(rng, input, width, 1.0).to_device(weight.device());
    let orthonormal = |m: Tensor| Tensor::linalg_qr(&m, "reduced").0;
    let mut q = orthonormal(weight.matmul(&probe));
    for _ in 0..iterations {
        let back = orthonormal(weight.tr().matmul(&q));
        q = orthonormal(weight.matmul(&back));
    }
    let (u, s, vt) = thin_svd(&q.tr().matmul(weight));
    (
        q.matmul(&u).narrow(1, 0, rank),
        s.narrow(0, 0, rank),
        vt.narrow(0, 0, rank),
    )
}

fn uniform(rng: &mut StdRng, rows: i64, columns: i64, bound: f32) -> Tensor {
    let values: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-bound..bound)).collect();
    Tensor::from_slice(&values).view([rows, columns])
}

/// Normal numbers `[rows, columns]` f32 of this deviation.
pub(crate) fn normal(rng: &mut StdRng, rows: i64, columns: i64, deviation: f32) -> Tensor {
    let values: Vec<f32> = (0..rows * columns)
        .map(|_| rng.sample::<f32, _>(StandardNormal) * deviation)
        .collect();
    Tensor::from_slice(&values).view([rows, columns])
}

impl JsonSchema for Init {
    fn schema_name() -> Cow<'static, str> {
        "Init".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "boolean" },
                { "enum": ["default", "gaussian", "pissa", "olora", "loftq"] },
                { "type": "string", "pattern": "^pissa_niter_[0-9]+$" },
            ],
        })
    }
}

impl Serialize for Init {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Default => serializer.serialize_bool(true),
            Self::Random => serializer.serialize_bool(false),
            named => serializer.serialize_str(&named.name()),
        }
    }
}

impl<'de> Deserialize<'de> for Init {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Switch(bool),
            Name(String),
        }
        let name = match Value::deserialize(deserializer)? {
            Value::Switch(true) => return Ok(Self::Default),
            Value::Switch(false) => return Ok(Self::Random),
            Value::Name(name) => name,
        };
        match name.as_str() {
            "default" => Ok(Self::Default),
            "gaussian" => Ok(Self::Gaussian),
            "pissa" => Ok(Self::Pissa),
            "olora" => Ok(Self::Olora),
            "loftq" => Ok(Self::Loftq),
            other => other.strip_prefix("pissa_niter_").and_then(|n| n.parse().ok()).map(Self::PissaIterations).ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "`init_lora_weights`: wanted true, false, \"default\", \"gaussian\", \"pissa\", \"pissa_niter_N\", \"olora\" or \"loftq\", found \"{other}\""
                ))
            }),
        }
    }
}

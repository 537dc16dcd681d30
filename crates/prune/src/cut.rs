//! Whole parts taken out: blocks, key-value heads with their query heads, channels of the feed-forward.
//!
//! A cut says what stays; it is carried out tensor by tensor, each by its name in the checkpoint. A block of the residual
//! stream that is gone passes the stream on; a group of heads is rows of q, k and v with columns of o; a channel is a row of
//! gate and of up with a column of down. What is left has the same form, only smaller.

use tch::Tensor;
use tensor_core::ModulePath;

use crate::{Error, Result};

/// The parts of a decoder that a cut counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key-value heads, each shared by as many query heads.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Channels of the feed-forward.
    pub intermediate_size: usize,
}

/// What stays of a decoder, by its old numbers, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    shape: Shape,
    layers: Vec<usize>,
    /// Of each old layer, if groups go.
    groups: Option<Vec<Vec<usize>>>,
    /// Of each old layer, if channels go.
    channels: Option<Vec<Vec<usize>>>,
}

impl Cut {
    /// Everything stays.
    pub fn nothing(shape: Shape) -> Self {
        Self {
            shape,
            layers: (0..shape.num_layers).collect(),
            groups: None,
            channels: None,
        }
    }

    /// Without these blocks.
    pub fn without_layers(mut self, gone: &[usize]) -> Result<Self> {
        self.layers.retain(|idx| !gone.contains(idx));
        if self.layers.is_empty() {
            return nothing_left("num_hidden_layers", "every block would go");
        }
        Ok(self)
    }

    /// Of each layer the `count` key-value heads whose group matters most; `importance` is a number a group of each layer.
    pub fn with_groups(mut self, count: usize, importance: &[Vec<f64>]) -> Result<Self> {
        let all = self.shape.num_kv_heads;
        self.groups = Some(most(
            "num_key_value_heads",
            count,
            [self.shape.num_layers, all],
            importance,
        )?);
        Ok(self)
    }

    /// Of each layer the `count` channels that matter most; `importance` is a number a channel of each layer.
    pub fn with_channels(mut self, count: usize, importance: &[Vec<f64>]) -> Result<Self> {
        let all = self.shape.intermediate_size;
        self.channels = Some(most(
            "intermediate_size",
            count,
            [self.shape.num_layers, all],
            importance,
        )?);
        Ok(self)
    }

    /// The blocks that stay, by their old numbers.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// What is left, counted.
    pub fn shape(&self) -> Shape {
        let first = |kept: &Option<Vec<Vec<usize>>>| kept.as_ref().and_then(|kept| kept.first()).map(Vec::len);
        let num_kv_heads = first(&self.groups).unwrap_or(self.shape.num_kv_heads);
        Shape {
            num_layers: self.layers.len(),
            num_heads: num_kv_heads * self.shape.num_heads / self.shape.num_kv_heads,
            num_kv_heads,
            intermediate_size: first(&self.channels).unwrap_or(self.shape.intermediate_size),
            ..self.shape
        }
    }

    /// The old tensor that the new one called `name` is cut from.
    pub fn source(&self, name: &str) -> String {
        let old = |new: usize| self.layers.get(new).copied().unwrap_or(new);
        let mut found = false;
        let parts = name.split('.').map(|part| match part.parse::<usize>() {
            Ok(new) if !found => {
                found = true;
                old(new).to_string()
            }
            _ => part.to_owned(),
        });
        parts.collect::<Vec<_>>().join(".")
    }

    /// What is left of the old tensor called `name`: a weight `[out, in]`, a bias `[out]`, or anything else as it is.
    pub fn tensor(&self, name: &str, value: &Tensor) -> Tensor {
        let (rows, columns) = self.kept(name);
        let chosen = |value: Tensor, dim: i64, kept: Option<Vec<i64>>| match kept {
            Some(kept) => value.index_select(dim, &Tensor::from_slice(&kept).to_device(value.device())),
            None => value,
        };
        let value = chosen(value.shallow_clone(), 0, rows);
        if value.dim() == 2 {
            chosen(value, 1, columns)
        } else {
            value
        }
    }

    /// Rows and columns that stay, where some go.
    fn kept(&self, name: &str) -> (Option<Vec<i64>>, Option<Vec<i64>>) {
        let path = ModulePath::from(name);
        let Some(layer) = path.layer_idx() else {
            return (None, None);
        };
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        let per_group = self.shape.num_heads / self.shape.num_kv_heads;
        let of = |kept: &Option<Vec<Vec<usize>>>, width: usize| {
            let kept = kept.as_ref()?.get(layer)?;
            Some(
                kept.iter()
                    .flat_map(|&at| (at * width..(at + 1) * width).map(|at| at as i64))
                    .collect(),
            )
        };
        match module.rsplit('.').next() {
            Some("q_proj") => (of(&self.groups, per_group * self.shape.head_dim), None),
            Some("k_proj" | "v_proj") => (of(&self.groups, self.shape.head_dim), None),
            Some("o_proj") => (None, of(&self.groups, per_group * self.shape.head_dim)),
            Some("gate_proj" | "up_proj") => (of(&self.channels, 1), None),
            Some("down_proj") => (None, of(&self.channels, 1)),
            _ => (None, None),
        }
    }
}

/// The `count` largest of each layer, ascending; of equal ones the last go.
fn most(
    option: &'static str,
    count: usize,
    [layers, all]: [usize; 2],
    importance: &[Vec<f64>],
) -> Result<Vec<Vec<usize>>> {
    if count == 0 || count > all {
        return Err(Error::Option {
            option,
            found: format!("{count} of {all} cannot stay"),
            hint: "give the number that the smaller model shall have",
        });
    }
    let found: Vec<i64> = importance.iter().map(|scores| scores.len() as i64).collect();
    let wanted = vec![all as i64; layers];
    if found != wanted {
        return Err(Error::Shape {
            what: "a number of importance for each unit of each layer",
            wanted,
            found,
        });
    }
    let kept = importance.iter().map(|scores| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(count);
        order.sort_unstable();
        order
    });
    Ok(kept.collect())
}

fn nothing_left<T>(option: &'static str, found: &str) -> Result<T> {
    Err(Error::Option {
        option,
        found: found.to_owned(),
        hint: "leave some",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        num_layers: 3,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 2,
        intermediate_size: 5,
    };

    #[test]
    fn names_and_numbers_are_those_of_the_parts_that_stay() {
        let cut = Cut::nothing(SHAPE).without_layers(&[1]).unwrap();
        let cut = cut
            .with_groups(1, &[vec![0.1, 0.2], vec![0.0, 0.0], vec![5.0, 3.0]])
            .unwrap();
        let scores = vec![0.3, 0.9, 0.3, 0.1, 0.5];
        let cut = cut.with_channels(3, &[scores.clone(), scores.clone(), scores]).unwrap();
        assert_eq!(
            cut.source("model.layers.1.mlp.up_proj.weight"),
            "model.layers.2.mlp.up_proj.weight"
        );
        assert_eq!(cut.source("model.norm.weight"), "model.norm.weight");
        let of = |name: &str| cut.kept(name);
        assert_eq!(
            of("model.layers.0.self_attn.q_proj.weight"),
            (Some(vec![4, 5, 6, 7]), None)
        );
        assert_eq!(of("model.layers.0.self_attn.k_proj.bias"), (Some(vec![2, 3]), None));
        assert_eq!(
            of("model.layers.2.self_attn.o_proj.weight"),
            (None, Some(vec![0, 1, 2, 3]))
        );
        assert_eq!(of("model.layers.2.mlp.gate_proj.weight"), (Some(vec![0, 1, 4]), None));
        assert_eq!(of("model.layers.2.mlp.down_proj.weight"), (None, Some(vec![0, 1, 4])));
        assert_eq!(of("model.layers.2.input_layernorm.weight"), (None, None));
        let left = cut.shape();
        assert_eq!(
            (
                left.num_layers,
                left.num_heads,
                left.num_kv_heads,
                left.intermediate_size
            ),
            (2, 2, 1, 3)
        );
    }

    #[test]
    fn something_is_left() {
        assert!(Cut::nothing(SHAPE).without_layers(&[0, 1, 2]).is_err());
        for count in [0, 3] {
            let error = Cut::nothing(SHAPE).with_groups(count, &[]).unwrap_err().to_string();
            assert!(
                error.contains("`num_key_value_heads`") && error.contains("of 2"),
                "{error}"
            );
        }
    }
}

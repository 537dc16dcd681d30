//! Which blocks keep their graph: as many as the memory is estimated to hold.
//!
//! A kept block of a gated transformer leaves about 20 values of the model's width for each token (its norms' and
//! projections' inputs and outputs; attention is not quadratic here). Half of what is free now may go to them; the rest
//! is for gradients, the loss and surprises. Where the free memory cannot be known, every block keeps its graph.

use tch::{Device, Tensor};
use tensor_core::{Checkpointing, CheckpointingPolicy, Documents, LanguageModel, Pass};

use crate::GradientCheckpointing;

/// Values that a kept block leaves for each token, in model widths.
const KEPT_WIDTHS: u64 = 20;

/// The plan for rows of at most `longest_row` tokens.
pub fn choose_plan(
    model: &dyn LanguageModel,
    choice: GradientCheckpointing,
    longest_row: usize,
    device: Device,
) -> CheckpointingPolicy {
    let num_blocks = model.num_blocks();
    match choice {
        GradientCheckpointing::Always => CheckpointingPolicy::uniform(Checkpointing::Recompute, num_blocks),
        GradientCheckpointing::Never => CheckpointingPolicy::uniform(Checkpointing::Keep, num_blocks),
        GradientCheckpointing::Auto => {
            let block = bytes_per_token(model, device) * longest_row as u64;
            fit_in(free_memory(device).map(|free| free / 2), block, num_blocks)
        }
    }
}

/// Recomputes just as many blocks as do not fit `budget` (bytes) at `block` bytes each.
fn fit_in(budget: Option<u64>, block: u64, num_blocks: usize) -> CheckpointingPolicy {
    let kept = budget.map_or(num_blocks, |budget| {
        usize::try_from(budget / block.max(1)).map_or(num_blocks, |fit| fit.min(num_blocks))
    });
    CheckpointingPolicy::recompute_first(num_blocks - kept, num_blocks)
}

/// Bytes that a kept block leaves for each token.
fn bytes_per_token(model: &dyn LanguageModel, device: Device) -> u64 {
    let documents = Documents::new(&[1]);
    let token = Tensor::zeros([1], (tch::Kind::Int64, device));
    let stream = tch::no_grad(|| model.embed(&token, &Pass::evaluate(&documents)));
    KEPT_WIDTHS * stream.numel() as u64 * stream.kind().elt_size_in_bytes() as u64
}

/// Bytes that this process may still take on `device`; none if that cannot be known.
pub fn free_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(index) => {
            let query = ["--query-gpu=memory.free", "--format=csv,noheader,nounits"];
            let shown = std::process::Command::new("nvidia-smi").args(query).output().ok()?;
            let text = String::from_utf8(shown.stdout).ok()?;
            Some(text.lines().nth(index)?.trim().parse::<u64>().ok()? << 20)
        }
        _ => [available(), left_in_group()].into_iter().flatten().min(),
    }
}

fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// What a container's limit leaves.
fn left_in_group() -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_that_do_not_fit_are_recomputed() {
        for (budget, recomputed) in [(None, 0), (Some(100), 0), (Some(35), 1), (Some(9), 4), (Some(0), 4)] {
            assert_eq!(
                fit_in(budget, 10, 4),
                CheckpointingPolicy::recompute_first(recomputed, 4),
                "{budget:?}"
            );
        }
    }

    #[test]
    fn this_machine_has_free_memory() {
        assert!(free_memory(Device::Cpu).is_none_or(|bytes| bytes > 1 << 20));
    }
}

//! The gradients of keys that several tasks share, summed in the order of the tasks.
#![allow(unsafe_code)]

use tensor_core::parallel;
use tensor_core::tile::Number;

use super::{Backward, Geometry};

/// Sums what the tasks that share keys found, in their order.
pub(super) fn merge<T: Number>(backward: &Backward<T>) {
    let Geometry {
        head_dim,
        kv_heads,
        scale,
        ..
    } = backward.geometry;
    let groups = &backward.partial.groups;
    parallel::for_each_range(groups.len(), 1, |range| {
        for group in &groups[range] {
            let task = |&index: &usize| {
                (
                    &backward.tasks[index],
                    backward.partial.places[index].expect("shares keys"),
                )
            };
            let first = task(&group[0]).0;
            let sequence = &backward.sequences[first.sequence];
            let mut sum = vec![0.0f32; head_dim];
            for key in 0..sequence.keys.len() {
                for (i, factor) in [(0, scale as f32), (1, 1.0)] {
                    sum.fill(0.0);
                    for (task, place) in group.iter().map(task).filter(|(task, _)| task.keys.contains(&key)) {
                        let at = place + (i * task.keys.len() + key - task.keys.start) * head_dim;
                        // SAFETY: all tasks are done; nothing writes these sums any more.
                        let part = unsafe { backward.sums.part(at..at + head_dim) };
                        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += *part);
                    }
                    let at = ((sequence.keys.start + key) * kv_heads + first.kv_head) * head_dim;
                    // SAFETY: each group has its own keys and head.
                    let to = unsafe { backward.results[1 + i].part(at..at + head_dim) };
                    to.iter_mut()
                        .zip(&sum)
                        .for_each(|(to, sum)| *to = T::from_f32(sum * factor));
                }
            }
        }
    });
}

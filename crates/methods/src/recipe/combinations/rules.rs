//! The rules that ask only what a method trains and what it does to weights; those that a method has alone are in its file.

use super::Rule;
use crate::Trains;
use crate::recipe::Surgery;

/// What cannot work whatever the methods are called, and why.
pub(super) static RULES: &[Rule] = &[
    Rule {
        name: "packed-weights-train",
        combination: "{weights}, {reshaping} over `quantize`, or over a model in 4 bits",
        why: "packed weights do not train",
        hint: "train an adapter over them: `kind = \"lora\"`",
        meets: |c| {
            let changes_weights = |surgery: &Surgery| surgery.trains() == Trains::Weights || surgery.method().reshapes;
            c.surgery_where(|surgery, _| changes_weights(surgery) && (c.quantizes() || c.is_packed()))
        },
    },
    Rule {
        name: "reshape-after-training",
        combination: "{reshaping} behind a surgery that trains",
        why: "it changes what the model is, found a surgery before it that trains",
        hint: "put it first",
        meets: |c| {
            c.surgery_where(|surgery, before| {
                surgery.method().reshapes && before.iter().any(Surgery::makes_something_train)
            })
        },
    },
    Rule {
        name: "adapter-after-training",
        combination: "{adapters} behind a surgery that trains",
        why: "an adapter's file holds one adapter over a frozen base, found a surgery before it that trains",
        hint: "keep one of the two; other ranks go into `rank_pattern`, other widths into `reduction_factor`, modules that train whole into `modules_to_save`",
        meets: |c| {
            c.surgery_where(|surgery, before| surgery.is_adapter() && before.iter().any(Surgery::makes_something_train))
        },
    },
    Rule {
        name: "weights-after-adapter",
        combination: "{weights} behind an adapter",
        why: "an adapter's file does not hold the base, found a surgery before it that trains",
        hint: "modules that train whole beside an adapter go into `modules_to_save`",
        meets: |c| {
            c.surgery_where(|surgery, before| {
                surgery.trains() == Trains::Weights && before.iter().any(Surgery::is_adapter)
            })
        },
    },
    Rule {
        name: "nothing-trains",
        combination: "{idle} without a surgery that trains",
        why: "no surgery of this recipe makes anything train",
        hint: "add `[[surgery]]` with `kind = \"lora\"` for an adapter, or `kind = \"full\"` for all parameters",
        meets: |c| (!c.has(Surgery::makes_something_train)).then(|| "surgery".to_owned()),
    },
];

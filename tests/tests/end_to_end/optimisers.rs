//! Where an optimiser keeps its states, through the command: the same run with less memory, and one that resumes.

use std::fs;
use std::path::Path;

use checkpoint::Safetensors;
use tch::Kind;

use super::command::{Home, finetune, losses};

/// A full fine-tuning of the tiny model with this optimiser, in a folder of its own.
fn run(home: &Home, optim: &str, name: &str, more: &[&str]) -> std::path::PathBuf {
    let folder = home.path().join(name);
    let recipe = home.recipe("");
    let settings = [
        "surgery.0={kind=\"full\"}".to_owned(),
        format!("train.optim={optim}"),
        format!("train.output_dir={}", folder.display()),
        "train.save_steps=2".to_owned(),
    ];
    let mut args = vec!["train", recipe.as_str()];
    for setting in &settings {
        args.extend(["--set", setting]);
    }
    finetune(home, &[&args[..], more].concat()).works();
    folder
}

fn same(a: &Path, b: &Path, name: &str) {
    assert!(
        fs::read(a.join(name)).unwrap() == fs::read(b.join(name)).unwrap(),
        "{name} differs"
    );
}

#[test]
fn paged_states_give_the_same_run_bit_for_bit() {
    let home = Home::new();
    let (resident, paged) = (
        run(&home, "adamw", "resident", &[]),
        run(&home, "paged_adamw_32bit", "paged", &[]),
    );
    for name in ["model.safetensors", "checkpoint-6/optimizer.safetensors"] {
        same(&resident, &paged, name);
    }
    assert_eq!(losses(&resident), losses(&paged));
}

#[test]
fn states_in_8_bits_resume_bit_for_bit_and_follow_those_in_32() {
    let home = Home::new();
    let whole = run(&home, "adamw_bnb_8bit", "whole", &[]);
    let file = Safetensors::open(&whole.join("checkpoint-6/optimizer.safetensors")).unwrap();
    let eight = |name: &&str| file.info(name).unwrap().kind == Kind::Uint8;
    assert!(
        file.names().filter(eight).count() >= 2,
        "a large parameter has its two means in 8 bits"
    );
    // The second half again, from a checkpoint, with its states in a file.
    let half = home.path().join("half");
    run(&home, "paged_adamw_8bit", "half", &[]);
    for name in ["checkpoint-4", "checkpoint-6"] {
        fs::remove_dir_all(half.join(name)).unwrap();
    }
    run(&home, "paged_adamw_8bit", "half", &["--resume"]);
    for name in ["model.safetensors", "checkpoint-6/optimizer.safetensors"] {
        same(&whole, &half, name);
    }
    let exact = losses(&run(&home, "adamw", "exact", &[]));
    for (found, wanted) in losses(&whole).iter().zip(&exact) {
        assert!((found - wanted).abs() < 0.02 * wanted, "{found}, wanted {wanted}");
    }
    assert_ne!(losses(&whole), exact);
}

//! A CUDA device does what the CPU does: every method trained on both, and what the verbs say. Skips where there is none.

use std::path::Path;

use super::command::{Home, finetune, losses, metrics, perplexity, tiny};

/// What is compared with the CPU.
const DEVICE: &str = "cuda";

/// Losses on the two devices may differ by this, relative to one plus their size: another order of sums, over six steps.
const TOLERANCE: f64 = 2e-3;

/// A home, if there is a device to test on.
fn home() -> Option<Home> {
    let home = Home::new();
    let doctor = finetune(&home, &["doctor", "--json"]).works().json_lines().remove(0);
    if doctor["device_auto"]
        .as_str()
        .is_some_and(|device| device.starts_with(DEVICE))
    {
        return Some(home);
    }
    golden::skip!("needs a CUDA device ({})", doctor["cuda"].as_str().unwrap_or("none"));
    None
}

/// Trains the common recipe on `device` with these settings, each of the common ones replaced.
fn train(home: &Home, device: &str, settings: &[&str]) -> String {
    let recipe = home.recipe("");
    let run = home.at(device);
    // An earlier case's.
    let _ = std::fs::remove_dir_all(&run);
    let all = [
        format!("train.output_dir={run}"),
        format!("model.device={device}"),
        "train.save_steps=1000".into(),
    ];
    let mut args = vec!["train", recipe.as_str()];
    for setting in all.iter().map(String::as_str).chain(settings.iter().copied()) {
        args.extend(["--set", setting]);
    }
    finetune(home, &args).works();
    run
}

#[track_caller]
fn near(what: &str, cpu: &[f64], cuda: &[f64]) {
    assert_eq!(cpu.len(), cuda.len(), "{what}");
    for (ours, theirs) in cpu.iter().zip(cuda) {
        assert!(
            (ours - theirs).abs() < TOLERANCE * (1.0 + ours.abs()),
            "{what}: {cpu:?} on the CPU, {cuda:?} on CUDA"
        );
    }
}

/// Trains on both and compares the losses.
#[track_caller]
fn same(home: &Home, settings: &[&str]) {
    let [cpu, cuda] = ["cpu", DEVICE].map(|device| losses(Path::new(&train(home, device, settings))));
    assert!(
        cpu.len() == 6 && cpu.iter().all(|loss| loss.is_finite()),
        "{settings:?}: {cpu:?}"
    );
    near(&format!("{settings:?}"), &cpu, &cuda);
}

#[test]
fn what_is_put_into_a_model_trains_alike() {
    let Some(home) = home() else { return };
    for surgery in [
        "{kind=\"lora\",r=3,lora_alpha=6,lora_dropout=0.2}",
        "{kind=\"lora\",r=3,init_lora_weights=\"pissa\"}",
        "{kind=\"dora\",r=3,lora_alpha=6,lora_dropout=0.2}",
        "{kind=\"dora\",r=3,exact_norm=true}",
        "{kind=\"adapter\",config=\"double_seq_bn\",reduction_factor=4,train_norms=true,dropout=0.1}",
        "{kind=\"adapter\",config=\"par_bn\",scaling=\"learned\"}",
        "{kind=\"full\"}",
        "{kind=\"hft\",granularity=\"stratified\",seed=2}",
    ] {
        same(&home, &[&format!("surgery.0={surgery}"), "train.learning_rate=1e-3"]);
    }
}

#[test]
fn packed_weights_train_alike() {
    let Some(home) = home() else { return };
    let adapter = "{kind=\"lora\",r=3,lora_alpha=6}";
    for (scheme, more) in [
        ("nf4", ",double_quant=true"),
        ("fp4", ""),
        ("int8", ""),
        ("int4", ",block_size=32"),
    ] {
        same(
            &home,
            &[&format!(
                "surgery=[{{kind=\"quantize\",scheme=\"{scheme}\"{more}}},{adapter}]"
            )],
        );
    }
}

#[test]
fn experts_train_alike() {
    let Some(home) = home() else { return };
    let upcycle = "{kind=\"upcycle\",num_local_experts=4,num_experts_per_tok=2,reinitialise=0.2,seed=3}";
    for router in ["router_aux_loss_coef=0.01", "router_bias_update_rate=0.01"] {
        same(
            &home,
            &[
                &format!("surgery=[{upcycle},{{kind=\"full\"}}]"),
                &format!("router.{router}"),
                "train.learning_rate=1e-3",
            ],
        );
    }
    let (parent, mixture) = (tiny().display().to_string(), home.at("mixture"));
    let args = [
        "upcycle",
        "--model",
        &parent,
        "--num-experts",
        "4",
        "--reinitialise",
        "0.2",
        "--output",
        &mixture,
    ];
    finetune(&home, &args).works();
    let mixture = format!("model.name_or_path={mixture}");
    let lora = "{kind=\"lora\",r=2,target_modules=\"all-linear\"}";
    same(&home, &[&mixture, &format!("surgery.0={lora}"), "router.gating=dense"]);
    same(
        &home,
        &[
            &mixture,
            &format!("surgery=[{{kind=\"quantize\",scheme=\"nf4\"}},{lora}]"),
        ],
    );
}

#[test]
fn optimisers_step_alike() {
    let Some(home) = home() else { return };
    for optim in ["adamw", "paged_adamw", "adamw_8bit", "paged_adamw_8bit"] {
        same(
            &home,
            &[
                "surgery.0={kind=\"full\"}",
                &format!("train.optim={optim}"),
                "train.learning_rate=1e-3",
            ],
        );
    }
}

#[test]
fn preferences_are_learnt_alike() {
    let Some(home) = home() else { return };
    let (pairs, judged) = (home.pairs(), home.judged());
    for (kind, rows) in [("dpo", &pairs), ("orpo", &pairs), ("kto", &judged), ("reward", &pairs)] {
        same(
            &home,
            &[
                &format!("objective={{kind=\"{kind}\"}}"),
                &format!("data.train.0.path={rows}"),
            ],
        );
    }
}

#[test]
fn replies_are_written_and_learnt_from() {
    let Some(home) = home() else { return };
    let rows = (0..24).map(|i| format!("{{\"prompt\": \"say it {i} times\"}}\n"));
    let prompts = format!(
        "data.train.0.path={}",
        home.file("prompts.jsonl", &rows.collect::<String>())
    );
    let rewards = "max_completion_length=6,rewards=[{kind=\"length\",target=3}]";
    for objective in [
        format!("objective={{kind=\"ppo\",num_ppo_epochs=2,num_mini_batches=2,{rewards}}}"),
        format!("objective={{kind=\"grpo\",num_generations=4,beta=0.05,{rewards}}}"),
    ] {
        let [cpu, cuda] = ["cpu", DEVICE].map(|device| {
            let run = train(&home, device, &[&prompts, &objective]);
            metrics(Path::new(&run))[0].clone()
        });
        // The first rollout is the untrained policy's own; its tokens are drawn on the CPU from numbers that nearly agree.
        for key in ["reward", "completions/mean_length"] {
            near(key, &[cpu[key].as_f64().unwrap()], &[cuda[key].as_f64().unwrap()]);
        }
    }
}

#[test]
fn facts_are_memorised() {
    let Some(home) = home() else { return };
    let facts = home.file(
        "facts.jsonl",
        "{\"prompt\": \"The code of the door is\", \"completion\": \" 4711\"}\n\
         {\"prompt\": \"The name of the boat is\", \"completion\": \" Anna\"}\n",
    );
    let settings = [
        "surgery.0={kind=\"memory\",layers_to_transform=[1],num_experts=4096,top_k=4,query_dim=16}",
        "objective={kind=\"memory\",target_loss=0.5,max_steps_per_fact=400}",
        &format!("data.train.0.path={facts}"),
        "train.max_steps=400",
        "train.learning_rate=0.05",
        "train.lr_scheduler_type=constant",
    ];
    let run = train(&home, DEVICE, &settings);
    let suite = home.file(
        "recall.toml",
        &format!("[[task]]\nname = \"facts\"\nkind = \"exact_match\"\ndata = {facts:?}\nmax_new_tokens = 8\n"),
    );
    let model = tiny().display().to_string();
    for device in ["cpu", DEVICE] {
        let args = [
            "evaluate",
            "--model",
            &model,
            "--adapter",
            &run,
            "--suite",
            &suite,
            "--dtype",
            "f32",
            "--device",
            device,
            "--json",
        ];
        let found = finetune(&home, &args).works().json_lines().remove(0);
        assert_eq!(found["tasks"]["facts"]["exact_match"], 1.0, "{device}: {found}");
    }
}

#[test]
fn what_a_model_says_does_not_depend_on_the_device() {
    let Some(home) = home() else { return };
    let model = tiny().display().to_string();
    let run = train(&home, DEVICE, &[]);
    let scored = |device: &str| perplexity(&home, &["--model", &model, "--adapter", &run, "--device", device]);
    let (cpu, cuda) = (scored("cpu"), scored(DEVICE));
    assert!((cpu / cuda - 1.0).abs() < 1e-5, "{cpu} {cuda}");
    let said = |device: &str| {
        let args = [
            "generate",
            "--model",
            &model,
            "--adapter",
            &run,
            "--prompt",
            "What is quick?",
            "--max-new-tokens",
            "12",
            "--temperature",
            "0",
            "--dtype",
            "f32",
            "--device",
            device,
        ];
        finetune(&home, &args).works().stdout
    };
    assert_eq!(said("cpu"), said(DEVICE));
    let merged = |device: &str| {
        let out = home.at(&format!("merged-{device}"));
        let args = [
            "merge",
            "--model",
            &model,
            "--adapter",
            &run,
            "--output",
            &out,
            "--device",
            device,
        ];
        finetune(&home, &args).works();
        perplexity(&home, &["--model", &out, "--device", device])
    };
    let (cpu, cuda) = (merged("cpu"), merged(DEVICE));
    assert!((cpu / cuda - 1.0).abs() < 1e-5, "{cpu} {cuda}");
}

#[test]
fn a_model_is_pruned_alike() {
    let Some(home) = home() else { return };
    let (model, texts) = (tiny().display().to_string(), home.texts());
    for method in ["wanda", "sparsegpt"] {
        let scored = |device: &str| {
            let out = home.at(&format!("{method}-{device}"));
            let args = [
                "prune",
                "--model",
                &model,
                "--method",
                method,
                "--sparsity",
                "0.5",
                "--calibration",
                &texts,
                "--nsamples",
                "16",
                "--dtype",
                "f32",
                "--device",
                device,
                "--output",
                &out,
            ];
            finetune(&home, &args).works();
            perplexity(&home, &["--model", &out, "--device", "cpu"])
        };
        let (cpu, cuda) = (scored("cpu"), scored(DEVICE));
        assert!((cpu / cuda - 1.0).abs() < 1e-2, "{method}: {cpu} {cuda}");
    }
}

#[test]
fn a_run_on_the_device_is_resumed() {
    let Some(home) = home() else { return };
    let (whole, part) = (home.at("whole"), home.at("part"));
    for run in [&whole, &part] {
        let output = format!("train.output_dir={run}");
        train(&home, DEVICE, &[&output, "train.save_steps=2"]);
    }
    std::fs::remove_dir_all(Path::new(&part).join("checkpoint-6")).unwrap();
    let recipe = Path::new(&part).join("recipe.toml").display().to_string();
    finetune(&home, &["train", &recipe, "--resume"]).works();
    near("resumed", &losses(Path::new(&whole)), &losses(Path::new(&part)));
}

//! Recipes, rows and options that cannot be used: each is refused by place, with what was wanted and found.

use std::fs;

use super::command::{Home, finetune, tiny};

/// Trains with overrides and expects a failure that says all of this.
#[track_caller]
fn check(home: &Home, overrides: &[&str], parts: &[&str]) {
    let recipe = home.recipe("");
    let mut args = vec!["train", recipe.as_str()];
    for setting in overrides {
        args.extend(["--set", setting]);
    }
    finetune(home, &args).fails_with(1, parts);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_a_near_one() {
    let home = Home::new();
    let recipe = home.recipe("learning_rte = 1\n");
    let line = fs::read_to_string(&recipe).unwrap().lines().count();
    let place = format!("recipe.toml:{line}`");
    finetune(&home, &["train", &recipe]).fails_with(
        1,
        &[
            "error: ",
            &place,
            "`train.learning_rte`",
            "hint: did you mean `learning_rate`?",
        ],
    );
}

#[test]
fn a_wrong_override_is_named() {
    let home = Home::new();
    check(
        &home,
        &["surgery.0.rank=8"],
        &["`--set surgery.0.rank`", "no such key", "`r`"],
    );
    check(&home, &["train.max_steps=many"], &["`train.max_steps`", "\"many\""]);
    check(
        &home,
        &["surgery.0.kind=qlora"],
        &["`surgery.0.kind`", "did you mean `lora`?"],
    );
}

#[test]
fn a_target_that_matches_nothing_is_refused_with_what_there_is() {
    let home = Home::new();
    check(
        &home,
        &["surgery.0.target_modules=[\"q_prj\"]"],
        &["`q_prj`", "matches no module", "did you mean `q_proj`?"],
    );
    check(
        &home,
        &["surgery.0={kind=\"full\",unfrozen_parameters=[\"nothing\"]}"],
        &["`nothing`", "matches no parameter"],
    );
}

#[test]
fn a_row_without_its_keys_is_named_by_file_and_line() {
    let home = Home::new();
    let rows = home.file(
        "rows.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\"}\n",
    );
    check(
        &home,
        &[&format!("data.train.0.path={rows}")],
        &["rows.jsonl` line 2", "`completion`"],
    );
    let rows = home.file("odd.jsonl", "{\"quention\": \"a\", \"answer\": \"b\"}\n");
    check(
        &home,
        &[&format!("data.train.0.path={rows}")],
        &["odd.jsonl` line 1", "`quention`", "columns"],
    );
    let rows = home.file("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
    check(
        &home,
        &[&format!("data.train.0.path={rows}")],
        &["broken.jsonl` line 2"],
    );
    check(
        &home,
        &["data.train.0.path=nowhere.jsonl"],
        &["nowhere.jsonl", "no such file"],
    );
}

#[test]
fn a_row_in_which_nothing_is_trained_is_refused() {
    let home = Home::new();
    let rows = home.file(
        "rows.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}\n",
    );
    check(
        &home,
        &[&format!("data.train.0.path={rows}")],
        &["rows.jsonl` line 1", "no token of the row is trained"],
    );
}

#[test]
fn a_prompt_that_fills_max_length_is_refused() {
    let home = Home::new();
    check(
        &home,
        &["data.max_length=8"],
        &["chats.jsonl` line 1", "max_length = 8", "on_too_long"],
    );
}

#[test]
fn a_loss_that_is_no_number_names_step_and_block() {
    let home = Home::new();
    check(
        &home,
        &["train.learning_rate=1e30", "train.max_grad_norm=0.0"],
        &["step ", "block ", "not finite", "lower learning rate"],
    );
}

#[test]
fn an_output_folder_that_holds_another_run_is_left_alone() {
    let home = Home::new();
    let recipe = home.recipe("");
    finetune(&home, &["train", &recipe]).works();
    let before = fs::read(home.path().join("run/adapter_model.safetensors")).unwrap();
    finetune(&home, &["train", &recipe, "--set", "surgery.0.r=2"])
        .fails_with(1, &["run of another recipe", "r = 3", "overwrite_output_dir"]);
    finetune(&home, &["train", &recipe]).fails_with(1, &["this run, saved after step 6", "--resume"]);
    assert_eq!(
        fs::read(home.path().join("run/adapter_model.safetensors")).unwrap(),
        before
    );
    let taken = home.file("model-here/config.json", "{}");
    let folder = taken.trim_end_matches("/config.json").to_owned();
    finetune(
        &home,
        &["train", &recipe, "--set", &format!("train.output_dir={folder}")],
    )
    .fails_with(1, &["already holds", "config.json"]);
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let home = Home::new();
    finetune(&home, &["trian"]).fails_with(2, &["trian"]);
    finetune(&home, &["generate", "--model", "x"]).fails_with(2, &["--prompt"]);
    finetune(&home, &[]).fails_with(2, &["Usage"]);
    let model = tiny().display().to_string();
    finetune(&home, &["generate", "--model", &model, "--prompt", "a", "--top-p", "7"])
        .fails_with(1, &["top_p", "0 to 1"]);
    finetune(
        &home,
        &["generate", "--model", &model, "--prompt", "a", "--device", "tpu"],
    )
    .fails_with(1, &["`tpu`", "cuda:N"]);
}

//! Recipes, rows and options that cannot be used: each is refused by place, with what was wanted and found.

use std::fs;

use super::command::{Home, Refusal, files, finetune, nothing_lost, tiny};

/// Trains with overrides and expects a refusal, after which nothing is lost and a right recipe may use the folder.
#[track_caller]
fn check(home: &Home, overrides: &[&str], says: &Refusal) {
    let recipe = home.recipe("");
    let before = files(home.path());
    let mut args = vec!["train", recipe.as_str()];
    for setting in overrides {
        args.extend(["--set", setting]);
    }
    finetune(home, &args).refuses(says);
    nothing_lost(home.path(), &before);
    assert!(
        !home.path().join("run/recipe.toml").exists(),
        "a refused run claims no folder"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_a_near_one() {
    let home = Home::new();
    let recipe = home.recipe("learning_rte = 1\n");
    let line = fs::read_to_string(&recipe).unwrap().lines().count();
    finetune(&home, &["train", &recipe]).refuses(&Refusal {
        place: &format!("{recipe}:{line}`"),
        wanted: "wanted one of ",
        found: "`train.learning_rte`: no such key",
        hint: "did you mean `learning_rate`?",
    });
    let section = home.file("section.toml", "[modle]\nname_or_path = \"x\"\n");
    finetune(&home, &["train", &section]).refuses(&Refusal {
        place: "section.toml:1`",
        wanted: "wanted one of ",
        found: "`modle`: no such section",
        hint: "did you mean `model`?",
    });
    // `estimate` reads recipes by the same rules.
    finetune(&home, &["estimate", &recipe]).refuses(&Refusal {
        place: &format!("{recipe}:{line}`"),
        wanted: "wanted one of ",
        found: "`train.learning_rte`: no such key",
        hint: "did you mean `learning_rate`?",
    });
}

#[test]
fn a_wrong_override_is_named() {
    let home = Home::new();
    check(
        &home,
        &["surgery.0.lora_alph=8"],
        &Refusal {
            place: "`--set surgery.0.lora_alph`",
            wanted: "wanted one of ",
            found: "no such key",
            hint: "did you mean `lora_alpha`?",
        },
    );
    check(
        &home,
        &["surgery.0.kind=lara"],
        &Refusal {
            place: "`surgery.0.kind`",
            wanted: "wanted one of ",
            found: "found `lara`",
            hint: "did you mean `lora`?",
        },
    );
    let recipe = home.recipe("");
    for (setting, parts) in [
        (
            "train.max_steps=many",
            ["`--set train.max_steps`", "wanted a whole number", "\"many\""],
        ),
        (
            "train.learning_rate=-1",
            ["`train.learning_rate`", "wanted a number above 0", "`-1"],
        ),
        ("train", ["`--set train`", "wanted `key=value`", "train"]),
    ] {
        finetune(&home, &["train", &recipe, "--set", setting]).fails_with(1, &parts);
    }
}

#[test]
fn a_target_that_matches_nothing_is_refused_with_what_there_is() {
    let home = Home::new();
    check(
        &home,
        &["surgery.0.target_modules=[\"q_prj\"]"],
        &Refusal {
            place: "`surgery.0`",
            wanted: "target_modules",
            found: "`q_prj`",
            hint: "did you mean `q_proj`?",
        },
    );
    check(
        &home,
        &["surgery.0={kind=\"full\",unfrozen_parameters=[\"nothing\"]}"],
        &Refusal {
            place: "`surgery.0`",
            wanted: "`unfrozen_parameters` matches no parameter",
            found: "`nothing`",
            hint: "finetune inspect",
        },
    );
    // The folder is free for the mended recipe.
    let recipe = home.recipe("");
    finetune(&home, &["train", &recipe, "--set", "train.max_steps=1"]).works();
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
        &Refusal {
            place: &format!("`{rows}` line 2"),
            wanted: "wanted the keys `prompt`, `completion`",
            found: "found `prompt`",
            hint: "mend or remove the row",
        },
    );
    let rows = home.file("odd.jsonl", "{\"quention\": \"a\", \"answer\": \"b\"}\n");
    check(
        &home,
        &[&format!("data.train.0.path={rows}")],
        &Refusal {
            place: &format!("`{rows}` line 1"),
            wanted: "wanted one of",
            found: "`quention`, `answer`",
            hint: "map other names with `columns`",
        },
    );
    let recipe = home.recipe("");
    for (name, text, parts) in [
        (
            "broken.jsonl",
            "{\"text\": \"a\"}\n{\"text\": \n",
            ["broken.jsonl` line 2", "wanted ", "found "],
        ),
        (
            "empty.jsonl",
            "",
            ["empty.jsonl`", "wanted at least one row", "found none"],
        ),
        (
            "rows.xml",
            "<a/>",
            ["rows.xml`", "wanted a file ending in .jsonl", "found `xml`"],
        ),
    ] {
        let rows = home.file(name, text);
        finetune(
            &home,
            &["train", &recipe, "--set", &format!("data.train.0.path={rows}")],
        )
        .fails_with(1, &parts);
    }
    finetune(&home, &["train", &recipe, "--set", "data.train.0.path=nowhere.jsonl"]).fails_with(
        1,
        &["`data.train.0.path`", "no such file", "`nowhere.jsonl`", "local store"],
    );
}

#[test]
fn a_row_in_which_nothing_is_trained_is_refused() {
    let home = Home::new();
    let rows = home.file(
        "rows.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n\
         {\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}\n",
    );
    check(
        &home,
        &[&format!("data.train.0.path={rows}")],
        &Refusal {
            place: &format!("`{rows}` line 2"),
            wanted: "no token of the row is trained",
            found: "assistant",
            hint: "on_empty = \"drop\"",
        },
    );
    // What the hint says helps, and is told.
    let recipe = home.recipe("");
    let source = format!("data.train.0.path={rows}");
    let args = [
        "train",
        &recipe,
        "--set",
        &source,
        "--set",
        "data.on_empty=drop",
        "--set",
        "train.max_steps=1",
    ];
    let told = finetune(&home, &args).works().stderr;
    assert!(
        told.contains("1 dropped with nothing to learn") && told.contains("line 2"),
        "{told}"
    );
}

#[test]
fn a_prompt_that_fills_max_length_is_refused() {
    let home = Home::new();
    let chats = home.chats();
    check(
        &home,
        &["data.max_length=8"],
        &Refusal {
            place: &format!("`{chats}` line 1"),
            wanted: "within max_length = 8",
            found: "the prompt has ",
            hint: "drop such rows with on_too_long = \"drop\"",
        },
    );
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let home = Home::new();
    let model = tiny().display().to_string();
    let long = "word ".repeat(200);
    let rows = home.file("long.jsonl", &format!("{{\"text\": \"a\"}}\n{{\"text\": {long:?}}}\n"));
    finetune(&home, &["generate", "--model", &model, "--prompt", &long]).refuses(&Refusal {
        place: "prompt 0",
        wanted: "wanted 1 to 127 tokens (the model sees 128 positions)",
        found: "found ",
        hint: "shorten the prompt",
    });
    finetune(&home, &["score", "--model", &model, "--data", &rows]).refuses(&Refusal {
        place: &format!("`{rows}` line 2"),
        wanted: "the model sees 128 positions",
        found: "1 of 2 rows are longer",
        hint: "split each into several rows",
    });
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let home = Home::new();
    let model = home.copy(&super::families::vectors("llama-tied"), "mixed");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::write(
            home.path().join("mixed").join(name),
            fs::read(tiny().join(name)).unwrap(),
        )
        .unwrap();
    }
    let texts = home.texts();
    let recipe = home.recipe("");
    let setting = format!("model.name_or_path={model}");
    for args in [
        &["train", &recipe, "--set", &setting][..],
        &["generate", "--model", &model, "--prompt", "a"],
        &["score", "--model", &model, "--data", &texts],
    ] {
        finetune(&home, args).refuses(&Refusal {
            place: "",
            wanted: "wanted token ids below 97",
            found: "found ",
            hint: "the tokenizer belongs to another model",
        });
    }
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let home = Home::new();
    finetune(&home, &["trian"]).fails_with(2, &["trian"]);
    finetune(&home, &["generate", "--model", "x"]).fails_with(2, &["--prompt"]);
    finetune(&home, &["train", "recipe.toml", "--nonsense"]).fails_with(2, &["--nonsense"]);
    finetune(&home, &[]).fails_with(2, &["Usage"]);
    let model = tiny().display().to_string();
    finetune(&home, &["generate", "--model", &model, "--prompt", "a", "--top-p", "7"])
        .fails_with(2, &["--top-p", "0 to 1", "'7'"]);
    finetune(
        &home,
        &["generate", "--model", &model, "--prompt", "a", "--device", "tpu"],
    )
    .fails_with(2, &["'tpu'", "cuda:N"]);
    finetune(&home, &["score", "--model", &model, "--data", "x", "--threads", "0"])
        .fails_with(2, &["--threads", "at least 1"]);
}

//! The losses: the chunked path of a head that is not plain equals the logits written out.

mod parts;

use decoder::loss::{self, Distillation, IGNORED, LabelledRow, SupervisedLoss, TokenRow};
use decoder::{Decoder, HeadKind};
use parts::{RankOne, load};
use tch::{Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, LanguageModel, ModelPass, Objective, Pass, named_params,
};

fn row(t: i64) -> TokenRow {
    let tokens: Vec<i64> = (0..t).map(|i| (i * 31 + 7) % 97).collect();
    let targets = tokens
        .iter()
        .enumerate()
        .map(|(i, id)| if i % 3 == 0 { IGNORED } else { (id * 5 + 1) % 97 });
    TokenRow {
        targets: Tensor::from_slice(&targets.collect::<Vec<_>>()),
        tokens: Tensor::from_slice(&tokens),
        documents: Documents::new(&[t as usize - 4, 4]),
    }
}

fn with_wrapped_head(model: Decoder) -> Decoder {
    model
        .map_projections(&mut |at, projection| {
            Ok(match at.as_str() {
                "lm_head" => Box::new(RankOne::beside(projection)),
                _ => projection,
            })
        })
        .expect("plain matrices")
}

/// The loss, and the gradients of everything that trains, through the whole policy.
fn through_policy(model: &Decoder, row: &TokenRow) -> (f64, Vec<Tensor>) {
    let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, model.num_blocks());
    let policy = ModelPass::train(model, &plan, DropoutKey(0));
    let loss = SupervisedLoss.loss(&policy, row).expect("shapes fit");
    let sum = loss.sum.double_value(&[]);
    policy.backward(&loss, 0.5, 1.0).expect("a backward pass");
    let trained = named_params(model)
        .into_iter()
        .filter(|(_, param)| param.is_trainable());
    (sum, trained.map(|(_, param)| param.value().grad()).collect())
}

/// The same by libtorch's autograd over the whole logits.
fn written_out(model: &Decoder, row: &TokenRow) -> (f64, Vec<Tensor>) {
    let pass = Pass::train(&row.documents, DropoutKey(0));
    let mut stream = model.embed(&row.tokens, &pass);
    for idx in 0..model.num_blocks() {
        stream = model.block(idx, &stream, &pass);
    }
    let logits = model.head().forward(&model.norm(&stream, &pass), &pass);
    let loss = logits.cross_entropy_loss::<Tensor>(&row.targets, None, tch::Reduction::Sum, IGNORED, 0.0);
    (&loss * 0.5).backward();
    let trained = named_params(model)
        .into_iter()
        .filter(|(_, param)| param.is_trainable());
    (
        loss.double_value(&[]),
        trained.map(|(_, param)| param.value().grad()).collect(),
    )
}

#[test]
fn every_kind_of_head_gives_the_loss_of_the_whole_logits() {
    type Make = fn() -> Decoder;
    // More targets than one chunk holds.
    let row = row(700);
    assert!((SupervisedLoss.weight(&row) - 466.0).abs() < 1e-12);
    let cases: [(&str, Make); 3] = [
        ("a frozen head", || {
            load("llama-untied")
                .train_where(|at, _| at.layer_idx() == Some(1))
                .expect("a layer")
        }),
        ("a tied head that trains", || {
            load("llama-tied").train_where(|_, _| true).expect("all")
        }),
        ("a head with an update", || with_wrapped_head(load("llama-tied"))),
    ];
    for (name, make) in cases {
        let (ours, our_gradients) = through_policy(&make(), &row);
        let (theirs, their_gradients) = written_out(&make(), &row);
        assert!((ours - theirs).abs() < 1e-5 * theirs, "{name}: {ours} {theirs}");
        assert!(!our_gradients.is_empty());
        for (ours, theirs) in our_gradients.iter().zip(&their_gradients) {
            let largest = theirs.abs().max().double_value(&[]);
            assert!(largest > 0.0, "{name}");
            golden::assert_close(name, ours, theirs, 1e-4, 2e-5 * largest.max(1.0));
        }
    }
}

#[test]
fn log_probs_add_up_to_the_loss_and_have_its_gradient() {
    let row = row(300);
    for model in [load("llama-untied"), with_wrapped_head(load("llama-untied"))] {
        let pass = Pass::evaluate(&row.documents);
        let hidden = || model.hidden(&row.tokens, &pass).set_requires_grad(true);
        let (a, b) = (hidden(), hidden());
        let each = loss::token_log_probs(&a, model.head(), &row.targets, &pass);
        let sum = loss::cross_entropy(&b, model.head(), &row.targets, &pass);
        assert_eq!(each.size(), [300]);
        assert_eq!(each.get(0), Tensor::from(0.0f32));
        golden::assert_close("sum", &-each.sum(Kind::Float), &sum, 1e-5, 0.0);
        (-each.sum(Kind::Float)).backward();
        sum.backward();
        golden::assert_close("gradient", &a.grad(), &b.grad(), 1e-4, 1e-5);
    }
}

#[test]
fn scores_do_not_depend_on_what_is_packed_beside() {
    let model = load("gemma3");
    let (a, b): (Vec<u32>, Vec<u32>) = ((3..20).collect(), vec![90, 4, 33]);
    let alone = |ids: &[u32]| {
        model
            .token_log_probs(ids, &Documents::new(&[ids.len()]))
            .expect("scored")
    };
    let both: Vec<u32> = a.iter().chain(&b).copied().collect();
    let packed = model
        .token_log_probs(&both, &Documents::new(&[a.len(), b.len()]))
        .expect("scored");
    let wanted: Vec<f32> = alone(&a).into_iter().chain(alone(&b)).collect();
    for (ours, theirs) in packed.iter().zip(&wanted) {
        assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let model = load("llama-tied");
    let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, model.num_blocks());
    let policy = ModelPass::evaluate(&model, &plan);
    let short = TokenRow {
        targets: Tensor::from_slice(&[1i64, 2]),
        ..row(9)
    };
    let error = SupervisedLoss.loss(&policy, &short).unwrap_err().to_string();
    assert_eq!(error, "`targets`: wanted shape [9], found [2]");

    let model = model.replace_head(HeadKind::Scalar, 0).expect("replaced");
    let policy = ModelPass::evaluate(&model, &plan);
    let TokenRow { tokens, documents, .. } = row(9);
    let labels = Tensor::from_slice(&[0i64]);
    let error = loss::ClassificationLoss
        .loss(
            &policy,
            &LabelledRow {
                tokens,
                labels,
                documents,
            },
        )
        .unwrap_err();
    assert_eq!(error.to_string(), "`labels`: wanted shape [2], found [1]");
}

/// The loss, the divergence and the gradients of a distillation, through the whole policy.
fn distilled(student: &Decoder, objective: &Distillation, row: &TokenRow) -> (f64, f64, Vec<Tensor>) {
    let plan = CheckpointingPolicy::uniform(Checkpointing::Recompute, student.num_blocks());
    let policy = ModelPass::train(student, &plan, DropoutKey(0));
    let loss = objective.loss(&policy, row).expect("shapes fit");
    let sum = loss.sum.double_value(&[]);
    let kl = loss.metrics[0].1;
    policy.backward(&loss, 0.5, 1.0).expect("a backward pass");
    let trained = named_params(student)
        .into_iter()
        .filter(|(_, param)| param.is_trainable());
    (sum, kl, trained.map(|(_, param)| param.value().grad()).collect())
}

#[test]
fn a_distillation_is_that_of_the_whole_logits() {
    // More targets than one chunk holds.
    let row = row(400);
    let teacher = load("llama-biases");
    for (temperature, alpha) in [(1.0, 0.0), (2.5, 0.3)] {
        let make = || {
            let model = with_wrapped_head(load("llama-untied"));
            model.train_where(|at, _| at.layer_idx() == Some(1)).expect("a layer")
        };
        let student = make();
        let (sum, kl, gradients) = distilled(&student, &Distillation::new(&teacher, temperature, alpha), &row);
        let whole = make();
        let pass = Pass::train(&row.documents, DropoutKey(0));
        let mut stream = whole.embed(&row.tokens, &pass);
        for idx in 0..whole.num_blocks() {
            stream = whole.block(idx, &stream, &pass);
        }
        let ours = whole.head().forward(&whole.norm(&stream, &pass), &pass);
        let theirs = teacher.logits(&row.tokens, &row.documents);
        let [p, q] = [&theirs, &ours].map(|logits| (logits / temperature).log_softmax(-1, Kind::Float));
        let counts = row.targets.ge(0).to_kind(Kind::Float).unsqueeze(1);
        let divergence = (p.exp() * (&p - &q) * counts).sum(Kind::Float);
        let right = ours.cross_entropy_loss::<Tensor>(&row.targets, None, tch::Reduction::Sum, IGNORED, 0.0);
        let loss = &divergence * ((1.0 - alpha) * temperature * temperature) + right * alpha;
        (&loss * 0.5).backward();
        assert!((sum / loss.double_value(&[]) - 1.0).abs() < 1e-5, "{sum}");
        assert!(
            (kl / divergence.double_value(&[]) - 1.0).abs() < 1e-5 && kl > 1.0,
            "{kl}"
        );
        let wanted = named_params(&whole)
            .into_iter()
            .filter(|(_, param)| param.is_trainable());
        for ((path, param), found) in wanted.zip(gradients) {
            golden::assert_close(path.as_str(), &found, &param.value().grad(), 1e-3, 1e-3);
        }
    }
}

#[test]
fn a_student_that_is_its_teacher_learns_nothing() {
    let row = row(60);
    let teacher = load("llama-tied");
    let student = load("llama-tied").train_where(|_, _| true).expect("all");
    let (sum, kl, gradients) = distilled(&student, &Distillation::new(&teacher, 2.0, 0.0), &row);
    // The trained copies of the weights are multiplied by other kernels than the packed ones.
    assert!(sum.abs() < 1e-5 && kl.abs() < 1e-5, "{sum} {kl}");
    let largest = |gradient: &Tensor| gradient.abs().max().double_value(&[]);
    assert!(gradients.iter().all(|gradient| largest(gradient) < 1e-3));
}

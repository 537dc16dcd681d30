"""Preference losses of TRL's own trainers on random log-probabilities, with their gradients.

preference/golden.safetensors, N pairs and M unpaired documents, f64 but where TRL itself computes in f32 (`orpo`):
  `chosen`, `rejected`, `ref_chosen`, `ref_rejected` [N]: log-probabilities summed over the responses, in nats
  `chosen_tokens`, `rejected_tokens` [N] i64: tokens of the responses
  `loss.NAME` [N], `grad.NAME.chosen`, `grad.NAME.rejected` [N]: each pair's loss, and its derivative for the summed
      log-probabilities; NAME is TRL's `loss_type`, `robust` with label smoothing 0.15, `simpo` with beta 2 and gamma 0.7,
      `orpo` with beta 0.25
  `reward.NAME` [N]: `loss` with margins and centring, `loss.plain` without; of scores `score.chosen`, `score.rejected`
  `kto.log_prob`, `kto.reference` [M], `kto.desirable` [M] i64, `kto.mismatched`, `kto.mismatched_reference` [M]
  `kto.loss`, `kto.grad`: TRL's mean over the documents and its derivative, `kto.baseline`: its KL; and
      `kto_unpaired.*`: loss type `apo_zero_unpaired`
  metrics.json: TRL's metrics of the whole batch by its names (`sigmoid`, `kto`)

`_compute_loss` of the trainers is run on a stand-in whose `model` hands out the log-probabilities.

Made with: torch 2.11.0, trl 1.16.0.
"""

import sys
from collections import defaultdict
from types import SimpleNamespace

import torch

# pandas asks for a package called `bottleneck`, and would find the generator of that name.
here = sys.path.pop(0)
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

sys.path.insert(0, here)
from tiny import fresh, output_folder, write_json, write_tensors

PAIRS, DOCUMENTS, BETA, SMOOTHING = 7, 6, 0.3, 0.15
OF_PAIRS = ["sigmoid", "hinge", "ipo", "robust", "sppo_hard", "apo_zero", "apo_down", "sft", "sigmoid_norm"]


def stand_in(**more):
    """What the trainers ask of themselves."""
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        beta=BETA,
        label_smoothing=SMOOTHING,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **more,
    )


def spread(sums, tokens, width):
    """`[n, width]`: each sum shared out over its response's tokens behind one token of prompt, and the mask."""
    rows, masks = [], []
    for total, count in zip(sums, tokens.tolist(), strict=True):
        each = torch.cat([total.expand(count) / count, torch.zeros(width - count, dtype=sums.dtype)])
        rows.append(each)
        masks.append(torch.tensor([0] + [1] * count + [0] * (width - count)))
    return torch.stack(rows), torch.stack(masks)


def outputs(log_probs):
    nothing = torch.zeros_like(log_probs)
    return SimpleNamespace(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def of_pairs(name, chosen, rejected, case, which):
    """TRL's loss of the pairs `which`, and its metrics."""
    trainer = stand_in(
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[name],
        loss_weights=[1.0],
        use_weighting=False,
    )
    tokens = torch.cat([case["chosen_tokens"][which], case["rejected_tokens"][which]])
    log_probs, mask = spread(torch.cat([chosen[which], rejected[which]]), tokens, int(tokens.max()))
    inputs = dict(
        input_ids=mask,
        attention_mask=mask,
        completion_mask=mask,
        ref_chosen_logps=case["ref_chosen"][which],
        ref_rejected_logps=case["ref_rejected"][which],
    )
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs(log_probs), inputs, False)
    return loss, {key: value[0] for key, value in trainer._metrics["train"].items()}


def one_by_one(loss_of, *leaves):
    """`[n]` losses of one pair each, with the derivatives for the leaves."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    each = torch.stack([loss_of(*leaves, slice(pair, pair + 1)) for pair in range(len(leaves[0]))])
    return [each.detach(), *torch.autograd.grad(each.sum(), leaves)]


def simpo(chosen, rejected, case, which):
    trainer = stand_in(alpha=0.0, loss_type="simpo", simpo_gamma=0.7)
    trainer.beta, trainer.label_smoothing = 2.0, 0.0
    mean = lambda sums, tokens: sums[which] / tokens[which]
    means = mean(chosen, case["chosen_tokens"]), mean(rejected, case["rejected_tokens"])
    return CPOTrainer.cpo_loss(trainer, *means)[0].squeeze()


def orpo(chosen, rejected, case, which):
    trainer = stand_in()
    trainer.beta = 0.25
    mean = lambda sums, tokens: sums[which] / tokens[which]
    chosen = mean(chosen, case["chosen_tokens"])
    losses = ORPOTrainer.odds_ratio_loss(trainer, chosen, mean(rejected, case["rejected_tokens"]))[0]
    # The trainer takes the negative log-likelihood of the whole chosen document; here, of the response.
    return (-chosen - losses).squeeze()


def rewards(scores, margin, centring, which):
    trainer = stand_in(args=SimpleNamespace(center_rewards_coefficient=centring))
    inputs = dict(attention_mask=torch.ones(1))
    if margin is not None:
        inputs["margin"] = margin[which]
    logits = torch.cat([scores[0][which], scores[1][which]])[:, None]
    model = lambda **_: SimpleNamespace(logits=logits)
    return RewardTrainer.compute_loss(trainer, model, inputs)


def kto(name, log_prob, case):
    trainer = stand_in(
        loss_type=name,
        calculate_KL=name == "kto",
        desirable_weight=1.2,
        undesirable_weight=0.9,
        _compute_kl_logps=lambda *_: case["mismatched"],
    )
    tokens = torch.full((DOCUMENTS,), 3)
    log_probs, mask = spread(log_prob, tokens, 3)
    inputs = dict(
        label=case["desirable"],
        input_ids=mask,
        attention_mask=mask,
        completion_mask=mask,
        ref_logps=case["reference"],
        ref_KL_logps=case["mismatched_reference"],
    )
    loss = KTOTrainer._compute_loss(trainer, lambda **_: outputs(log_probs), inputs, False)
    return loss, {key: value[0] for key, value in trainer._metrics["train"].items()}


def main():
    out = fresh(output_folder() / "preference")
    generator = torch.Generator().manual_seed(41)
    draw = lambda count, scale: torch.randn(count, generator=generator, dtype=torch.float64) * scale
    tokens = lambda: torch.randint(3, 15, (PAIRS,), generator=generator)
    case = dict(chosen_tokens=tokens(), rejected_tokens=tokens())
    case["ref_chosen"] = -1.3 * case["chosen_tokens"] + draw(PAIRS, 1.0)
    case["ref_rejected"] = -1.5 * case["rejected_tokens"] + draw(PAIRS, 1.0)
    chosen, rejected = case["ref_chosen"] + draw(PAIRS, 2.0), case["ref_rejected"] + draw(PAIRS, 2.0)
    # A pair at the reference, whose rewards tie; and a response that is all but certain.
    chosen[0], rejected[0] = case["ref_chosen"][0], case["ref_rejected"][0]
    chosen[1] = -1e-3
    tensors = dict(case, chosen=chosen, rejected=rejected)
    every = slice(0, PAIRS)
    metrics = dict(sigmoid=of_pairs("sigmoid", chosen, rejected, case, every)[1])
    losses = {name: lambda c, r, which, name=name: of_pairs(name, c, r, case, which)[0] for name in OF_PAIRS}
    losses["simpo"] = lambda c, r, which: simpo(c, r, case, which)
    losses["orpo"] = lambda c, r, which: orpo(c, r, case, which)
    for name, loss in losses.items():
        each, of_chosen, of_rejected = one_by_one(loss, chosen, rejected)
        tensors |= {f"loss.{name}": each, f"grad.{name}.chosen": of_chosen, f"grad.{name}.rejected": of_rejected}
    both = draw(PAIRS, 1.5), draw(PAIRS, 1.5)
    tensors |= {"score.chosen": both[0], "score.rejected": both[1], "score.margin": draw(PAIRS, 1.0).abs()}
    for name, margin, centring in [("plain", None, None), ("loss", tensors["score.margin"], 0.02)]:
        each = one_by_one(lambda c, r, which: rewards((c, r), margin, centring, which), *both)
        tensors |= dict(zip([f"reward.{name}", f"reward.{name}.chosen", f"reward.{name}.rejected"], each, strict=True))
    unpaired = dict(
        reference=draw(DOCUMENTS, 4.0) - 12,
        desirable=torch.tensor([1, 0, 0, 1, 1, 0]),
        mismatched_reference=draw(DOCUMENTS, 4.0) - 14,
    )
    unpaired["mismatched"] = unpaired["mismatched_reference"] + draw(DOCUMENTS, 1.0).abs()
    log_prob = (unpaired["reference"] + draw(DOCUMENTS, 2.0)).requires_grad_()
    for name, file in [("kto", "kto"), ("apo_zero_unpaired", "kto_unpaired")]:
        loss, metrics[name] = kto(name, log_prob, unpaired)
        (gradient,) = torch.autograd.grad(loss, log_prob)
        tensors |= {f"{file}.loss": loss, f"{file}.grad": gradient}
    tensors |= {f"kto.{key}": value for key, value in unpaired.items()} | {"kto.log_prob": log_prob}
    tensors["kto.baseline"] = torch.tensor(metrics["kto"]["kl"], dtype=torch.float64)
    write_tensors(out / "golden.safetensors", tensors)
    kept = ("rewards/", "logps/", "kl")
    write_json(
        out / "metrics.json",
        {name: {key: value for key, value in of.items() if key.startswith(kept)} for name, of in metrics.items()},
    )
    print({name: tensors[f"loss.{name}"].tolist() for name in losses})
    print(metrics)


if __name__ == "__main__":
    main()

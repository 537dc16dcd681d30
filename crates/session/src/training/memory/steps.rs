//! The facts of a run as its data, its objective, and its rows: the ledger says which come next, and which still train.
//!
//! Shapes: t tokens of a row, n facts in it.

use std::cell::RefCell;
use std::path::Path;

use anyhow::Context as _;
use checkpoint::write_file;
use data::best_fit;
use decoder::loss::{TokenRow, token_log_probs};
use memory_tuning::{Ledger, MemoryBank, RowUpdate};
use methods::facts::Fact;
use methods::memories::{read_tensors, write_tensors};
use methods::recipe::MemoryObjective;
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, Error as CoreError, Loss, ModelPass, Objective};
use train::{Batches, BoxError, Row, Sparse, Update};

const LEDGER: &str = "ledger.json";
const STATES: &str = "memory_optimizer.safetensors";

/// Facts that go through the model together.
#[derive(Debug)]
pub(super) struct FactRow {
    row: TokenRow,
    facts: Vec<usize>,
}

/// The facts of a run, with the experts that each trains.
pub(super) struct Steps<'a> {
    pub(super) bank: &'a MemoryBank,
    pub(super) facts: &'a [Fact],
    /// By fact, then by projection.
    pub(super) experts: &'a [Vec<Vec<u32>>],
    pub(super) options: &'a MemoryObjective,
    pub(super) max_tokens: usize,
    pub(super) weight_decay: f64,
    pub(super) device: Device,
    pub(super) ledger: RefCell<Ledger>,
    /// Facts that the step under way trains.
    pub(super) trained: RefCell<Vec<usize>>,
}

impl Steps<'_> {
    /// From now on the experts of these facts move, and no others.
    fn let_move(&self, facts: &[usize]) -> memory_tuning::Result<()> {
        let moved = self.bank.each(|site, _, experts| {
            experts.let_move(facts.iter().flat_map(|&fact| self.experts[fact][site].iter().copied()))
        });
        moved.into_iter().collect()
    }

    fn row(&self, facts: Vec<usize>) -> Row<FactRow> {
        let each = || facts.iter().map(|&fact| &self.facts[fact]);
        let tokens: Vec<i64> = each().flat_map(|fact| &fact.tokens).map(|&id| i64::from(id)).collect();
        let targets: Vec<i64> = each().flat_map(Fact::targets).collect();
        let lengths: Vec<usize> = each().map(|fact| fact.tokens.len()).collect();
        let num_tokens = tokens.len();
        let row = TokenRow {
            tokens: Tensor::from_slice(&tokens).to_device(self.device),
            targets: Tensor::from_slice(&targets).to_device(self.device),
            documents: Documents::new(&lengths),
        };
        Row {
            batch: FactRow { row, facts },
            num_tokens,
        }
    }
}

impl Batches<FactRow> for Steps<'_> {
    fn num_steps_per_epoch(&self) -> usize {
        self.ledger.borrow().steps_per_pass()
    }

    /// Those that the ledger has next, whatever the number of the step.
    fn rows(&self, _step: usize) -> Result<Vec<Row<FactRow>>, BoxError> {
        let facts = self.ledger.borrow().batch();
        let lengths: Vec<usize> = facts.iter().map(|&fact| self.facts[fact].tokens.len()).collect();
        let rows = best_fit(&lengths, self.max_tokens).into_iter();
        Ok(rows
            .map(|row| self.row(row.into_iter().map(|place| facts[place]).collect()))
            .collect())
    }

    fn longest_row(&self) -> usize {
        let longest = self.facts.iter().map(|fact| fact.tokens.len()).max().unwrap_or(0);
        longest.max(self.max_tokens)
    }

    fn input<'b>(&self, batch: &'b FactRow) -> Option<(&'b Tensor, &'b Documents)> {
        Some((&batch.row.tokens, &batch.row.documents))
    }
}

/// The summed cross-entropy of the answers; those of known facts count, but send no gradient.
impl Objective for Steps<'_> {
    type Batch = FactRow;

    fn weight(&self, batch: &FactRow) -> f64 {
        batch
            .facts
            .iter()
            .map(|&fact| self.facts[fact].positions.len() as f64)
            .sum()
    }

    fn loss(&self, policy: &ModelPass, batch: &FactRow) -> tensor_core::Result<Loss> {
        let TokenRow {
            tokens,
            targets,
            documents,
        } = &batch.row;
        let failed = |source: memory_tuning::Error| CoreError::Surgery {
            at: "memory".into(),
            source: Box::new(source),
        };
        // Rows must be there before the pass that shall reach them.
        self.let_move(&batch.facts).map_err(failed)?;
        let hidden = policy.hidden(tokens, documents);
        let log_probs = token_log_probs(&hidden, policy.head(), targets, &policy.pass(documents));
        let each = -documents.sum(&log_probs);
        let losses = Vec::<f32>::try_from(each.detach().to_device(Device::Cpu))
            .map_err(|error| CoreError::Torch(error.to_string()))?;
        let mut ledger = self.ledger.borrow_mut();
        let (mut trained, mut known) = (Vec::new(), 0.0);
        for (&fact, loss) in batch.facts.iter().zip(losses) {
            let length = self.facts[fact].positions.len() as f64;
            if ledger.visit(fact, f64::from(loss) / length) {
                trained.push(fact);
            } else {
                known += length;
            }
        }
        let share: Vec<f32> = batch
            .facts
            .iter()
            .map(|fact| f32::from(trained.contains(fact)))
            .collect();
        let share = Tensor::from_slice(&share).to_device(each.device());
        let left: Tensor = 1.0 - &share;
        let sum = (&each * &share + each.detach() * left).sum(Kind::Float);
        // Known facts keep their rows, also from those that share them.
        self.let_move(&trained).map_err(failed)?;
        self.trained.borrow_mut().extend(trained);
        Ok(Loss {
            sum,
            metrics: vec![("known", known)],
            ratios: Vec::new(),
        })
    }
}

impl Sparse for Steps<'_> {
    fn gradient_norm(&self) -> f64 {
        self.bank.gradient_norm()
    }

    fn update(&self, update: &Update) -> Result<(), BoxError> {
        self.bank.update(&RowUpdate {
            learning_rate: update.learning_rate,
            beta1: update.beta1,
            beta2: update.beta2,
            epsilon: update.epsilon,
            weight_decay: self.weight_decay,
            gradient_scale: update.gradient_scale,
        })?;
        let trained = std::mem::take(&mut *self.trained.borrow_mut());
        self.ledger.borrow_mut().end_step(&trained);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.ledger.borrow().is_done()
    }

    fn save(&self, folder: &Path) -> Result<(), BoxError> {
        self.bank.save_states(folder)?;
        write_tensors(&folder.join(STATES), &self.bank.state_tensors())?;
        let ledger = serde_json::to_vec(&*self.ledger.borrow())?;
        Ok(write_file(&folder.join(LEDGER), &ledger)?)
    }

    fn load(&self, folder: &Path) -> Result<(), BoxError> {
        self.bank
            .load(folder, &read_tensors(&folder.join("memory.safetensors"))?)?;
        let states = read_tensors(&folder.join(STATES))?;
        self.bank.load_states(self.options.optimizer, folder, &states)?;
        let path = folder.join(LEDGER);
        let text = std::fs::read(&path).with_context(|| format!("`{}`", path.display()))?;
        let ledger: Ledger = serde_json::from_slice(&text).with_context(|| format!("`{}`", path.display()))?;
        if ledger.facts().len() != self.facts.len() {
            return Err(format!(
                "`{}`: wanted {} facts, as these data make, found {}",
                path.display(),
                self.facts.len(),
                ledger.facts().len()
            )
            .into());
        }
        *self.ledger.borrow_mut() = ledger;
        Ok(())
    }
}

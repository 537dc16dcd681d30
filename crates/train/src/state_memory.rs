//! Where optimiser states lie: in memory, or in a file's.

use std::path::PathBuf;

use tch::{Device, Kind, Tensor};
use tensor_core::Paged;

use crate::{Result, TrainConfig};

/// Where states are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StateMemory {
    /// On their parameter's device.
    #[default]
    Resident,
    /// In files of a folder, on the CPU.
    Paged(PathBuf),
}

/// One state tensor.
#[derive(Debug)]
pub enum StateTensor {
    /// In memory.
    Resident(Tensor),
    /// In a file's.
    Paged(Paged),
}

impl StateMemory {
    /// Where a run's `optim` wants its states: paged ones in its `output_dir`.
    pub fn of(config: &TrainConfig) -> Result<Self> {
        if !config.optim.is_paged() {
            return Ok(Self::Resident);
        }
        let folder = config.output_dir.clone();
        std::fs::create_dir_all(&folder).map_err(|source| tensor_core::Error::Paging {
            folder: folder.clone(),
            source,
        })?;
        Ok(Self::Paged(folder))
    }

    /// Zeros of `shape` in dtype `kind`, for a parameter on `device`.
    pub fn zeros(&self, shape: &[i64], kind: Kind, device: Device) -> Result<StateTensor> {
        Ok(match self {
            Self::Resident => StateTensor::Resident(Tensor::zeros(shape, (kind, device))),
            Self::Paged(folder) => StateTensor::Paged(Paged::zeros(folder, shape, kind)?),
        })
    }

    /// Whether states are moved parameter by parameter, so that others' pages are not in memory meanwhile.
    pub fn is_paged(&self) -> bool {
        matches!(self, Self::Paged(_))
    }
}

impl StateTensor {
    /// A handle on the numbers where they lie.
    pub fn tensor(&self) -> &Tensor {
        match self {
            Self::Resident(tensor) => tensor,
            Self::Paged(paged) => paged.tensor(),
        }
    }

    /// A tensor on `device` with the numbers: the state itself where it lies there.
    pub fn on(&self, device: Device) -> Tensor {
        self.tensor().to_device(device)
    }

    /// Takes back what [`Self::on`] gave, and lets pages go.
    pub fn put(&self, changed: &Tensor) {
        if changed.data_ptr() != self.tensor().data_ptr() {
            self.tensor().shallow_clone().copy_(changed);
        }
        if let Self::Paged(paged) = self {
            paged.release();
        }
    }
}

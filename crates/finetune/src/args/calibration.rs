//! Which text pruning looks at: `--calibration`, `--nsamples`, `--max-length`, `--seed`.

use std::path::PathBuf;

use methods::pruning::CalibrationConfig;

use crate::ranges;

/// Which text is looked at.
#[derive(clap::Args, Clone, Debug)]
pub struct CalibrationArgs {
    /// Text to look at: rows with a `text`, or of any other shape that has one whole text
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// How many samples of it are taken
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = ranges::count(1))]
    pub nsamples: usize,
    /// The most tokens of a sample
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = ranges::count(2))]
    pub max_length: usize,
    /// Which samples are taken
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl CalibrationArgs {
    /// As pruning takes it.
    pub fn config(&self) -> CalibrationConfig {
        let Self {
            calibration,
            nsamples,
            max_length,
            seed,
        } = self.clone();
        CalibrationConfig {
            calibration,
            nsamples,
            max_length,
            seed,
        }
    }
}

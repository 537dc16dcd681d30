//! Cosines and sines by position, made once and lengthened when a longer document comes.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tch::{Device, Tensor};
use tensor_core::Documents;

use super::Frequencies;

/// The cosines and sines of one model, for as many positions as were needed so far.
#[derive(Debug)]
pub struct RopeTable {
    frequencies: Frequencies,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waves: Arc<Waves>,
    last: Option<(Documents, Rotation)>,
}

/// `[positions, r/2]` f32 each.
#[derive(Debug)]
struct Waves {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// How each token of one row turns; cheap to clone, and shared by all layers that ask one table for one row.
#[derive(Clone, Debug)]
pub struct Rotation(Arc<Turns>);

#[derive(Debug)]
struct Turns {
    waves: Arc<Waves>,
    positions: Vec<i32>,
    on_device: OnceLock<(Device, Tensor, Tensor)>,
}

// SAFETY: the tensors are written once, before they are shared, and only read afterwards.
#[allow(unsafe_code)]
unsafe impl Sync for Turns {}

impl RopeTable {
    /// A table that holds no position yet.
    pub fn new(frequencies: Frequencies) -> Self {
        let half = frequencies.inverse.len();
        let waves = Arc::new(Waves {
            half,
            cos: Vec::new(),
            sin: Vec::new(),
        });
        Self {
            frequencies,
            state: Mutex::new(State { waves, last: None }),
        }
    }

    /// r, how many numbers of each head are turned.
    pub fn width(&self) -> usize {
        2 * self.frequencies.inverse.len()
    }

    /// How the tokens of these documents turn.
    pub fn rotation(&self, documents: &Documents) -> Rotation {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, rotation)) = &state.last
            && of == documents
        {
            return rotation.clone();
        }
        let positions = documents.positions();
        let wanted = positions.iter().max().map_or(0, |&last| last as usize + 1);
        if wanted * state.waves.half > state.waves.cos.len() {
            state.waves = Arc::new(self.frequencies.waves(wanted.next_power_of_two()));
        }
        let waves = Arc::clone(&state.waves);
        let rotation = Rotation(Arc::new(Turns {
            waves,
            positions,
            on_device: OnceLock::new(),
        }));
        state.last = Some((documents.clone(), rotation.clone()));
        rotation
    }
}

impl Frequencies {
    fn waves(&self, positions: usize) -> Waves {
        let half = self.inverse.len();
        let (mut cos, mut sin) = (
            Vec::with_capacity(positions * half),
            Vec::with_capacity(positions * half),
        );
        for position in 0..positions {
            for &inverse in &self.inverse {
                // The angle is rounded to f32, as in Transformers; models were trained with it.
                let angle = f64::from(position as f32 * inverse);
                cos.push((angle.cos() * self.attention_factor) as f32);
                sin.push((angle.sin() * self.attention_factor) as f32);
            }
        }
        Waves { half, cos, sin }
    }
}

impl Rotation {
    /// How many tokens it is for.
    pub fn num_tokens(&self) -> usize {
        self.0.positions.len()
    }

    /// r, how many numbers of each head are turned.
    pub fn width(&self) -> usize {
        2 * self.0.waves.half
    }

    /// Cosines and sines (`[t, r/2]` f32) on `device`; kept for the first device that asks.
    pub fn cos_sin(&self, device: Device) -> (Tensor, Tensor) {
        let (of, cos, sin) = self.0.on_device.get_or_init(|| {
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            for t in 0..self.num_tokens() {
                let (c, s) = self.of_token(t);
                cos.extend_from_slice(c);
                sin.extend_from_slice(s);
            }
            let size = [self.num_tokens() as i64, self.0.waves.half as i64];
            let place = |values: &[f32]| Tensor::from_slice(values).view(size).to_device(device);
            (device, place(&cos), place(&sin))
        });
        if *of == device {
            (cos.shallow_clone(), sin.shallow_clone())
        } else {
            (cos.to_device(device), sin.to_device(device))
        }
    }

    #[inline(always)]
    pub(super) fn of_token(&self, t: usize) -> (&[f32], &[f32]) {
        let Waves { half, cos, sin } = &*self.0.waves;
        let begin = self.0.positions[t] as usize * half;
        (&cos[begin..begin + half], &sin[begin..begin + half])
    }

    pub(super) fn check(&self, tokens: i64, width: i64) {
        assert_eq!(
            self.num_tokens() as i64,
            tokens,
            "a rotation for as many tokens as there are"
        );
        let turned = self.width();
        assert!(
            turned as i64 <= width,
            "a rotation of {turned} numbers for heads of {width}"
        );
    }
}

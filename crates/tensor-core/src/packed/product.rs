//! The product's operands: checked once, and their low-rank factors packed.

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::matrix::{PackedMatrix, SendPtr};
use crate::tile::BLOCK;
use crate::{Unit, blob};

/// The low-rank part of a term: `s (x Pᵀ) Qᵀ`, P `[r, k]` and Q `[n, r]` in bf16.
#[derive(Clone, Copy, Debug)]
pub struct LowRankTerm<'a> {
    /// P.
    pub inner: &'a Tensor,
    /// Q.
    pub outer: &'a Tensor,
    /// s.
    pub scale: f64,
    /// P and Q packed, if they are already.
    pub packed: Option<&'a [PackedMatrix; 2]>,
}

/// One term of the sum: `x Wᵀ`, with its low-rank part.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// `[m, k]` bf16 on the CPU; rows may lie in a wider buffer.
    pub x: &'a Tensor,
    /// W `[n, k]`.
    pub matrix: &'a PackedMatrix,
    /// What is added.
    pub low_rank: Option<LowRankTerm<'a>>,
}

/// `Σ x Wᵀ + s (x Pᵀ) Qᵀ + onto`: `[m, n]` bf16, and each term's `s x Pᵀ` `[m, r]`.
///
/// # Panics
/// If shapes or dtypes do not fit.
pub fn product(terms: &[Term], onto: Option<&Tensor>) -> (Tensor, Vec<Option<Tensor>>) {
    let first = terms.first().expect("a product has a term");
    let (m, _) = first.x.size2().expect("rows are a matrix");
    let (m, n) = (m as usize, first.matrix.n());
    let mut y = Tensor::empty([m as i64, n as i64], (Kind::BFloat16, Device::Cpu));
    let size = [m as i64, n as i64];
    let onto = onto.map(Tensor::contiguous);
    let parts: Vec<Part> = terms.iter().map(|term| Part::new(term, m, n)).collect();
    let sides = Sides {
        parts: &parts,
        m,
        n,
        y: SendPtr(blob::slice_mut::<bf16>(&mut y).as_mut_ptr()),
        onto: onto.as_ref().map(|onto| {
            assert_eq!(onto.size(), size, "what is added to has the product's shape");
            // SAFETY: it is borrowed, and nothing writes to it before this function returns.
            #[allow(unsafe_code)]
            unsafe {
                blob::slice::<bf16>(onto)
            }
        }),
    };
    match Unit::best() {
        #[cfg(target_arch = "x86_64")]
        Unit::Amx => super::amx::product(&sides),
        _ => super::lanes::product(&sides),
    }
    (
        y,
        parts
            .into_iter()
            .map(|part| part.low_rank.map(|low_rank| low_rank.result))
            .collect(),
    )
}

/// A term made ready: raw rows, and its low-rank factors packed.
pub(super) struct Part<'a> {
    pub(super) x: SendPtr<bf16>,
    pub(super) stride: usize,
    pub(super) matrix: &'a PackedMatrix,
    pub(super) low_rank: Option<PackedLowRank>,
    _x: Tensor,
}

/// The factors of a term's low-rank part, and where `s x Pᵀ` goes.
pub(super) struct PackedLowRank {
    pub(super) rank: usize,
    pub(super) inner: PackedMatrix,
    pub(super) outer: PackedMatrix,
    pub(super) scale: f32,
    pub(super) target: SendPtr<bf16>,
    result: Tensor,
}

impl<'a> Part<'a> {
    fn new(term: &Term<'a>, m: usize, n: usize) -> Self {
        assert_eq!(term.x.dim(), 2, "rows are a matrix");
        let x = if term.x.stride()[1] == 1 {
            term.x.shallow_clone()
        } else {
            term.x.contiguous()
        };
        assert!(
            x.kind() == Kind::BFloat16 && x.device() == Device::Cpu,
            "packed products read bf16 on the CPU"
        );
        assert_eq!(
            x.size(),
            [m as i64, term.matrix.k() as i64],
            "rows fit the packed weight"
        );
        assert_eq!(
            (term.matrix.n(), n % BLOCK, term.matrix.k() % 32),
            (n, 0, 0),
            "terms have one width"
        );
        let low_rank = term.low_rank.map(|low_rank| {
            let (rank, width) = low_rank.inner.size2().expect("a factor is a matrix");
            let rank = rank as usize;
            assert!(rank > 0, "a low-rank part has a rank");
            assert_eq!(width as usize, term.matrix.k(), "the low-rank factors fit");
            assert_eq!(
                low_rank.outer.size(),
                [n as i64, rank as i64],
                "the low-rank factors fit"
            );
            let mut result = Tensor::empty([m as i64, rank as i64], (Kind::BFloat16, Device::Cpu));
            let [inner, outer] = match low_rank.packed {
                Some(packed) => packed.clone(),
                None => [low_rank.inner, low_rank.outer].map(PackedMatrix::pack),
            };
            assert_eq!(
                [inner.n(), inner.k(), outer.n(), outer.k()],
                [rank, term.matrix.k(), n, rank],
                "the packed factors are those of the term"
            );
            PackedLowRank {
                rank,
                inner,
                outer,
                scale: low_rank.scale as f32,
                target: SendPtr(blob::slice_mut::<bf16>(&mut result).as_mut_ptr()),
                result,
            }
        });
        Self {
            x: SendPtr(x.data_ptr().cast()),
            stride: x.stride()[0] as usize,
            matrix: term.matrix,
            low_rank,
            _x: x,
        }
    }
}

/// All of a product's operands.
pub(super) struct Sides<'a> {
    pub(super) parts: &'a [Part<'a>],
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) y: SendPtr<bf16>,
    pub(super) onto: Option<&'a [bf16]>,
}

// SAFETY: `y` is written in disjoint blocks; the rest is read, but for `target`, written by row.
#[allow(unsafe_code)]
unsafe impl Sync for Sides<'_> {}

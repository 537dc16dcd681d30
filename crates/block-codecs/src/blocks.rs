//! An array and its codes as one value.

use ndarray::{Array, ArrayView, Dimension};

use crate::{BlockSize, DoubleQuant, Number, Result, Scales, Scheme, dequantise_range, quantise};

/// An array in codes and scales.
///
/// Blocks run over the elements in row-major order, whatever order the array has in memory.
///
/// ```
/// use block_codecs::ndarray::array;
/// use block_codecs::{BlockSize, Blocks, Scheme};
///
/// let weight = array![[1.0f32, 0.5], [0.0, -1.0]];
/// let blocks = Blocks::of(weight.view(), Scheme::Nf4, BlockSize::default())?;
/// assert_eq!(blocks.num_bytes(), 2 + 4);
/// assert_eq!(blocks.to_array::<f32>(), array![[1.0, 0.440_709_83], [0.0, -1.0]]);
/// # Ok::<(), block_codecs::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Blocks<D> {
    scheme: Scheme,
    block: BlockSize,
    shape: D,
    codes: Vec<u8>,
    scales: ScalesHeld,
}

#[derive(Clone, Debug)]
enum ScalesHeld {
    Plain(Vec<f32>),
    Nested(DoubleQuant),
}

impl<D: Dimension> Blocks<D> {
    /// Quantises `array`, with its scales in f32, on all of rayon's threads.
    ///
    /// Errors: [`crate::Error::NotFinite`] where the array holds NaN or infinity.
    #[expect(clippy::needless_pass_by_value, reason = "a view is a reference already")]
    pub fn of<T: Number>(array: ArrayView<'_, T, D>, scheme: Scheme, block: BlockSize) -> Result<Self> {
        let shape = array.raw_dim();
        let in_rows = array.as_standard_layout();
        let values = in_rows.as_slice().expect("rows after each other");
        let mut codes = vec![0; scheme.num_bytes(values.len())];
        let mut absmax = vec![0.0; block.num_blocks(values.len())];
        quantise(scheme, block, values, &mut codes, &mut absmax)?;
        Ok(Self {
            scheme,
            block,
            shape,
            codes,
            scales: ScalesHeld::Plain(absmax),
        })
    }

    /// The same codes with the scales in 8 bits, as QLoRA has them: 8.127 bits for a scale instead of 32.
    #[must_use]
    pub fn with_nested_scales(self) -> Self {
        let scales = match self.scales {
            ScalesHeld::Plain(absmax) => ScalesHeld::Nested(DoubleQuant::of(&absmax)),
            nested @ ScalesHeld::Nested(_) => nested,
        };
        Self { scales, ..self }
    }

    /// The array that codes and scales stand for, in row-major order, on the calling thread.
    pub fn to_array<T: Number + Default>(&self) -> Array<T, D> {
        let mut values = vec![T::default(); self.shape.size()];
        let len = values.len();
        dequantise_range(
            self.scheme,
            self.block,
            &self.codes,
            &self.scales(),
            0..len,
            &mut values,
        );
        Array::from_shape_vec(self.shape.clone(), values).expect("as many numbers as the shape has")
    }

    /// Which levels the numbers were rounded to.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The codes, as files hold them.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scales, however they are held.
    pub fn scales(&self) -> Scales<'_> {
        match &self.scales {
            ScalesHeld::Plain(absmax) => Scales::Plain(absmax),
            ScalesHeld::Nested(nested) => nested.scales(),
        }
    }

    /// Bytes of codes and scales.
    pub fn num_bytes(&self) -> usize {
        let scales = match &self.scales {
            ScalesHeld::Plain(absmax) => 4 * absmax.len(),
            ScalesHeld::Nested(nested) => nested.codes.len() + 4 * nested.absmax.len() + 4,
        };
        self.codes.len() + scales
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use ndarray::{Array2, Array3, s};

    use super::*;
    use crate::dequantise;

    #[test]
    fn a_transposed_view_is_coded_in_the_order_of_its_rows() -> Result<()> {
        let array = Array2::from_shape_fn((70, 48), |(i, j)| (i as f32 - 2.0 * j as f32) / 100.0);
        let owned = array.t().as_standard_layout().into_owned();
        for scheme in [Scheme::Nf4, Scheme::Fp4, Scheme::Int4, Scheme::Int8] {
            let turned = Blocks::of(array.t(), scheme, BlockSize::default())?;
            let straight = Blocks::of(owned.view(), scheme, BlockSize::default())?;
            assert_eq!(turned.codes(), straight.codes(), "{scheme}");
            let back = turned.to_array::<f32>();
            assert_eq!(back.dim(), (48, 70));
            let mut plain = vec![0.0; 70 * 48];
            let absmax = turned.scales().to_vec();
            dequantise(scheme, BlockSize::default(), turned.codes(), &absmax, &mut plain);
            assert_eq!(back.as_slice().unwrap(), plain, "{scheme}");
        }
        Ok(())
    }

    #[test]
    fn nested_scales_cost_a_quarter_and_change_little() -> Result<()> {
        let array = Array3::from_shape_fn((4, 64, 256), |(i, j, k)| {
            bf16::from_f32(((i * 31 + j * 17 + k * 7) % 101) as f32 / 50.0 - 1.0)
        });
        let blocks = Blocks::of(array.view(), Scheme::Nf4, BlockSize::default())?;
        let nested = blocks.clone().with_nested_scales();
        assert_eq!(blocks.num_bytes(), array.len() / 2 + array.len() / 64 * 4);
        assert_eq!(
            nested.num_bytes(),
            array.len() / 2 + array.len() / 64 + array.len() / 64 / 256 * 4 + 4
        );
        let (dense, nested) = (blocks.to_array::<f32>(), nested.to_array::<f32>());
        let far = dense
            .iter()
            .zip(&nested)
            .map(|(x, y)| (x - y).abs())
            .fold(0.0, f32::max);
        assert!(far < 0.02, "{far}");
        Ok(())
    }

    #[test]
    fn numbers_that_are_not_finite_and_empty_arrays_are_told_apart() -> Result<()> {
        let mut array = Array2::<f32>::ones((2, 96));
        array[[1, 40]] = f32::NAN;
        let found = Blocks::of(array.view(), Scheme::Int8, BlockSize::default()).unwrap_err();
        assert_eq!(found, crate::Error::NotFinite { begin: 128 });
        let none = Blocks::of(array.slice(s![..0, ..]), Scheme::Nf4, BlockSize::default())?;
        assert_eq!((none.num_bytes(), none.to_array::<f32>().dim()), (0, (0, 96)));
        Ok(())
    }
}

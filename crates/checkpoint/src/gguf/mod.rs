//! GGUF files as models are read from them: mapped, tensors as libtorch's, under the names that Transformers has.
//!
//! The format itself is the crate `gguf`'s.

mod names;

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

pub use ::gguf::{GgufTensor, GgufType, MetadataValue};
use memmap2::MmapMut;
use tch::{Kind, Tensor};
use tensor_core::blob;

use crate::Result;
use crate::map::{Length, Lent, map};
pub(crate) use names::{Layout, hugging_face};

/// The bytes of a mapped file.
#[derive(Debug)]
pub struct Mapped(Arc<MmapMut>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A GGUF file, mapped, its header read and checked.
#[derive(Debug)]
pub struct Gguf {
    file: ::gguf::Gguf<Mapped>,
    map: Arc<MmapMut>,
    length: Length,
}

impl Deref for Gguf {
    type Target = ::gguf::Gguf<Mapped>;

    fn deref(&self) -> &Self::Target {
        &self.file
    }
}

/// libtorch's dtype of numbers that are stored as such; none of blocks.
pub(crate) fn kind_of(stored: GgufType) -> Option<Kind> {
    match stored {
        GgufType::F32 => Some(Kind::Float),
        GgufType::F16 => Some(Kind::Half),
        GgufType::BF16 => Some(Kind::BFloat16),
        _ => None,
    }
}

impl Gguf {
    /// Maps the file; an error names the first place where the header does not fit the bytes.
    pub fn open(path: &Path) -> Result<Self> {
        let (map, length) = map(path)?;
        Ok(Self {
            file: ::gguf::Gguf::new(path, Mapped(map.clone()))?,
            map,
            length,
        })
    }

    /// The tensor in dtype `kind` (Float or `BFloat16`), dequantised in parallel, its rows in the file's order.
    pub fn tensor(&self, name: &str, kind: Kind) -> Result<Tensor> {
        self.tensor_in(name, kind, Layout::Plain)
    }

    /// As [`Self::tensor`], with rows put in the order that Transformers has them in.
    pub(crate) fn tensor_in(&self, name: &str, kind: Kind, layout: Layout) -> Result<Tensor> {
        let tensor = self.find(name)?;
        self.length.still()?;
        let bytes = self.stored_bytes(tensor);
        let stored = kind_of(tensor.stored);
        let aligned = |kind: Kind| (bytes.as_ptr() as usize).is_multiple_of(kind.elt_size_in_bytes());
        if layout == Layout::Plain
            && let Some(stored) = stored
            && aligned(stored)
            && !bytes.is_empty()
        {
            return Ok(Lent::new(&self.map, bytes).tensor(&tensor.shape, stored)?.to_kind(kind));
        }
        let rows = layout.row_order(&tensor.shape, self.path(), name)?.unwrap_or_default();
        let row = match tensor.shape.as_slice() {
            [whole] if rows.is_empty() => *whole as usize,
            shape => shape[1..].iter().product::<i64>() as usize,
        };
        let narrow = kind == Kind::BFloat16 && layout != Layout::PlusOne;
        let wide = if narrow { Kind::BFloat16 } else { Kind::Float };
        let mut out = Tensor::zeros(&tensor.shape, (wide, tch::Device::Cpu));
        if narrow {
            self.dequantise(tensor, row, &rows, blob::slice_mut::<half::bf16>(&mut out));
        } else {
            self.dequantise(tensor, row, &rows, blob::slice_mut::<f32>(&mut out));
        }
        if layout == Layout::PlusOne {
            out -= 1.0;
        }
        Ok(out.to_kind(kind))
    }
}

//! safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Error, Result};
use crate::files::{self, write_atomic};

/// A tensor of a file, row-major, as f32 whatever it was stored as.
#[derive(Clone, Debug, PartialEq)]
pub struct FileTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl FileTensor {
    /// [N, C, H, W] of images [N, H, W, C].
    pub fn from_images(images: &[f32], [n, h, w, c]: [usize; 4]) -> FileTensor {
        let (plane, size) = (h * w, h * w * c);
        let from = |i: usize| (i / size * plane + i % plane) * c + i / plane % c;
        FileTensor { shape: vec![n, c, h, w], values: (0..n * size).map(|i| images[from(i)]).collect() }
    }

    /// The images [N, H, W, C] of [N, C, H, W], and that shape; none of another rank or of nothing.
    pub fn to_images(&self) -> Option<(Vec<f32>, [usize; 4])> {
        let [n, c, h, w] = *self.shape.as_slice() else { return None };
        if self.values.is_empty() {
            return None;
        }
        let (plane, size) = (h * w, h * w * c);
        let from = |i: usize| self.values[i / size * size + i % c * plane + i % size / c];
        Some(((0..n * size).map(from).collect(), [n, h, w, c]))
    }
}

/// Tensors by name.
pub type FileTensors = BTreeMap<String, FileTensor>;

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// [`Error::File`] if the file can't be read, is no safetensors file, or holds a kind of number that is not read here.
pub fn read(path: &Path) -> Result<FileTensors> {
    let bytes = std::fs::read(path).map_err(|error| Error::file(path, error))?;
    if let Some(problem) = files::lfs_pointer(&bytes) {
        return Err(Error::file(path, problem));
    }
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| Error::file(path, format!("no whole safetensors file: {error}")))?;
    let mut tensors = FileTensors::new();
    for (name, view) in file.tensors() {
        let values =
            to_f32(&view).ok_or_else(|| Error::file(path, format!("{name}: {:?} is not read", view.dtype())))?;
        tensors.insert(name, FileTensor { shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}

fn to_f32(view: &TensorView) -> Option<Vec<f32>> {
    let data = view.data();
    Some(match view.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec(data),
        Dtype::F64 => numbers::<8>(data, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => numbers::<2>(data, |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => numbers::<2>(data, |b| half::bf16::from_le_bytes(b).to_f32()),
        Dtype::I64 => numbers::<8>(data, |b| i64::from_le_bytes(b) as f32),
        Dtype::I32 => numbers::<4>(data, |b| i32::from_le_bytes(b) as f32),
        Dtype::U8 => data.iter().map(|b| *b as f32).collect(),
        _ => return None,
    })
}

fn numbers<const BYTES: usize>(data: &[u8], number: impl Fn([u8; BYTES]) -> f32) -> Vec<f32> {
    data.as_chunks::<BYTES>().0.iter().map(|bytes| number(*bytes)).collect()
}

/// Writes tensors as f32, whole or not at all.
///
/// # Errors
/// [`Error::File`] if the place can't be written.
pub fn write(path: &Path, tensors: &FileTensors) -> Result<()> {
    let views = tensors.iter().map(|(name, tensor)| {
        let bytes: &[u8] = bytemuck::cast_slice(&tensor.values);
        TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(|error| Error::file(path, error))?;
    // diffusers and transformers want to know who wrote a file; they accept "pt" alone.
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| Error::file(path, error))?;
    write_atomic(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_no_images_however_large_its_shape_is() {
        let images =
            |shape: [usize; 4], count| FileTensor { shape: shape.into(), values: vec![1.0; count] }.to_images();
        assert_eq!(images([0, 1 << 20, 1 << 30, 1 << 30], 0), None);
        assert_eq!(images([1, 1 << 40, 1 << 40, 0], 0), None);
        assert_eq!(images([1, 2, 1, 1], 2), Some((vec![1.0; 2], [1, 1, 1, 2])));
    }
}

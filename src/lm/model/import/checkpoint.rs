//! The tensors of a checkpoint's folder.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::refuse;
use crate::error::{Error, Result};

/// The tensors of a folder by name.
#[derive(Clone)]
pub struct Checkpoint(HashMap<String, Tensor>);

impl Checkpoint {
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        let context = || format!("cannot read {}", dir.display());
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(Error::io(context()))? {
            let path = entry.map_err(Error::io(context()))?.path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                files.push(path);
            }
        }
        if files.is_empty() {
            return Err(refuse(format!("{} holds no *.safetensors", dir.display())));
        }
        let mut tensors = HashMap::new();
        for path in files {
            let some = candle_core::safetensors::load(&path, &Device::Cpu)
                .map_err(|e| refuse(format!("{}: {e}", path.display())))?;
            tensors.extend(some);
        }
        Ok(Checkpoint(tensors))
    }

    /// All of them, for those who compute in floats.
    pub fn tensors(&self) -> &HashMap<String, Tensor> {
        &self.0
    }

    /// The values of a tensor, which must have this shape and be finite.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.0.get(name);
        let tensor = tensor.ok_or_else(|| refuse(format!("the tensor {name} is missing")))?;
        if tensor.dims() != shape {
            return Err(refuse(format!(
                "the tensor {name} has the shape {:?}, config.json says {shape:?}",
                tensor.dims()
            )));
        }
        let values = tensor
            .to_dtype(DType::F32)
            .and_then(|t| t.flatten_all()?.to_vec1::<f32>())
            .map_err(|e| refuse(format!("the tensor {name}: {e}")))?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(refuse(format!(
                "the tensor {name} holds a value that is not finite"
            )));
        }
        Ok(values)
    }
}

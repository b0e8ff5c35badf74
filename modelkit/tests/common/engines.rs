//! The engines as tests need them: no threads of their own, weights read and not mapped.

use std::path::Path;

use cellnet::{Pool, TensorRef, Workspace};
use rten::{ModelOptions, Value, ValueOrView};
use rten_tensor::TensorView;
use rten_tensor::prelude::*;
use skincell_modelkit::pack::CELL_FILE;
use skincell_modelkit::served::{Engine, LoadedModel};
use skincell_vision::card::Dtype;
use skincell_vision::tensor::Tensor;

/// Runs `model.onnx`.
pub struct Rten;

/// Runs `model.cell`.
pub struct Cellnet;

impl Engine for Rten {
    fn name(&self) -> &'static str {
        "rten"
    }

    fn takes(&self, folder: &Path) -> bool {
        folder.join("model.onnx").exists()
    }

    fn load(&self, folder: &Path) -> Result<Box<dyn LoadedModel>, String> {
        let model = ModelOptions::with_all_ops().load_file(folder.join("model.onnx"));
        Ok(Box::new(OnnxModel(model.map_err(|e| e.to_string())?)))
    }
}

struct OnnxModel(rten::Model);

impl LoadedModel for OnnxModel {
    fn run(&mut self, input: &str, photo: &Tensor) -> Result<Vec<(String, Vec<f32>)>, String> {
        let shape: Vec<usize> = photo.dimensions.iter().map(|d| *d as usize).collect();
        let floats = floats(photo);
        let value: ValueOrView = match photo.dtype {
            Dtype::U8 => TensorView::from_data(shape.as_slice(), photo.data.as_slice()).into(),
            Dtype::F32 => TensorView::from_data(shape.as_slice(), floats.as_slice()).into(),
        };
        let model = &self.0;
        let input = model.node_id(input).map_err(|e| e.to_string())?;
        let ids = model.output_ids();
        let values = model.run(vec![(input, value)], ids, None);
        let named = ids.iter().zip(values.map_err(|e| e.to_string())?).map(|(id, value)| {
            let name = model.node_info(*id).and_then(|info| info.name().map(str::to_owned));
            match value {
                Value::FloatTensor(tensor) => Ok((name.unwrap_or_default(), tensor.to_vec())),
                _ => Err("an output is not float32".to_owned()),
            }
        });
        named.collect()
    }
}

impl Engine for Cellnet {
    fn name(&self) -> &'static str {
        "cellnet"
    }

    fn takes(&self, folder: &Path) -> bool {
        folder.join(CELL_FILE).exists()
    }

    fn load(&self, folder: &Path) -> Result<Box<dyn LoadedModel>, String> {
        let model = cellnet::Model::open(folder.join(CELL_FILE)).map_err(|e| e.to_string())?;
        Ok(Box::new(CellModel(Workspace::new(&model), model)))
    }
}

struct CellModel(Workspace, cellnet::Model);

impl LoadedModel for CellModel {
    fn run(&mut self, input: &str, photo: &Tensor) -> Result<Vec<(String, Vec<f32>)>, String> {
        let floats = floats(photo);
        let elements = match photo.dtype {
            Dtype::U8 => TensorRef::U8(&photo.data),
            Dtype::F32 => TensorRef::F32(&floats),
        };
        let outputs = self.1.run(&mut self.0, &Pool::new(1), &[(input, elements)]);
        let outputs = outputs.map_err(|e| e.to_string())?;
        Ok(outputs.into_iter().map(|(name, output)| (name, output.values)).collect())
    }
}

/// The elements of a float32 tensor; of another none.
fn floats(photo: &Tensor) -> Vec<f32> {
    let (elements, _) = photo.data.as_chunks::<4>();
    match photo.dtype {
        Dtype::F32 => elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::U8 => Vec::new(),
    }
}

//! A whole U-Net on this adapter against a reference that another program computed.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::gpu::{Choices, Context, GRADIENTS, Precision, Recorder, Recordings, Step, WEIGHTS};
use crate::nn::UNet;
use crate::ops::{adamw, add, diffusion};
use crate::run::Session;
use crate::tensors::{self, FileTensor, FileTensors};

/// The worst error of one tensor: max |difference| / max(max |reference|, floor), where the floor is 0 for output and
/// loss and 1e-4 of the largest gradient for gradients (a key's bias, say, has no gradient but rounding).
#[derive(Clone, Debug, Serialize)]
pub struct TensorError {
    pub name: String,
    pub error: f64,
}

/// Above this a tensor is wrong.
pub const TOLERANCE: f64 = 1e-3;

struct Inputs {
    x: Vec<f32>,
    timestep: Vec<f32>,
    labels: Option<Vec<u32>>,
    target: Vec<f32>,
    shape: [u32; 4],
    out_channels: u32,
}

/// Loads the checkpoint `directory`, runs forward and backward on the tensors of `reference`, compares `output`, `loss`
/// and every `grad.NAME`. Worst first.
///
/// # Errors
/// [`Error::File`] for files that are not what they should be, [`Error::Device`] if the device fails.
pub fn verify_model(context: &Context, directory: &Path, reference: &Path) -> Result<Vec<TensorError>> {
    let model = checkpoint::load(directory)?;
    let file = tensors::read(reference)?;
    let inputs = read_inputs(&model.unet, &file, reference)?;
    let mut session = Session::new(context);
    let recordings = session.settle(|choices| Ok(record(&model.unet, &inputs, choices)))?;
    let plan = session.plan(&recordings)?.take("model").expect("it was recorded");
    upload(&session, &model.weights, &inputs);
    session.run(&plan, &Step::default());
    let outputs = inputs.out_channels as usize;
    let output = session.read_rows("output", 0..outputs, outputs)?;
    let [n, h, w, _] = inputs.shape.map(|extent| extent as usize);
    let output = FileTensor::from_images(&output[..n * h * w * outputs], [n, h, w, outputs]).values;
    let loss = session.read("loss")?[0];
    compare(&model.unet, &file, reference, output, loss, &session.read(GRADIENTS)?)
}

fn read_inputs(unet: &UNet, file: &FileTensors, path: &Path) -> Result<Inputs> {
    let tensor = |name: &str| file.get(name).ok_or_else(|| Error::file(path, format!("tensor {name} is missing")));
    let refuse = |problem: String| Err(Error::file(path, problem));
    let (sample, target, timestep) = (tensor("sample")?, tensor("target")?, tensor("timestep")?);
    let (Some((x, shape)), Some((target, target_shape))) = (sample.to_images(), target.to_images()) else {
        return refuse("sample and target must be [N, C, H, W]".into());
    };
    let ([n, h, w, c], target_shape) = (shape.map(|extent| extent as u32), target_shape.map(|extent| extent as u32));
    let config = &unet.config;
    if c != config.in_channels || target_shape != [n, h, w, config.out_channels] {
        let problem =
            format!("sample {:?} and target {:?} do not fit the model", sample.shape, tensor("target")?.shape);
        return refuse(problem);
    }
    config.validate_size(h, w)?;
    let timestep = match timestep.values.as_slice() {
        [one] => vec![*one; n as usize],
        many if many.len() == n as usize => many.to_vec(),
        many => return refuse(format!("{} timesteps for {n} samples", many.len())),
    };
    let labels = match (config.num_class_embeds, file.get("class_labels")) {
        (None, _) => None,
        (Some(_), None) => return refuse("tensor class_labels is missing, and the model is class-conditional".into()),
        (Some(classes), Some(labels)) => {
            if labels.values.len() != n as usize || labels.values.iter().any(|l| *l < 0.0 || *l >= classes as f32) {
                return refuse(format!("class_labels must be {n} numbers below {classes}"));
            }
            Some(labels.values.iter().map(|label| *label as u32).collect())
        }
    };
    Ok(Inputs { x, timestep, labels, target, shape: [n, h, w, c], out_channels: config.out_channels })
}

fn record(unet: &UNet, inputs: &Inputs, choices: &Arc<Choices>) -> Recordings {
    let r = &mut Recorder::for_model(unet.params.elements, WEIGHTS).with_choices(choices);
    let [n, h, w, _] = inputs.shape;
    let x = r.persistent("sample", inputs.shape);
    let timestep = r.persistent("timestep", [1, 1, 1, n]);
    let labels = inputs.labels.as_ref().map(|_| r.persistent("class_labels", [1, 1, 1, n]));
    let (out, saved) = unet.forward(r, x, timestep, labels);
    let [output, target] = ["output", "target"].map(|name| r.persistent(name, [n, h, w, inputs.out_channels]));
    add::scale_into(r, out, 1.0, output);
    let weight = r.constant("loss weight", [1, 1, 1, n], &vec![1.0; n.next_multiple_of(4) as usize]);
    let scale = adamw::loss_scale(r, Precision::F32);
    let loss = r.persistent("loss", [1, 1, 1, 1]);
    let gradient = r.scope("loss", |r| {
        let parts = diffusion::loss(r, output, target, weight, scale);
        parts.total(r, loss);
        parts.gradient
    });
    unet.backward(r, saved, gradient);
    Recordings::from_iter([("model", std::mem::take(r).finish())])
}

fn upload(session: &Session, weights: &[f32], inputs: &Inputs) {
    let [n, _, _, channels] = inputs.shape.map(|extent| extent as usize);
    let outputs = inputs.out_channels as usize;
    session.write(WEIGHTS, weights);
    session.write_rows("sample", &inputs.x, channels, channels);
    session.write_rows("target", &inputs.target, outputs, outputs);
    session.write_rows("timestep", &inputs.timestep, n, n);
    if let Some(labels) = &inputs.labels {
        session.write_labels("class_labels", labels.iter().copied());
    }
}

fn compare(
    unet: &UNet,
    file: &FileTensors,
    path: &Path,
    output: Vec<f32>,
    loss: f32,
    gradients: &[f32],
) -> Result<Vec<TensorError>> {
    let largest = file.iter().filter(|(name, _)| name.starts_with("grad.")).map(|(_, t)| largest(&t.values));
    let floor = 1e-4 * largest.fold(0.0, f64::max);
    let mut errors = Vec::new();
    let mut check = |name: &str, values: &[f32], floor: f64| match file.get(name) {
        Some(reference) if reference.values.len() == values.len() => {
            errors.push(TensorError { name: name.into(), error: relative(values, &reference.values, floor) });
            Ok(())
        }
        Some(reference) => Err(Error::file(path, format!("tensor {name} has shape {:?}", reference.shape))),
        None => Err(Error::file(path, format!("tensor {name} is missing"))),
    };
    check("output", &output, 0.0)?;
    check("loss", &[loss], 0.0)?;
    for parameter in &unet.params.all {
        check(&format!("grad.{}", parameter.name), &parameter.unpack(gradients), floor)?;
    }
    errors.sort_by(|a, b| b.error.total_cmp(&a.error));
    Ok(errors)
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |most: f64, value| most.max(value.abs() as f64))
}

fn relative(values: &[f32], reference: &[f32], floor: f64) -> f64 {
    let mut difference = 0.0f64;
    for (value, reference) in values.iter().zip(reference) {
        let d = (*value as f64 - *reference as f64).abs();
        difference = if d.is_nan() { f64::INFINITY } else { difference.max(d) };
    }
    let scale = largest(reference).max(floor);
    if difference == 0.0 { 0.0 } else { difference / scale }
}

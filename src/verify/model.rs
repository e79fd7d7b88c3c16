//! A whole U-Net on this adapter against a reference that another program computed.

use std::path::Path;

use serde::Serialize;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::gpu::{
    Context, GRADIENTS, Memory, Plan, PlanOptions, Precision, Recorder, Recording, Step, Tensor, WEIGHTS,
};
use crate::nn::UNet;
use crate::ops::{adamw, diffusion};
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
    let mut memory = Memory::default();
    let forward = record(context, &model.unet, &inputs, false);
    let plan = Plan::new(context, &forward.recording, &mut memory, PlanOptions::default())?;
    upload(context, &memory, &model.weights, &inputs);
    plan.run(context, &Step::default());
    let output = plan.read(context, forward.output)?;
    drop(plan);
    let backward = record(context, &model.unet, &inputs, true);
    let plan = Plan::new(context, &backward.recording, &mut memory, PlanOptions::default())?;
    memory.write(context, "target", 0, &inputs.target);
    plan.run(context, &Step::default());
    let loss = memory.read(context, "loss")?[0];
    let gradients = memory.read(context, GRADIENTS)?;
    let [n, h, w, _] = inputs.shape;
    let output = to_nchw(&output, [n, h, w, inputs.out_channels]);
    compare(&model.unet, &file, reference, output, loss, &gradients)
}

fn read_inputs(unet: &UNet, file: &FileTensors, path: &Path) -> Result<Inputs> {
    let tensor = |name: &str| file.get(name).ok_or_else(|| Error::file(path, format!("tensor {name} is missing")));
    let refuse = |problem: String| Err(Error::file(path, problem));
    let (sample, target, timestep) = (tensor("sample")?, tensor("target")?, tensor("timestep")?);
    let (Ok(sample_shape), Ok(target_shape)) = (nchw(sample), nchw(target)) else {
        return refuse("sample and target must be [N, C, H, W]".into());
    };
    let [n, c, h, w] = sample_shape;
    let config = &unet.config;
    if c != config.in_channels || target_shape != [n, config.out_channels, h, w] {
        return refuse(format!("sample {sample_shape:?} and target {target_shape:?} do not fit the model"));
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
    let (x, target) = (from_nchw(sample, sample_shape), from_nchw(target, target_shape));
    Ok(Inputs { x, timestep, labels, target, shape: [n, h, w, c], out_channels: config.out_channels })
}

fn nchw(tensor: &FileTensor) -> std::result::Result<[u32; 4], ()> {
    let shape: [usize; 4] = tensor.shape.as_slice().try_into().map_err(|_| ())?;
    if shape.contains(&0) { Err(()) } else { Ok(shape.map(|extent| extent as u32)) }
}

/// [N, C, H, W] to the padded [N, H, W, C] of the kernels.
fn from_nchw(tensor: &FileTensor, [n, c, h, w]: [u32; 4]) -> Vec<f32> {
    let (plane, stride) = ((h * w) as usize, c.next_multiple_of(4) as usize);
    let mut values = vec![0.0; n as usize * plane * stride];
    for (index, value) in tensor.values.iter().enumerate() {
        let (image, channel, position) = (index / (plane * c as usize), index / plane % c as usize, index % plane);
        values[(image * plane + position) * stride + channel] = *value;
    }
    values
}

/// The padded [N, H, W, C] of the kernels to [N, C, H, W].
pub fn to_nchw(values: &[f32], [n, h, w, c]: [u32; 4]) -> Vec<f32> {
    let (plane, stride) = ((h * w) as usize, c.next_multiple_of(4) as usize);
    let index = |i: usize| {
        let (image, channel, position) = (i / (plane * c as usize), i / plane % c as usize, i % plane);
        (image * plane + position) * stride + channel
    };
    (0..n as usize * plane * c as usize).map(|i| values[index(i)]).collect()
}

struct Recorded {
    recording: Recording,
    output: Tensor,
}

fn record(context: &Context, unet: &UNet, inputs: &Inputs, backward: bool) -> Recorded {
    let choices = context.choices.at(Precision::F32);
    let r = &mut Recorder::for_model(unet.params.elements, WEIGHTS).with_choices(&choices);
    let [n, h, w, _] = inputs.shape;
    let x = r.persistent("sample", inputs.shape);
    let timestep = r.persistent("timestep", [1, 1, 1, n]);
    let labels = inputs.labels.as_ref().map(|_| r.persistent("class_labels", [1, 1, 1, n]));
    let (output, saved) = unet.forward(r, x, timestep, labels);
    if backward {
        let target = r.persistent("target", [n, h, w, inputs.out_channels]);
        let weight = r.constant("loss weight", [1, 1, 1, n], &padded(vec![1.0; n as usize]));
        let scale = adamw::loss_scale(r, Precision::F32);
        let loss = r.persistent("loss", [1, 1, 1, 1]);
        let d_output = r.scope("loss", |r| diffusion::loss(r, output, target, weight, loss, scale));
        unet.backward(r, saved, d_output);
    }
    Recorded { recording: std::mem::take(r).finish(), output }
}

fn padded<T: Copy + Default>(mut values: Vec<T>) -> Vec<T> {
    values.resize(values.len().next_multiple_of(4), T::default());
    values
}

fn upload(context: &Context, memory: &Memory, weights: &[f32], inputs: &Inputs) {
    memory.write(context, WEIGHTS, 0, weights);
    memory.write(context, "sample", 0, &inputs.x);
    memory.write(context, "timestep", 0, &padded(inputs.timestep.clone()));
    if let Some(labels) = &inputs.labels {
        memory.write(context, "class_labels", 0, &padded(labels.clone()));
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

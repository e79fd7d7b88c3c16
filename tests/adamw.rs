//! The optimizer's kernel against PyTorch over five steps (tests/oracle/layers.safetensors).

use diffuse::gpu::{Context, Memory, Plan, PlanOptions, Precision, Recorder, Step, Tensor};
use diffuse::ops::adamw::{self, AdamW, State};
use diffuse::ops::reduce;
use safetensors::SafeTensors;

const ORACLE: &[u8] = include_bytes!("oracle/layers.safetensors");

fn oracle(name: &str) -> Vec<f64> {
    let file = SafeTensors::deserialize(ORACLE).expect("the oracle is a safetensors file");
    let tensor = file.tensor(name).expect("the oracle has it");
    match tensor.dtype() {
        safetensors::Dtype::F64 => {
            tensor.data().as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
        }
        _ => tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes) as f64).collect(),
    }
}

/// Five steps on the device: what weights, m, v and the average hold after each, and the norm.
struct Run {
    context: Context,
    plan: Plan,
    state: State,
    square: Tensor,
}

impl Run {
    fn new(count: u32, adamw: &AdamW, gradient_scale: f32) -> Run {
        let context = Context::new(None).expect("GPU tests need an adapter");
        let mut r = Recorder::new();
        let [weights, gradient, m, v, ema] =
            ["weights", "gradient", "m", "v", "ema"].map(|name| r.persistent(name, [1, 1, 1, count]));
        let square = r.persistent("square", [1, 1, 1, 1]);
        let partials = r.temp([1, 1, 1, adamw::partial_count(count as u64)]);
        let loss_scale = adamw::loss_scale(&mut r, Precision::F32);
        let state = State { weights, gradient, m, v, ema, loss_scale };
        adamw::square_sum(&mut r, gradient, partials, loss_scale);
        reduce::total(&mut r, partials, square);
        adamw::update(&mut r, adamw, gradient_scale, state, square);
        let mut memory = Memory::default();
        let plan = Plan::new(&context, &r.finish(), &mut memory, PlanOptions::default()).expect("a small plan");
        Run { context, plan, state, square }
    }

    fn write(&self, tensor: Tensor, values: &[f64]) {
        let mut padded: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        padded.resize(tensor.elements() as usize, 0.0);
        self.plan.write(&self.context, tensor, &padded);
    }

    fn read(&self, tensor: Tensor) -> Vec<f64> {
        let values = self.plan.read(&self.context, tensor).expect("the device works");
        values.iter().take(tensor.count() as usize).map(|value| *value as f64).collect()
    }
}

fn assert_close(what: &str, computed: &[f64], expected: &[f64]) {
    let rms = (expected.iter().map(|value| value * value).sum::<f64>() / expected.len() as f64).sqrt();
    assert_eq!(computed.len(), expected.len());
    for (computed, expected) in computed.iter().zip(expected) {
        let tolerance = 1e-6 * rms + 1e-5 * expected.abs();
        assert!((computed - expected).abs() <= tolerance, "{what}: {computed} for {expected}");
    }
}

#[test]
fn five_steps_are_those_of_pytorch() {
    let [learning_rate, beta1, beta2, eps, weight_decay, max_norm] = oracle("adamw.hyper")[..] else { unreachable!() };
    let adamw = AdamW { beta1, beta2, eps, weight_decay, max_norm };
    let start = oracle("adamw.w0");
    let count = start.len();
    // The gradients come as sums over two micro-batches.
    let run = Run::new(count as u32, &adamw, 0.5);
    run.write(run.state.weights, &start);
    run.write(run.state.ema, &start);
    let mut average = start;
    let [g, norm, w, m, v] = ["g", "norm", "w", "m", "v"].map(|name| oracle(&format!("adamw.{name}")));
    for t in 0..5 {
        let now = |values: &[f64]| values[t * count..][..count].to_vec();
        let mut step = Step::default();
        step.set("learning_rate", learning_rate).set("ema_decay", 0.75);
        step.set("bias_correction1", 1.0 - beta1.powi(t as i32 + 1));
        step.set("bias_correction2", 1.0 - beta2.powi(t as i32 + 1));
        let doubled: Vec<f64> = now(&g).iter().map(|g| 2.0 * g).collect();
        run.write(run.state.gradient, &doubled);
        run.plan.run(&run.context, &step);
        assert_close("norm", &[0.5 * run.read(run.square)[0].sqrt()], &[norm[t]]);
        assert_close("weights", &run.read(run.state.weights), &now(&w));
        assert_close("m", &run.read(run.state.m), &now(&m));
        assert_close("v", &run.read(run.state.v), &now(&v));
        for (average, w) in average.iter_mut().zip(now(&w)) {
            *average = 0.75 * *average + 0.25 * w;
        }
        assert_close("average", &run.read(run.state.ema), &average);
    }
}

#[test]
fn the_average_is_that_of_pytorch() {
    let [mut y0, w, decay, y] = ["y0", "w", "decay", "y"].map(|name| oracle(&format!("ema.{name}")));
    let count = y0.len();
    let run = Run::new(count as u32, &AdamW::default(), 1.0);
    run.write(run.state.ema, &y0);
    for t in 0..5 {
        let mut step = Step::default();
        step.set("bias_correction1", 1.0).set("bias_correction2", 1.0).set("ema_decay", decay[t]);
        run.write(run.state.weights, &w[t * count..][..count]);
        run.plan.run(&run.context, &step);
        y0 = y[t * count..][..count].to_vec();
        assert_close("average", &run.read(run.state.ema), &y0);
    }
}

#[test]
fn a_broken_gradient_changes_nothing() {
    let run = Run::new(1000, &AdamW::default(), 1.0);
    let values: Vec<f64> = (0..1000).map(|i| (i as f64 * 0.37).sin()).collect();
    let State { weights, gradient, m, v, ema, .. } = run.state;
    let mut step = Step::default();
    step.set("learning_rate", 0.1).set("bias_correction1", 0.5).set("bias_correction2", 0.5);
    for broken in [f64::NAN, f64::INFINITY, 1e30] {
        [weights, m, ema].iter().for_each(|tensor| run.write(*tensor, &values));
        run.write(v, &vec![0.25; 1000]);
        let before = [weights, m, v, ema].map(|tensor| run.read(tensor));
        let mut poisoned = values.clone();
        poisoned[777] = broken;
        run.write(gradient, &poisoned);
        run.plan.run(&run.context, &step);
        assert!(!run.read(run.square)[0].is_finite());
        assert!([weights, m, v, ema].map(|tensor| run.read(tensor)) == before, "{broken}");
    }
}

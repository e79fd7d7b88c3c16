//! A small model and data to train it on.

use diffuse::data::{Account, Dataset};
use diffuse::diffusion::ScheduleKind;
use diffuse::gpu::Context;
use diffuse::nn::UNetConfig;
use diffuse::nn::config::Size;
use diffuse::random::Random;
use diffuse::run::{Objective, Session, TrainOptions, Trainer};

pub fn context() -> Context {
    Context::new(None).expect("GPU tests need an adapter")
}

/// 8x8, two levels with attention, class-conditional: every kind of layer, and small.
pub fn model(classes: u32) -> UNetConfig {
    UNetConfig {
        sample_size: Some(Size::Square(8)),
        in_channels: 1,
        out_channels: 1,
        layers_per_block: 1,
        block_out_channels: vec![8, 12],
        norm_num_groups: 4,
        attention_head_dim: Some(4),
        down_block_types: vec!["DownBlock2D".into(), "AttnDownBlock2D".into()],
        up_block_types: vec!["AttnUpBlock2D".into(), "UpBlock2D".into()],
        num_class_embeds: Some(classes + 1),
        ..UNetConfig::default()
    }
}

/// Smooth pictures of a few classes.
pub fn dataset(count: usize, classes: u32) -> Dataset {
    let mut random = Random::new(7);
    let labels: Vec<u32> = (0..count as u32).map(|i| i % classes).collect();
    let images = labels.iter().flat_map(|label| {
        let (phase, frequency) = (random.uniform(), *label as f64 + 1.0);
        let value = move |i: usize| ((i as f64 / 8.0 * frequency + phase).sin() * 127.0 + 128.0) as u8;
        (0..64).map(value).collect::<Vec<_>>()
    });
    Dataset {
        name: "waves".into(),
        height: 8,
        width: 8,
        channels: 1,
        images: images.collect(),
        labels,
        classes: (0..classes).map(|class| class.to_string()).collect(),
        account: Account::default(),
    }
}

pub fn options(steps: u64, batch: u32, accumulate: u32) -> TrainOptions {
    TrainOptions {
        model: model(3),
        steps,
        batch,
        accumulate,
        learning_rate: 2e-3,
        warmup: 3,
        class_dropout: 0.3,
        flip: Some(true),
        noise_schedule: ScheduleKind::COSINE,
        seed: 5,
        sample_every: 0,
        checkpoint_every: 0,
        ..TrainOptions::default()
    }
}

/// A trainer with initial weights, in the usual ways.
pub fn trainer<'a>(context: &'a Context, model: &dyn Objective, data: &Dataset, options: &TrainOptions) -> Trainer<'a> {
    let session = Session::open(context, &Default::default(), options.precision);
    let trainer = Trainer::new(session, model, data, options).expect("it fits");
    trainer.write_weights(&model.params().initialise(options.seed));
    trainer
}

//! Trains a small U-Net on images that stand in memory: discs and squares.
//!
//! `cargo run --release --example train_on_bytes`

use diffuse::data::Dataset;
use diffuse::gpu::Context;
use diffuse::nn::{UNet, UNetConfig};
use diffuse::run::{Session, TrainOptions, Trainer};

const SIDE: usize = 16;

/// A white disc or square, at another place in each image.
fn image(number: usize) -> Vec<u8> {
    let radius = 4.0;
    let [x, y] = [number * 7 % 8, number * 5 % 8].map(|place| place as f32 + 4.0);
    let is_in = |dx: f32, dy: f32| match number % 2 {
        0 => dx.hypot(dy) < radius,
        _ => dx.abs().max(dy.abs()) < radius,
    };
    (0..SIDE * SIDE).map(|i| if is_in((i % SIDE) as f32 - x, (i / SIDE) as f32 - y) { 255 } else { 0 }).collect()
}

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let images: Vec<u8> = (0..256).flat_map(image).collect();
    let labels = (0..256).map(|number| number % 2).collect();
    let data = Dataset::new("shapes", [SIDE as u32, SIDE as u32, 1], images, labels, &["disc", "square"])?;
    let model = UNetConfig { block_out_channels: vec![8, 16, 16], num_class_embeds: Some(3), ..diffuse::nn::digits() };
    let options =
        TrainOptions { model, batch: 16, steps: 20, learning_rate: 2e-3, warmup: 5, ..TrainOptions::default() };
    options.validate()?;
    let unet = UNet::new(options.model.clone())?;
    let context = Context::new(None)?;
    println!("{} parameters on {}", unet.params.count(), context.info.name);
    let mut trainer = Trainer::new(Session::new(&context), &unet, &data, &options)?;
    trainer.write_weights(&unet.params.initialise(options.seed));
    for step in 0..options.steps {
        // What is known of earlier steps: nobody waits for this one.
        for metrics in trainer.step(step)?.0 {
            println!("step {:2}  loss {:.4}", metrics.step, metrics.loss);
        }
    }
    for metrics in trainer.finish()? {
        println!("step {:2}  loss {:.4}", metrics.step, metrics.loss);
    }
    Ok(())
}

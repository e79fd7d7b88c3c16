//! Draws with a checkpoint, again and again with the same plans, and looks at each batch while it forms.
//!
//! `cargo run --release --example sample_in_a_loop -- CHECKPOINT`; without one, a network that has learnt nothing draws.

use std::path::Path;

use diffuse::checkpoint;
use diffuse::diffusion::{Sampler, Schedule};
use diffuse::gpu::{Context, WEIGHTS};
use diffuse::nn::config::Size;
use diffuse::nn::{UNet, digits};
use diffuse::run::{Generator, Networks, Request, Session, TrainOptions};

/// A network, its weights, and the schedule that they were trained with.
fn model(place: Option<&Path>) -> Result<(UNet, Vec<f32>, Schedule), Box<dyn std::error::Error>> {
    if let Some(place) = place {
        let loaded = checkpoint::load(place)?;
        return Ok((loaded.unet, loaded.weights, loaded.scheduler.schedule()?));
    }
    let unet = UNet::new(digits())?;
    let weights = unet.params.initialise(0);
    Ok((unet, weights, TrainOptions::default().scheduler().schedule()?))
}

pub fn draw(place: Option<&Path>) -> Result<(), Box<dyn std::error::Error>> {
    let (unet, weights, schedule) = model(place)?;
    let (height, width) = unet.config.sample_size.map(Size::sides).ok_or("its config.json has no sample_size")?;
    let context = Context::new(None)?;
    let mut session = Session::new(&context);
    let sampler = Sampler::ddim(5, 0.0);
    let request = |seed| Request::new(&sampler, &schedule, 4, seed);
    let frame = request(0)?.frame(4, [height, width]);
    let networks = Networks { unet: &unet, weights: WEIGHTS, classifier: None };
    let generator = Generator::fit(&mut session, &networks, &frame)?;
    session.write(WEIGHTS, &weights);
    for seed in 0..3 {
        let mut request = request(seed)?;
        // One of each class, where the network knows classes.
        request.labels = unet.is_conditional().then(|| (0..request.count).collect());
        let drawn = generator.run(&session, &request, |progress| {
            let forming = progress.frame()?;
            let mean = forming.values.iter().map(|value| value.abs()).sum::<f32>() / forming.values.len() as f32;
            println!("seed {seed}  {} of {}  mean magnitude {mean:.3}", progress.step, request.length());
            Ok(())
        })?;
        let name = format!("seed_{seed}.png");
        println!("{} images of {height}x{width}: {name}", drawn.images.count);
        diffuse::picture::grid(&drawn.images, 4, 4).save(std::env::temp_dir().join(name))?;
    }
    Ok(())
}

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    draw(std::env::args().nth(1).as_deref().map(Path::new))
}

//! One checkpoint, all views: what a network says of the noise is what it says of x0, v, the score, EDM's F and the
//! flow's velocity, on every path; and a sampler draws the same images whichever it is told.

// Networks to train are for other tests.
#[allow(dead_code)]
mod common;

use common::{context, model};
use diffuse::diffusion::{
    BetaSchedule, DATA_DEVIATION, Denoiser, Level, NO_CLIP, Path, Prediction, Program, SLOTS, Sampler, SamplerKind,
    Schedule, Step as Coefficients, Threshold, Variance,
};
use diffuse::error::Result;
use diffuse::gpu::{Context, Memory, Plan, PlanOptions, Recorder, Step, WEIGHTS};
use diffuse::nn::{UNet, UNetConfig};
use diffuse::ops::diffusion;
use diffuse::random::Random;
use diffuse::run::{Denoiser as Network, Generator, Networks, Request, Session, Start, set_coefficients};

const TIMESTEPS: usize = 1000;
const IMAGES: u32 = 2;
const NUMBERS: usize = IMAGES as usize * 64;
const SEED: u64 = 3;

const PATHS: [Path; 5] =
    [Path::VariancePreserving, Path::SubVariancePreserving, Path::VarianceExploding, Path::Edm, Path::Flow];

/// What the network says, by the papers' own equations.
struct Said {
    /// x on the linear schedule, which the network is shown, and what it answers.
    x: Vec<f64>,
    eps: Vec<f64>,
    /// The level of x.
    at: Level,
}

impl Said {
    fn x0(&self) -> Vec<f64> {
        let Level { alpha, sigma, .. } = self.at;
        self.x.iter().zip(&self.eps).map(|(x, eps)| (x - sigma * eps) / alpha).collect()
    }

    /// (alpha, sigma) of the same noise on `path`.
    fn level(&self, path: Path) -> (f64, f64) {
        let kappa = self.at.sigma / self.at.alpha;
        match path {
            Path::VariancePreserving => (self.at.alpha, self.at.sigma),
            Path::SubVariancePreserving => {
                // sigma = 1 - alpha², whose ratio to alpha is kappa.
                let alpha = (kappa * kappa / 4.0 + 1.0).sqrt() - kappa / 2.0;
                (alpha, kappa * alpha)
            }
            Path::VarianceExploding => (1.0, kappa),
            Path::Edm => {
                let c_in = 1.0 / (kappa * kappa + DATA_DEVIATION * DATA_DEVIATION).sqrt();
                (c_in, c_in * kappa)
            }
            Path::Flow => {
                let time = self.at.sigma / (self.at.alpha + self.at.sigma);
                (1.0 - time, time)
            }
        }
    }

    /// alpha' x0 + sigma' eps.
    fn mixed(&self, (alpha, sigma): (f64, f64)) -> Vec<f64> {
        self.x0().iter().zip(&self.eps).map(|(x0, eps)| alpha * x0 + sigma * eps).collect()
    }

    /// What a network of this target and path would put out.
    fn reading(&self, prediction: Prediction, path: Path) -> Vec<f64> {
        let (alpha, sigma) = self.level(path);
        let kappa = sigma / alpha;
        let read = |(x0, eps): (f64, f64)| match prediction {
            Prediction::Eps => eps,
            Prediction::X0 => x0,
            Prediction::V => alpha * eps - sigma * x0,
            Prediction::Score => -eps / sigma,
            Prediction::Flow => eps - x0,
            Prediction::Edm => {
                // D = c_skip y + c_out F is x0.
                let variance = DATA_DEVIATION * DATA_DEVIATION;
                let c_skip = variance / (kappa * kappa + variance);
                let c_out = kappa * DATA_DEVIATION / (kappa * kappa + variance).sqrt();
                (x0 - c_skip * (x0 + kappa * eps)) / c_out
            }
        };
        self.x0().into_iter().zip(self.eps.iter().copied()).map(read).collect()
    }
}

fn unet() -> UNet {
    UNet::new(UNetConfig { num_class_embeds: None, ..model(1) }).expect("a valid model")
}

fn weights(unet: &UNet) -> Vec<f32> {
    unet.params.initialise(4)
}

fn linear() -> Schedule {
    Schedule::new(BetaSchedule::HO, TIMESTEPS).expect("a schedule")
}

fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
}

/// The largest difference, as a share of `size`.
fn apart(found: &[f64], wanted: &[f64], size: f64) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let worst = found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs());
    worst.fold(0.0, |worst: f64, next| if next.is_nan() { f64::INFINITY } else { worst.max(next) }) / size
}

/// The kernel of all samplers by itself.
struct Dispatch<'a> {
    context: &'a Context,
    memory: Memory,
    plan: Plan,
}

impl<'a> Dispatch<'a> {
    fn new(context: &'a Context) -> Dispatch<'a> {
        let r = &mut Recorder::new();
        let [x, out] = ["x", "out"].map(|name| r.persistent(name, [IMAGES, 8, 8, 1]));
        let previous = r.persistent("previous", [SLOTS as u32 * IMAGES, 8, 8, 1]);
        diffusion::denoise(r, x, out, previous, false);
        let mut memory = Memory::default();
        let recording = std::mem::take(r).finish();
        let plan = Plan::new(context, &recording, &mut memory, PlanOptions::default()).expect("it fits");
        Dispatch { context, memory, plan }
    }

    /// One channel of four holds numbers.
    fn write(&self, name: &str, values: &[f64]) {
        let padded: Vec<f32> = values.iter().flat_map(|value| [*value as f32, 0.0, 0.0, 0.0]).collect();
        self.memory.write(self.context, name, 0, &padded);
    }

    fn read(&self, name: &str) -> Vec<f64> {
        let values = self.memory.read(self.context, name).expect("the device works");
        values.iter().step_by(4).take(NUMBERS).map(|value| *value as f64).collect()
    }

    fn run(&self, step: &Coefficients, number: usize) {
        let mut values = Step::default();
        values.set("seed", SEED as f64).set("counter", number as f64).set("guidance", 1.0);
        set_coefficients(&mut values, step);
        self.plan.run(self.context, &values);
    }
}

/// x' = p x + q out and nothing else.
fn readout(at: Level, (p, q): (f64, f64)) -> Coefficients {
    Coefficients {
        at,
        to: at,
        x: p,
        out: q,
        x0: 0.0,
        x0_from_x: 0.0,
        x0_from_out: 0.0,
        clip: NO_CLIP,
        threshold: None,
        previous: [0.0; SLOTS],
        noise: 0.0,
        learned: None,
        keep: None,
        keep_x: None,
    }
}

/// Every target turned into every other, and a step of DDIM told each of them, on every path, by the GPU.
#[test]
fn the_identities_hold_on_the_device() {
    let context = context();
    let (unet, schedule) = (unet(), linear());
    let network = Network::new(Session::new(&context), &unet, &weights(&unet), [IMAGES, 8, 8], false).expect("it fits");
    let dispatch = Dispatch::new(&context);
    let mut random = Random::new(1);
    // Of the readings, of the step's x' and of its estimate of x0.
    let mut worst = [0.0f64; 3];
    for t in [0, 1, 30, 250, 600, TIMESTEPS - 1] {
        let x: Vec<f64> = (0..NUMBERS).map(|_| random.normal() as f32 as f64).collect();
        let eps = network.run(&x, t as f64).expect("the device works");
        assert!(rms(&eps) > 0.1, "the network says something");
        let said = Said { x, eps, at: schedule.level(t) };
        for path in PATHS {
            let view = schedule.along(path);
            let (at, (alpha, sigma)) = (view.level(t), said.level(path));
            assert!((at.alpha / alpha - 1.0).abs() < 1e-12 && (at.sigma / sigma - 1.0).abs() < 1e-12, "{path:?} {t}");
            let x = said.mixed((alpha, sigma));
            for from in Prediction::ALL {
                let out = said.reading(from, path);
                dispatch.write("out", &out);
                for to in Prediction::ALL {
                    let (p, q) = from.to(to, alpha, sigma);
                    dispatch.write("x", &x);
                    dispatch.run(&readout(at, (p, q)), 0);
                    let wanted = said.reading(to, path);
                    // The sum's own size, or that of its terms where they cancel.
                    let size = rms(&wanted).max(p.abs() * rms(&x)).max(q.abs() * rms(&out));
                    let error = apart(&dispatch.read("x"), &wanted, size);
                    assert!(error < 1e-5, "{from:?} as {to:?} on {path:?} at {t}: {error:.1e} of {size}");
                    worst[0] = worst[0].max(error);
                }
                let kind = SamplerKind::Ddim { eta: 0.0 };
                let sampler = Sampler { prediction: from, clip: None, ..Sampler::new(kind, TIMESTEPS) };
                let step = sampler.plan(&view).expect("a plan")[TIMESTEPS - 1 - t];
                assert_eq!(step.at, at);
                dispatch.write("x", &x);
                dispatch.run(&step, 0);
                let next = match t {
                    0 => (1.0, 0.0),
                    _ => Said { x: Vec::new(), eps: Vec::new(), at: schedule.level(t - 1) }.level(path),
                };
                let (wanted, x0) = (said.mixed(next), said.x0());
                let error = apart(&dispatch.read("x"), &wanted, rms(&wanted));
                assert!(error < 1e-5, "DDIM told {from:?} on {path:?} at {t}: {error:.1e}");
                worst[1] = worst[1].max(error);
                let error = apart(&dispatch.read("previous"), &x0, rms(&x0));
                assert!(error < 1e-5, "x0 told {from:?} on {path:?} at {t}: {error:.1e}");
                worst[2] = worst[2].max(error);
            }
        }
    }
    println!("worst: reading {:.1e}, x' {:.1e}, x0 {:.1e}", worst[0], worst[1], worst[2]);
}

/// A network that learnt eps on the linear schedule, as one of another target on another path.
struct View<'a> {
    network: &'a Network<'a>,
    dispatch: Dispatch<'a>,
    prediction: Prediction,
    path: Path,
    number: usize,
}

impl Denoiser for View<'_> {
    type Error = diffuse::error::Error;

    fn evaluate(&mut self, step: &Coefficients) -> Result<()> {
        let kappa = step.at.kappa();
        let alpha = 1.0 / (1.0 + kappa * kappa).sqrt();
        let at = Level { timestep: step.at.timestep, alpha, sigma: kappa * alpha };
        // What the network is shown is rounded to f32.
        let shown = |x: f64| (x * alpha / step.at.alpha) as f32 as f64;
        let x: Vec<f64> = self.dispatch.read("x").into_iter().map(shown).collect();
        let eps = self.network.run(&x, at.timestep)?;
        self.dispatch.write("out", &Said { x, eps, at }.reading(self.prediction, self.path));
        self.dispatch.run(step, self.number);
        self.number += 1;
        Ok(())
    }

    fn update(&mut self, _: &Coefficients) -> Result<()> {
        unreachable!("only rk45 updates")
    }

    fn threshold(&mut self, _: Threshold, _: usize, _: usize) -> Result<()> {
        unreachable!("nobody thresholds here")
    }

    fn rms(&mut self) -> Result<f64> {
        unreachable!("only rk45 asks")
    }
}

fn generated(context: &Context, unet: &UNet, program: Program) -> Vec<f64> {
    let request = Request {
        program,
        initial_scale: 1.0,
        start: Start::Noise,
        known: None,
        labels: None,
        count: IMAGES,
        guidance: 1.0,
        steering: None,
        seed: SEED,
    };
    let mut session = Session::new(context);
    let networks = Networks { unet, weights: WEIGHTS, classifier: None };
    let generator = Generator::fit(&mut session, &networks, &request.frame(IMAGES, [8, 8])).expect("it fits");
    session.write(WEIGHTS, &weights(unet));
    let drawn = generator.run(&session, &request, |_| Ok(())).expect("the device works");
    drawn.images.values.into_iter().map(f64::from).collect()
}

/// Samplers that are the same rule on every path, because they are written in kappa: ten steps of each in each view.
///
/// Nothing but rounding tells the views apart: a step rounds x, the output and x' to f32, 6e-8 each, and the estimate of x0
/// is a difference whose terms are up to a few times its size. Ten steps of a network that neither damps nor amplifies
/// add up to some 1e-6 of the images' size; the bound leaves a factor of ten.
#[test]
fn samplers_draw_the_same_images_in_every_view() {
    let context = context();
    let (unet, schedule) = (unet(), linear());
    let network = Network::new(Session::new(&context), &unet, &weights(&unet), [IMAGES, 8, 8], false).expect("it fits");
    let start = generated(&context, &unet, Program::Steps(Vec::new()));
    assert!((rms(&start) - 1.0).abs() < 0.2, "noise of deviation 1");
    let kinds = [
        SamplerKind::Ddim { eta: 0.0 },
        SamplerKind::Ddpm { variance: Variance::FixedSmall },
        SamplerKind::DpmSolver,
        SamplerKind::UniPc,
    ];
    let mut all: f64 = 0.0;
    for (kind, clip) in kinds.into_iter().flat_map(|kind| [(kind, None), (kind, Some(1.0))]) {
        let sampler = |prediction| Sampler { prediction, clip, ..Sampler::new(kind, 10) };
        let program = |prediction, schedule: &Schedule| sampler(prediction).program(schedule).expect("they fit");
        let images = generated(&context, &unet, program(Prediction::Eps, &schedule));
        let all_views = PATHS.into_iter().flat_map(|path| Prediction::ALL.map(|target| (path, target)));
        // All thirty by the simplest rule, every seventh by the others: each path and five targets.
        let stride = if kind == kinds[0] { 1 } else { 7 };
        for (path, prediction) in all_views.step_by(stride) {
            let view = schedule.along(path);
            let program = program(prediction, &view);
            let dispatch = Dispatch::new(&context);
            let first = program.start();
            let scale = first.alpha * (1.0 + first.kappa() * first.kappa()).sqrt();
            dispatch.write("x", &start.iter().map(|x| scale * x).collect::<Vec<_>>());
            let mut device = View { network: &network, dispatch, prediction, path, number: 0 };
            program.run(&mut device).expect("the device works");
            let error = apart(&device.dispatch.read("x"), &images, rms(&images));
            all = all.max(error);
            assert!(error < 2e-5, "{} {clip:?} {path:?} {prediction:?}: {error:.1e}", kind.name());
        }
    }
    println!("worst: {all:.1e}");
}

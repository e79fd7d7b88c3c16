//! Who joins a private step, and its noise: all that is drawn in secret.

use super::private::{Mechanism, Units};
use crate::gpu::Step;
use crate::nn::Params;
use crate::secret::{Purpose, Secret};

/// A place of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose image it is, if it is taken; else any.
    pub image: u32,
    pub is_taken: bool,
    /// Of what is drawn for it: timesteps, noise, flips, hidden classes.
    pub key: [u32; 2],
}

/// Which images join step `step`, in all its places. Each does with the same probability by a coin of its own; of more than there are
/// places a random part stays.
pub fn draw_places(mechanism: &Mechanism, secret: &Secret, step: u64) -> Vec<Place> {
    let mut coins = secret.stream(Purpose::Coins, 0, step);
    let sampling = mechanism.sampling();
    let mut joining: Vec<u32> = (0..mechanism.images as u32).filter(|_| coins.coin(sampling)).collect();
    let places = mechanism.places as usize;
    if joining.len() > places {
        secret.stream(Purpose::Truncation, 0, step).choose(&mut joining, places);
    }
    let mut keys = secret.stream(Purpose::Places, 0, step);
    let place = |index: usize| Place {
        image: joining.get(index).copied().unwrap_or(0),
        is_taken: index < joining.len(),
        key: [keys.word(), keys.word()],
    };
    (0..places).map(place).collect()
}

/// Numbers of the noise that come out of one stream.
const PART: usize = 1 << 16;

/// The noise of step `step` in units, words of two's complement, into the elements `learnt` of `noise`: padding gets none.
pub fn draw_noise(units: &Units, secret: &Secret, step: u64, learnt: &[u32], noise: &mut [u32]) {
    for (part, learnt) in learnt.chunks(PART).enumerate() {
        let mut stream = secret.stream(Purpose::Noise, part as u32, step);
        learnt.iter().for_each(|at| noise[*at as usize] = stream.rounded_normal(units.exponent) as u32);
    }
}

/// Which elements of a flat buffer are learnt numbers.
pub fn learnt(params: &Params) -> Vec<u32> {
    let mut is_learnt = vec![0.0; params.elements as usize];
    params.all.iter().for_each(|parameter| parameter.pack(&vec![1.0; parameter.len()], &mut is_learnt));
    (0..params.elements as u32).filter(|at| is_learnt[*at as usize] != 0.0).collect()
}

/// Steps whose sizes are remembered: more than are under way at once.
const REMEMBERED: usize = 8;

/// What the steps of a run draw.
pub struct Lottery {
    mechanism: Mechanism,
    secret: Secret,
    learnt: Vec<u32>,
    /// The step (from 0) that is drawn, its places and its noise.
    drawn: Option<u64>,
    places: Vec<Place>,
    noise: Vec<u32>,
    /// Images of the last steps.
    sizes: Vec<(u64, u32)>,
}

impl Lottery {
    /// Nothing is drawn yet.
    pub fn new(mechanism: Mechanism, secret: Secret, params: &Params) -> Lottery {
        let noise = vec![0; params.elements as usize];
        Lottery { mechanism, secret, learnt: learnt(params), drawn: None, places: Vec::new(), noise, sizes: Vec::new() }
    }

    pub fn mechanism(&self) -> &Mechanism {
        &self.mechanism
    }

    /// Draws step `step` unless it is drawn.
    pub fn draw(&mut self, step: u64) {
        if self.drawn != Some(step) {
            self.places = draw_places(&self.mechanism, &self.secret, step);
            draw_noise(&self.mechanism.units, &self.secret, step, &self.learnt, &mut self.noise);
            self.note(step);
        }
    }

    /// For tests: what step `step` shall have drawn.
    pub fn force(&mut self, step: u64, places: Vec<Place>, noise: Vec<u32>) {
        assert_eq!((places.len(), noise.len()), (self.mechanism.places as usize, self.noise.len()));
        (self.places, self.noise) = (places, noise);
        self.note(step);
    }

    fn note(&mut self, step: u64) {
        self.drawn = Some(step);
        let taken = self.places.iter().filter(|place| place.is_taken).count() as u32;
        self.sizes.retain(|(before, _)| *before != step);
        if self.sizes.len() == REMEMBERED {
            self.sizes.remove(0);
        }
        self.sizes.push((step, taken));
    }

    /// Of the step that is drawn.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Of the step that is drawn, for the flat buffer of the sum.
    pub fn noise(&self) -> &[u32] {
        &self.noise
    }

    /// For tests: whether these bytes hold the key of all that is drawn.
    pub fn secret_is_in(&self, bytes: &[u8]) -> bool {
        self.secret.is_in(bytes)
    }

    /// How many images joined one of the last steps. A secret.
    pub fn size(&self, step: u64) -> u32 {
        self.sizes.iter().find(|(own, _)| *own == step).map_or(0, |(_, taken)| *taken)
    }

    /// Says in the step's uniform what is computed in a place.
    pub fn set_place(&self, place: u64, values: &mut Step) {
        let Place { image, is_taken, key: [seed, counter] } = self.places[place as usize];
        values
            .set("record", image.into())
            .set("taken", f64::from(u8::from(is_taken)))
            .set("seed", seed.into())
            .set("counter", counter.into());
    }
}

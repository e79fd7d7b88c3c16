//! Samplers that use estimates of x0 of earlier steps or evaluations: Heun, DPM-Solver++(2M) and its SDE form, UniPC.
//!
//! They are written in lambda = -ln kappa and in estimates of x0 ("data prediction"). Slot 0 holds the last estimate,
//! slot 1 the one before.

use super::ancestral::pairs;
use super::path::{Level, Transition};
use super::schedule::Schedule;
use super::step::Step;
use super::step::{Estimate, Form};

/// Noise that Heun's sampler adds before a step (Karras et al. 2022, Algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// S_churn: 0 is deterministic.
    pub amount: f64,
    /// S_tmin: no noise below this kappa.
    pub min: f64,
    /// S_tmax: no noise above this kappa.
    pub max: f64,
    /// S_noise: the noise's standard deviation, 1 where the network's error isn't to be countered.
    pub noise: f64,
}

impl Default for Churn {
    fn default() -> Churn {
        Churn { amount: 0.0, min: 0.0, max: f64::INFINITY, noise: 1.0 }
    }
}

impl Churn {
    /// The level at which the step of `steps` that stands at `level` begins, and the kappa of the noise up to there.
    /// Not above the schedule's noisiest level: the network knows nothing there.
    fn raise(&self, level: Level, steps: usize, schedule: &Schedule) -> (Level, f64) {
        let kappa = level.kappa();
        let gamma = match (self.min..=self.max).contains(&kappa) {
            true => (self.amount / steps as f64).min(2f64.sqrt() - 1.0),
            false => 0.0,
        };
        let raised = (kappa * (1.0 + gamma)).min(schedule.kappas().1);
        if raised <= kappa {
            return (level, 0.0);
        }
        (schedule.level_of(raised), self.noise * (raised * raised - kappa * kappa).sqrt())
    }
}

/// Heun's rule on dy/dkappa = eps with churn (Karras et al. 2022, Algorithm 2): two evaluations a step, one in the last.
///
/// The noise of a step is added at the end of the one before.
pub(super) fn heun(estimate: Estimate, levels: &[Level], churn: Churn, schedule: &Schedule) -> Vec<Step> {
    let raised: Vec<(Level, f64)> = levels.iter().map(|level| churn.raise(*level, levels.len(), schedule)).collect();
    let mut steps = Vec::new();
    for (i, Transition { to, .. }) in pairs(levels).enumerate() {
        // x starts as noise, of the first level's deviation: nothing is to be added there.
        let from = if i == 0 { levels[0] } else { raised[i].0 };
        if to.sigma == 0.0 {
            steps.push(estimate.last(from));
            break;
        }
        let (kappa, next) = (from.kappa(), to.kappa());
        let euler = Form::X * (1.0 / from.alpha) + (next - kappa) * Form::eps(from);
        steps.push(estimate.step(from, to, to.alpha * euler, 0.0));
        // y before Euler's rule, out of y' behind it and the estimate of x0 that it used: y' = r y + (1 - r) x0.
        let ratio = next / kappa;
        let before = (Form::X * (1.0 / to.alpha) - (1.0 - ratio) * Form::slot(0)) * (1.0 / ratio);
        let slope = (before - Form::slot(0)) * (1.0 / kappa);
        let y = before + (0.5 * (next - kappa)) * (slope + Form::eps(to));
        let (raised, noise) = raised[i + 1];
        steps.push(estimate.step(to, raised, raised.alpha * y, raised.alpha * noise));
    }
    steps
}

fn lambda(level: Level) -> f64 {
    -level.kappa().ln()
}

/// The estimate of x0 half a step on, by the line through this one and the last: D of Lu et al. 2022b, eq. 12 and
/// Algorithm 2. `r` is the last step's length over this one's.
fn extrapolated(r: f64) -> Form {
    (1.0 + 0.5 / r) * Form::X0 - (0.5 / r) * Form::slot(0)
}

/// What the multistep samplers of second order share: `rule(transition, h, estimate)` is (x', noise). The first step has
/// no estimate before it; the last goes to x0_hat.
fn second_order(
    estimate: Estimate,
    levels: &[Level],
    rule: impl Fn(Transition, f64, Form) -> (Form, f64),
) -> Vec<Step> {
    let mut length = None;
    let step = |transition: Transition| {
        let Transition { from, to } = transition;
        if to.sigma == 0.0 {
            return estimate.last(from);
        }
        let h = lambda(to) - lambda(from);
        let x0 = length.map_or(Form::X0, |last: f64| extrapolated(last / h));
        length = Some(h);
        let (form, noise) = rule(transition, h, x0);
        estimate.step(from, to, form, noise)
    };
    pairs(levels).map(step).collect()
}

/// DPM-Solver++(2M): x' = sigma' / sigma · x - alpha' (e^-h - 1) · D (Lu et al. 2022b, Algorithm 2).
pub(super) fn dpm_solver(estimate: Estimate, levels: &[Level]) -> Vec<Step> {
    second_order(estimate, levels, |Transition { from, to }, h, x0| {
        (to.sigma / from.sigma * Form::X - to.alpha * (-h).exp_m1() * x0, 0.0)
    })
}

/// SDE-DPM-Solver++(2M): x' = sigma' / sigma · e^-h · x + alpha' (1 - e^-2h) · D + sigma' sqrt(1 - e^-2h) · z
/// (Lu et al. 2022b, eq. 19 and the second-order form behind it).
pub(super) fn dpm_solver_sde(estimate: Estimate, levels: &[Level]) -> Vec<Step> {
    second_order(estimate, levels, |Transition { from, to }, h, x0| {
        let decay = -(-2.0 * h).exp_m1();
        let form = to.sigma / from.sigma * (-h).exp() * Form::X + to.alpha * decay * x0;
        (form, to.sigma * decay.sqrt())
    })
}

/// UniPC-2 with B(h) = e^h - 1 in data prediction (Zhao et al. 2023, eq. 3 to 9 and Algorithms 1 and 2): every
/// evaluation first corrects the step that led to it, then predicts the next.
pub(super) fn unipc(estimate: Estimate, levels: &[Level]) -> Vec<Step> {
    let transitions: Vec<Transition> = pairs(levels).collect();
    let mut steps: Vec<Step> = Vec::new();
    for (i, Transition { from, to }) in transitions.iter().copied().enumerate() {
        // x as UniC corrects it.
        let mut x = Form::X;
        if i > 0 {
            let last = transitions[i - 1];
            let earlier = (i > 1).then(|| transitions[i - 2]);
            // The predictor is a sum of the corrected x before it and of estimates that the slots still hold.
            let predicted = predict(last, earlier, Form::default(), Form::slot(0), Form::slot(1));
            let before = (Form::X - predicted) * (last.from.sigma / last.to.sigma);
            x = correct(last, earlier, before);
        }
        if to.sigma == 0.0 {
            steps.push(estimate.last(from));
            break;
        }
        let earlier = (i > 0).then(|| transitions[i - 1]);
        let form = predict(Transition { from, to }, earlier, x, Form::X0, Form::slot(0));
        // Slots take turns, so that both of the last estimates are there; forms say 0 for the younger one.
        steps.push(take_turns(estimate.step(from, to, form, 0.0), i));
    }
    steps
}

/// Step `i` writes slot i mod 2: the younger of the last two estimates, slot 0 of the form, lies in the other one.
fn take_turns(step: Step, i: usize) -> Step {
    let mut previous = step.previous;
    if i.is_multiple_of(2) {
        previous.swap(0, 1);
    }
    Step { previous, keep: Some(i % 2), ..step }
}

/// h and the last step's length as a multiple of it, below 0 for it lies behind.
fn lengths(transition: Transition, earlier: Option<Transition>) -> (f64, Option<f64>) {
    let h = lambda(transition.to) - lambda(transition.from);
    (h, earlier.map(|earlier| (lambda(earlier.from) - lambda(transition.from)) / h))
}

/// UniP-2: x' = sigma' / sigma · x - alpha' (e^-h - 1) (D + (D_before - D) / (2 r)) (Zhao et al. 2023, Algorithm 2).
fn predict(transition: Transition, earlier: Option<Transition>, x: Form, x0: Form, before: Form) -> Form {
    let (h, r) = lengths(transition, earlier);
    let difference = r.map_or(Form::default(), |r| (before - x0) * (0.5 / r));
    let Transition { from, to } = transition;
    to.sigma / from.sigma * x - to.alpha * (-h).exp_m1() * (x0 + difference)
}

/// UniC-2, which also uses the estimate at the level reached: the weights solve Zhao et al. 2023, eq. 9 with two points,
/// or one of weight 1/2 behind the first step.
fn correct(transition: Transition, earlier: Option<Transition>, x: Form) -> Form {
    let (h, r) = lengths(transition, earlier);
    let Transition { from, to } = transition;
    let (last, growth) = (Form::slot(0), (-h).exp_m1());
    let reached = Form::X0 - last;
    let differences = match r {
        None => 0.5 * reached,
        Some(r) => {
            // phi_2 and phi_3 of -h, each with its factorial and over B(h) = e^-h - 1.
            let second = growth / -h - 1.0;
            let third = second / -h - 0.5;
            let (b1, b2) = (second / growth, 2.0 * third / growth);
            // rho_1 + rho_2 = b1 and r rho_1 + rho_2 = b2.
            let rho = (b1 - b2) / (1.0 - r);
            (Form::slot(1) - last) * (rho / r) + (b1 - rho) * reached
        }
    };
    to.sigma / from.sigma * x - to.alpha * growth * (last + differences)
}

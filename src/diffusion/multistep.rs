//! Samplers that use estimates of x0 of earlier steps or evaluations: Heun, DPM-Solver++(2M) and its SDE form, UniPC.
//!
//! They are written in lambda = -ln kappa and in estimates of x0 ("data prediction"). The slots that hold the last
//! estimates take turns.

use super::ancestral::pairs;
use super::path::{Level, Transition};
use super::schedule::Schedule;
use super::step::Step;
use super::step::{Estimate, Form};

/// What DPM-Solver++ and UniPC leave to choose. The default is of second order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solver {
    /// Order of the steps, 1 to 3, as far as there are estimates behind them.
    pub order: usize,
    /// DPM-Solver++ of second order: the difference is weighted as an exponential integrator has it (diffusers' `heun`), not
    /// as at the step's middle.
    pub exact_weights: bool,
    /// UniPC: B(h) = h instead of e^h - 1 (Zhao et al. 2023, section 3.2; diffusers' `bh1`).
    pub linear_scale: bool,
    /// The last steps are of lower order: DPM-Solver++ with less than 15 steps (Lu et al. 2022b, section 4), UniPC always.
    pub lower_at_end: bool,
    /// DPM-Solver++: the last step is of first order.
    pub euler_at_end: bool,
    /// UniPC: a bit for each step, from the lowest on, that isn't corrected (`disable_corrector`).
    pub uncorrected: u64,
}

impl Default for Solver {
    fn default() -> Solver {
        Solver {
            order: 2,
            exact_weights: false,
            linear_scale: false,
            lower_at_end: true,
            euler_at_end: false,
            uncorrected: 0,
        }
    }
}

impl Solver {
    /// DPM-Solver++'s order of step `i` of `count`, if it doesn't lead to x0.
    fn order_of(&self, i: usize, count: usize) -> usize {
        let lower = self.lower_at_end && count < 15;
        match count - 1 - i {
            0 if lower || self.euler_at_end => 1,
            1 if lower => self.order.min(i + 1).min(2),
            _ => self.order.min(i + 1),
        }
    }

    /// Whether UniPC corrects step `i` once the next one's estimate is there.
    fn corrects(&self, i: usize) -> bool {
        i >= 64 || (self.uncorrected >> i) & 1 == 0
    }

    /// UniPC's.
    fn unipc_order(&self, i: usize, count: usize) -> usize {
        let left = if self.lower_at_end { count - i } else { usize::MAX };
        self.order.min(i + 1).min(left)
    }
}

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
    let raised: Vec<(Level, f64)> =
        levels.iter().map(|level| churn.raise(*level, levels.len() - 1, schedule)).collect();
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
        steps.push(Step { keep_x: Some(1), ..estimate.step(from, to, to.alpha * euler, 0.0) });
        // y before Euler's rule, and its slope there out of the estimate of x0 that it used.
        let before = Form::slot(1) * (1.0 / from.alpha);
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

/// The estimate of x0 of `back` steps before step `i`, where `count` slots take turns: step i writes slot i mod count.
fn estimate_before(i: usize, back: usize, count: usize) -> Form {
    if back == 0 { Form::X0 } else { Form::slot((i - back) % count) }
}

/// Lengths in lambda: of step `i`, and of the two before it as multiples of it.
struct Lengths {
    h: f64,
    r: [f64; 2],
}

impl Lengths {
    fn new(transitions: &[Transition], i: usize) -> Lengths {
        let length = |i: usize| lambda(transitions[i].to) - lambda(transitions[i].from);
        let h = length(i);
        let r = [1, 2].map(|back| i.checked_sub(back).map_or(f64::NAN, |before| length(before) / h));
        Lengths { h, r }
    }
}

/// DPM-Solver++ of `solver`'s order, 2M with the default (Lu et al. 2022b, Algorithm 2; third order: appendix A.2 there for the
/// weights, over multistep differences), or if `noisy` its SDE form (eq. 19 and the second-order form behind it):
///
/// ```text
/// x' = sigma' / sigma · x + alpha' w · D0 + alpha' (w1 · D1 + w2 · D2)                            w = 1 - e^-h
/// x' = sigma' / sigma · e^-h · x + alpha' w · D0 + alpha' (w1 · D1 + w2 · D2) + sigma' sqrt(w) z    w = 1 - e^-2h
/// ```
///
/// D1 and D2 are the first and second difference of the estimates of x0 over the steps' lengths.
pub(super) fn dpm_solver(estimate: Estimate, levels: &[Level], solver: Solver, noisy: bool) -> Vec<Step> {
    let transitions: Vec<Transition> = pairs(levels).collect();
    let (count, slots) = (transitions.len(), solver.order.max(2) - 1);
    let step = |(i, Transition { from, to }): (usize, &Transition)| {
        let keep = Some(i % slots);
        if to.sigma == 0.0 {
            return Step { keep, ..estimate.last(*from) };
        }
        let lengths = Lengths::new(&transitions, i);
        let h = lengths.h;
        if h == 0.0 {
            return Step { keep, ..estimate.step(*from, *to, Form::X, 0.0) };
        }
        let (decay, rate, noise) = match noisy {
            true => ((-h).exp(), 2.0, to.sigma * (-(-2.0 * h).exp_m1()).sqrt()),
            false => (1.0, 1.0, 0.0),
        };
        let w = -(-rate * h).exp_m1();
        let before = |back| estimate_before(i, back, slots);
        let x0 = match solver.order_of(i, count) {
            1 => w * Form::X0,
            order => w * Form::X0 + differences(order, &lengths, rate, solver.exact_weights, before),
        };
        let form = to.sigma / from.sigma * decay * Form::X + to.alpha * x0;
        Step { keep, ..estimate.step(*from, *to, form, noise) }
    };
    transitions.iter().enumerate().map(step).collect()
}

/// w1 · D1 + w2 · D2 of [`dpm_solver`], with w = 1 - e^(-rate h).
fn differences(order: usize, lengths: &Lengths, rate: f64, exact: bool, before: impl Fn(usize) -> Form) -> Form {
    let (h, [r0, r1]) = (rate * lengths.h, lengths.r);
    let w = -(-h).exp_m1();
    let last = (before(0) - before(1)) * (1.0 / r0);
    if order == 2 {
        return (if exact { 1.0 - w / h } else { 0.5 * w }) * last;
    }
    let bend = last - (before(1) - before(2)) * (1.0 / r1);
    let (first, second) = (last + r0 / (r0 + r1) * bend, (1.0 / (r0 + r1)) * bend);
    (1.0 - w / h) * first + ((w - h) / (h * h) + 0.5) * second
}

/// UniPC of `solver`'s order in data prediction, UniPC-2 with B(h) = e^h - 1 by default (Zhao et al. 2023, eq. 3 to 9 and
/// Algorithms 1 and 2): every evaluation first corrects the step that led to it, then predicts the next.
pub(super) fn unipc(estimate: Estimate, levels: &[Level], solver: Solver) -> Vec<Step> {
    let transitions: Vec<Transition> = pairs(levels).collect();
    let count = transitions.len();
    let mut steps: Vec<Step> = Vec::new();
    for (i, Transition { from, to }) in transitions.iter().copied().enumerate() {
        // Where step i - 1 stands when step i begins: its estimates are in the slots.
        let before = |back| estimate_before(i, back, solver.order);
        // x as UniC corrects it.
        let mut x = Form::X;
        if i > 0 && solver.corrects(i - 1) {
            let last = Unified::new(&transitions, i - 1, solver.unipc_order(i - 1, count), solver.linear_scale);
            // The predictor is a sum of the corrected x before it and of estimates that the slots still hold.
            let predicted = last.predict(Form::default(), |back| before(back + 1));
            let corrected = (Form::X - predicted) * (last.transition.from.sigma / last.transition.to.sigma);
            x = last.correct(corrected, |back| before(back + 1));
        }
        let keep = Some(i % solver.order);
        if to.sigma == 0.0 {
            // UniP-1 to where there is no noise is the estimate of x0.
            steps.push(Step { keep, ..estimate.last(from) });
            break;
        }
        let next = Unified::new(&transitions, i, solver.unipc_order(i, count), solver.linear_scale);
        steps.push(Step { keep, ..estimate.step(from, to, next.predict(x, before), 0.0) });
    }
    steps
}

/// A step of UniPC, with -h for h in data prediction (Zhao et al. 2023, eq. 9 and appendix B).
struct Unified {
    transition: Transition,
    order: usize,
    h: f64,
    /// B(h).
    scale: f64,
    /// Where the estimates before the step's first lie, in multiples of h: below 0.
    r: [f64; 2],
}

impl Unified {
    fn new(transitions: &[Transition], i: usize, order: usize, linear_scale: bool) -> Unified {
        let transition = transitions[i];
        let (start, h) = (lambda(transition.from), lambda(transition.to) - lambda(transition.from));
        let r = [1, 2].map(|back| match i.checked_sub(back) {
            Some(before) => (lambda(transitions[before].from) - start) / h,
            None => f64::NAN,
        });
        let scale = if linear_scale { -h } else { (-h).exp_m1() };
        Unified { transition, order, h, scale, r }
    }

    /// x' without differences: sigma' / sigma · x - alpha' (e^-h - 1) · D.
    fn first_order(&self, x: Form, last: Form) -> Form {
        let Transition { from, to } = self.transition;
        to.sigma / from.sigma * x - to.alpha * (-self.h).exp_m1() * last
    }

    /// (D_k - D) / r_k, the estimates by `estimate` as many steps back.
    fn difference(&self, back: usize, estimate: impl Fn(usize) -> Form) -> Form {
        (estimate(back) - estimate(0)) * (1.0 / self.r[back - 1])
    }

    /// The k-th right-hand side of eq. 9: phi_(k+1) · k! · h^k / B.
    fn right_side(&self, count: usize) -> Vec<f64> {
        let (h, mut factorial) = (-self.h, 1.0);
        let mut phi = h.exp_m1() / h - 1.0;
        (1..=count)
            .map(|k| {
                let side = phi * factorial / self.scale;
                factorial *= (k + 1) as f64;
                phi = phi / h - 1.0 / factorial;
                side
            })
            .collect()
    }

    /// UniP: x' - alpha' B Σ rho_k (D_k - D) / r_k (Zhao et al. 2023, Algorithm 2).
    fn predict(&self, x: Form, estimate: impl Fn(usize) -> Form) -> Form {
        let base = self.first_order(x, estimate(0));
        let weights = match self.order {
            _ if self.h == 0.0 => Vec::new(),
            1 => Vec::new(),
            2 => vec![0.5],
            order => solve(&self.r[..order - 1], &self.right_side(order - 1)),
        };
        let sum = |sum: Form, (k, rho): (usize, &f64)| sum + *rho * self.difference(k + 1, &estimate);
        base - self.transition.to.alpha * self.scale * weights.iter().enumerate().fold(Form::default(), sum)
    }

    /// UniC, which also uses the estimate at the level reached, X0 (Zhao et al. 2023, Algorithm 1): one point has weight 1/2.
    fn correct(&self, x: Form, estimate: impl Fn(usize) -> Form) -> Form {
        if self.h == 0.0 {
            return x;
        }
        let weights = match self.order {
            1 => vec![0.5],
            order => {
                let points: Vec<f64> = self.r[..order - 1].iter().copied().chain([1.0]).collect();
                solve(&points, &self.right_side(order))
            }
        };
        let (reached, earlier) = (weights[self.order - 1], &weights[..self.order - 1]);
        let sum = |sum: Form, (k, rho): (usize, &f64)| sum + *rho * self.difference(k + 1, &estimate);
        let differences = earlier.iter().enumerate().fold(reached * (Form::X0 - estimate(0)), sum);
        self.first_order(x, estimate(0)) - self.transition.to.alpha * self.scale * differences
    }
}

/// The weights w of up to 3 points with Σ w_k point_k^(i - 1) = side_i, by Lagrange's polynomials: those of
/// point k, of coefficients c, give w_k = Σ c_i side_i.
fn solve(points: &[f64], sides: &[f64]) -> Vec<f64> {
    let weight = |k: usize| {
        let mut polynomial = vec![1.0];
        for (_, point) in points.iter().enumerate().filter(|(i, _)| *i != k) {
            // Times (x - point) / (points[k] - point).
            let mut next = vec![0.0; polynomial.len() + 1];
            for (i, coefficient) in polynomial.iter().enumerate() {
                next[i] -= point * coefficient / (points[k] - point);
                next[i + 1] += coefficient / (points[k] - point);
            }
            polynomial = next;
        }
        polynomial.iter().zip(sides).map(|(coefficient, side)| coefficient * side).sum()
    };
    (0..points.len()).map(weight).collect()
}

//! Twins of `shaders/private.wgsl`.

use super::Call;

pub fn clip(call: &mut Call) {
    let (total, loss_scale) = (call.read("total").data[0], call.read("loss_scale").data[0]);
    let [scale, limit] = ["scale", "limit"].map(|name| call.f(name));
    let mut factor = call.zeros("factor");
    if total.is_finite() && call.step("taken") != 0.0 {
        factor.data[0] = scale.min(limit / total.sqrt()) / loss_scale;
    }
    call.write("factor", factor);
}

/// Whole numbers must be equal: the product is that of single precision, rounded as IEEE 754 has it, ties to the even one.
pub fn add(call: &mut Call) {
    let factor = call.read("factors").data[0] as f32;
    let mut sum = call.read("sum").clone();
    for (word, g) in sum.data.iter_mut().zip(&call.read("gradient").data) {
        let g = if g.is_finite() { *g as f32 } else { 0.0 };
        let whole = (factor * g).round_ties_even() as i64;
        *word = ((*word as i64 + whole) as u32).into();
    }
    call.write("sum", sum);
}

pub fn release(call: &mut Call) {
    let mut noisy = call.zeros("noisy");
    for (noisy, word) in noisy.data.iter_mut().zip(&call.read("words").data) {
        *noisy = call.f("scale") * f64::from(*word as u32 as i32);
    }
    call.write("noisy", noisy);
}

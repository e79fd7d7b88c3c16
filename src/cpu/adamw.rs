//! Twins of `shaders/adamw.wgsl`.

use super::Call;

/// The shader's lane `lane` of group `group` sums quadruples 4096 group + lane, + 64, + 128, ...: 64 of them.
pub fn square_sum(call: &mut Call) {
    let gradient = call.read("gradient");
    let scale = call.read("loss_scale").data[0];
    let mut partials = call.zeros("partials");
    for (i, g) in gradient.data.iter().enumerate() {
        let quad = i / 4;
        partials.data[quad / 4096 * 64 + quad % 64] += (g / scale).powi(2);
    }
    call.write("partials", partials);
}

pub fn update(call: &mut Call) {
    let (total, loss_scale) = (call.read("total").data[0], call.read("loss_scale").data[0]);
    if !total.is_finite() {
        return;
    }
    let [scale, max_norm, beta1, beta2] = ["scale", "max_norm", "beta1", "beta2"].map(|name| call.f(name));
    let [fresh1, fresh2] = ["one_minus_beta1", "one_minus_beta2"].map(|name| call.f(name));
    let [eps, weight_decay] = ["eps", "weight_decay"].map(|name| call.f(name));
    let [learning_rate, decay] = ["learning_rate", "ema_decay"].map(|name| call.step(name));
    let [correction1, correction2] = ["bias_correction1", "bias_correction2"].map(|name| call.step(name));
    let clip = if max_norm == 0.0 { 1.0 } else { (max_norm / (total.sqrt() * scale + 1e-6)).min(1.0) };
    let [mut weights, mut m, mut v, mut ema] = ["weights", "m", "v", "ema"].map(|name| call.read(name).clone());
    for (i, g) in call.read("gradient").data.iter().enumerate() {
        let g = g * scale * clip / loss_scale;
        m.data[i] = beta1 * m.data[i] + fresh1 * g;
        v.data[i] = beta2 * v.data[i] + fresh2 * g.powi(2);
        let deviation = (v.data[i] / correction2).sqrt();
        let w = &mut weights.data[i];
        *w *= 1.0 - learning_rate * weight_decay;
        *w -= learning_rate * (m.data[i] / correction1) / (deviation + eps);
        ema.data[i] = *w + decay * (ema.data[i] - *w);
    }
    for (name, array) in [("weights", weights), ("m", m), ("v", v), ("ema", ema)] {
        call.write(name, array);
    }
}

pub fn adjust_scale(call: &mut Call) {
    let mut state = call.read("state").clone();
    let [scale, good, ..] = state.data[..] else { unreachable!("two numbers, padded") };
    let grown = good + 1.0 >= call.f("interval");
    (state.data[0], state.data[1]) = match call.read("total").data[0].is_finite() {
        false => ((scale / 2.0).max(1.0), 0.0),
        true if grown => ((scale * 2.0).min(call.f("most")), 0.0),
        true => (scale, good + 1.0),
    };
    call.write("state", state);
}

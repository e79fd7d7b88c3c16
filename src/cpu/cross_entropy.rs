//! Twin of `shaders/cross_entropy.wgsl`.

use super::Call;

pub fn loss(call: &mut Call) {
    let (z, labels, factor) = (call.read("z"), call.read("labels"), call.f("factor"));
    let [mut dz, mut losses] = ["dz", "losses"].map(|name| call.zeros(name));
    for n in 0..z.shape[0] {
        let (logits, label) = (&z.row(n)[..z.shape[3]], labels.data[n] as usize);
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - highest).exp()).sum();
        losses.data[n] = factor * (sum.ln() - (logits[label] - highest));
        for (k, (dz, logit)) in dz.row_mut(n).iter_mut().zip(logits).enumerate() {
            let one_hot = if k == label { 1.0 } else { 0.0 };
            *dz = factor * ((logit - highest).exp() / sum - one_hot);
        }
    }
    call.write("dz", dz);
    call.write("losses", losses);
}

//! Twins of `shaders/group_norm.wgsl`.

use super::{Array, Call, silu};

/// Element of a tensor of images, rows and channels.
fn element(call: &Call, x: &Array, image: usize, row: usize, c: usize) -> f64 {
    x.row(image * call.u("rows") + row)[c]
}

/// The rows of a chunk.
fn rows_of(call: &Call, chunk: usize) -> std::ops::Range<usize> {
    let first = chunk * call.u("chunk");
    first..(first + call.u("chunk")).min(call.u("rows"))
}

/// Calls `visit(image, chunk, channel)` for all.
fn for_each_chunk(call: &Call, mut visit: impl FnMut(usize, usize, usize)) {
    for image in 0..call.u("images") {
        for chunk in 0..call.u("chunks") {
            (0..call.u("channels")).for_each(|c| visit(image, chunk, c));
        }
    }
}

pub fn chunk_moments(call: &mut Call) {
    let x = call.read("x");
    let mut moments = call.zeros("moments");
    for_each_chunk(call, |image, chunk, c| {
        let values: Vec<f64> = rows_of(call, chunk).map(|row| element(call, x, image, row, c)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        *moments.at_mut(image, chunk, 0, c) = mean;
        *moments.at_mut(image, chunk, 1, c) = values.iter().map(|v| (v - mean).powi(2)).sum();
    });
    call.write("moments", moments);
}

/// Mean and 1 / sqrt(variance + eps) of the group of channel `c`: E[x^2] - E[x]^2, since f64 can afford it.
fn statistics(call: &Call, image: usize, c: usize) -> (f64, f64) {
    let moments = call.read("chunk_table");
    let group = call.u("group_channels");
    let first = c / group * group;
    let (mut sum, mut square, mut count) = (0.0, 0.0, 0.0);
    for chunk in 0..call.u("chunks") {
        let rows = rows_of(call, chunk).len() as f64;
        for c in first..first + group {
            let mean = moments.at(image, chunk, 0, c);
            sum += rows * mean;
            square += moments.at(image, chunk, 1, c) + rows * mean * mean;
            count += rows;
        }
    }
    let mean = sum / count;
    (mean, 1.0 / (square / count - mean * mean + call.f("eps")).sqrt())
}

fn write_affine(call: &mut Call, slope_and_offset: impl Fn(&Call, usize, usize) -> (f64, f64)) {
    let mut table = call.zeros("table");
    for image in 0..call.u("images") {
        for c in 0..call.u("channels") {
            let (mean, rstd) = statistics(call, image, c);
            let (a, b) = slope_and_offset(call, image, c);
            for (row, value) in [mean, rstd, a, b].into_iter().enumerate() {
                *table.at_mut(image, 0, row, c) = value;
            }
        }
    }
    call.write("table", table);
}

pub fn affine(call: &mut Call) {
    write_affine(call, |call, _, c| (call.read("gamma").row(0)[c], call.read("beta").row(0)[c]));
}

/// Scale (0) or shift (1) of a channel of an image.
fn modulation(call: &Call, name: &str, image: usize, part: usize, c: usize) -> f64 {
    call.read(name).row(image)[4 * (call.u("modulation_first4") + part * call.u("c4")) + c]
}

pub fn affine_modulated(call: &mut Call) {
    write_affine(call, |call, image, c| {
        let (scale, shift) = (modulation(call, "modulation", image, 0, c), modulation(call, "modulation", image, 1, c));
        let (gamma, beta) = (call.read("gamma").row(0)[c], call.read("beta").row(0)[c]);
        (gamma * (1.0 + scale), beta * (1.0 + scale) + shift)
    });
}

pub fn apply(call: &mut Call) {
    let (x, table) = (call.read("x"), call.read("affine_table"));
    let mut y = call.zeros("y");
    for image in 0..call.u("images") {
        for row in 0..call.u("rows") {
            for c in 0..call.u("channels") {
                let [mean, rstd, a, b] = [0, 1, 2, 3].map(|i| table.at(image, 0, i, c));
                let u = (element(call, x, image, row, c) - mean) * rstd * a + b;
                y.row_mut(image * call.u("rows") + row)[c] = if call.flag("silu") { silu::value(u) } else { u };
            }
        }
    }
    call.write("y", y);
}

/// (xhat, du) of one element: the normalised input, and dy before the activation.
fn normalised(call: &Call, image: usize, row: usize, c: usize) -> (f64, f64) {
    let table = call.read("affine_table");
    let [mean, rstd, a, b] = [0, 1, 2, 3].map(|i| table.at(image, 0, i, c));
    let xhat = (element(call, call.read("x"), image, row, c) - mean) * rstd;
    let dy = element(call, call.read("dy"), image, row, c);
    (xhat, if call.flag("silu") { dy * silu::slope(xhat * a + b) } else { dy })
}

pub fn backward_sums(call: &mut Call) {
    let mut sums = call.zeros("sums");
    for_each_chunk(call, |image, chunk, c| {
        for row in rows_of(call, chunk) {
            let (xhat, du) = normalised(call, image, row, c);
            *sums.at_mut(image, chunk, 0, c) += du;
            *sums.at_mut(image, chunk, 1, c) += du * xhat;
        }
    });
    call.write("sums", sums);
}

pub fn backward_totals(call: &mut Call) {
    let (sums, table) = (call.read("chunk_table"), call.read("slopes"));
    let mut totals = call.zeros("totals");
    let group = call.u("group_channels");
    let size = (call.u("rows") * group) as f64;
    for_each_chunk(call, |image, chunk, c| {
        for i in 0..2 {
            let sum = sums.at(image, chunk, i, c);
            *totals.at_mut(image, 0, i, c) += sum;
            for other in c / group * group..(c / group + 1) * group {
                *totals.at_mut(image, 0, 2 + i, other) += table.at(image, 0, 2, c) * sum / size;
            }
        }
    });
    call.write("totals", totals);
}

pub fn backward_data(call: &mut Call) {
    let (table, totals) = (call.read("affine_table"), call.read("total_table"));
    let mut dx = call.zeros("dx");
    for image in 0..call.u("images") {
        for row in 0..call.u("rows") {
            for c in 0..call.u("channels") {
                let (xhat, du) = normalised(call, image, row, c);
                let (rstd, a) = (table.at(image, 0, 1, c), table.at(image, 0, 2, c));
                let (g1, g2) = (totals.at(image, 0, 2, c), totals.at(image, 0, 3, c));
                let around = if call.flag("added") { element(call, call.read("addend"), image, row, c) } else { 0.0 };
                dx.row_mut(image * call.u("rows") + row)[c] = rstd * (du * a - g1 - xhat * g2) + around;
            }
        }
    }
    call.write("dx", dx);
}

fn write_weight(call: &mut Call, factor: impl Fn(&Call, usize, usize) -> f64) {
    let totals = call.read("sum_table");
    let (mut dgamma, mut dbeta) = (call.zeros("dgamma"), call.zeros("dbeta"));
    for image in 0..call.u("images") {
        for c in 0..call.u("channels") {
            dbeta.data[c] += factor(call, image, c) * totals.at(image, 0, 0, c);
            dgamma.data[c] += factor(call, image, c) * totals.at(image, 0, 1, c);
        }
    }
    call.write("dgamma", dgamma);
    call.write("dbeta", dbeta);
}

pub fn backward_weight(call: &mut Call) {
    write_weight(call, |_, _, _| 1.0);
}

pub fn backward_weight_modulated(call: &mut Call) {
    write_weight(call, |call, image, c| 1.0 + modulation(call, "scales", image, 0, c));
}

pub fn backward_modulation(call: &mut Call) {
    let totals = call.read("sum_table");
    let (gamma, beta) = (call.read("gamma4").row(0), call.read("beta4").row(0));
    let mut dmodulation = call.read("dmodulation").clone();
    let first = 4 * call.u("modulation_first4");
    for image in 0..call.u("images") {
        // The padding, too.
        for c in 0..4 * call.u("c4") {
            let (s1, s2) = (totals.at(image, 0, 0, c), totals.at(image, 0, 1, c));
            let row = &mut dmodulation.row_mut(image)[first..];
            row[c] = gamma[c] * s2 + beta[c] * s1;
            row[4 * call.u("c4") + c] = s1;
        }
    }
    call.write("dmodulation", dmodulation);
}

//! Twins of `shaders/group_norm.wgsl` and what follows it in `group_norm.whole.wgsl`.

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

/// (scale, shift) of a channel of an image.
type Modulation = fn(&Call, usize, usize) -> (f64, f64);

fn unmodulated(_: &Call, _: usize, _: usize) -> (f64, f64) {
    (1.0, 0.0)
}

fn modulated(call: &Call, image: usize, c: usize) -> (f64, f64) {
    let row = &call.read("modulation").row(image)[4 * call.u("modulation_first4")..];
    (1.0 + row[c], row[4 * call.u("c4") + c])
}

/// Mean, rstd, a, b and scale of every channel, from statistics of an image and channel.
fn write_table(call: &mut Call, statistics: impl Fn(&Call, usize, usize) -> (f64, f64), modulation: Modulation) {
    let mut table = call.zeros("table");
    for image in 0..call.u("images") {
        for c in 0..call.u("channels") {
            let (mean, rstd) = statistics(call, image, c);
            let (scale, shift) = modulation(call, image, c);
            let (gamma, beta) = (call.read("gamma").row(0)[c], call.read("beta").row(0)[c]);
            let rows = [mean, rstd, gamma * scale, beta * scale + shift, scale];
            for (row, value) in rows.into_iter().enumerate() {
                *table.at_mut(image, 0, row, c) = value;
            }
        }
    }
    call.write("table", table);
}

pub fn affine(call: &mut Call) {
    write_table(call, statistics, unmodulated);
}

pub fn affine_modulated(call: &mut Call) {
    write_table(call, statistics, modulated);
}

pub fn apply(call: &mut Call) {
    let y = normalised_by(call, call.read("x"), call.read("affine_table"));
    call.write("y", y);
}

/// y of x by a table.
fn normalised_by(call: &Call, x: &Array, table: &Array) -> Array {
    let mut y = Array::zeros(x.shape);
    for image in 0..call.u("images") {
        for row in 0..call.u("rows") {
            for c in 0..call.u("channels") {
                let [mean, rstd, a, b] = [0, 1, 2, 3].map(|i| table.at(image, 0, i, c));
                let u = (element(call, x, image, row, c) - mean) * rstd * a + b;
                y.row_mut(image * call.u("rows") + row)[c] = if call.flag("silu") { silu::value(u) } else { u };
            }
        }
    }
    y
}

/// Mean and 1 / sqrt(variance + eps) of the group of channel `c` of an image of `x`.
fn whole_statistics(call: &Call, x: &Array, image: usize, c: usize) -> (f64, f64) {
    let group = call.u("group_channels");
    let first = c / group * group;
    let rows = 0..call.u("rows");
    let values: Vec<f64> =
        rows.flat_map(|row| (first..first + group).map(move |c| element(call, x, image, row, c))).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, 1.0 / (variance + call.f("eps")).sqrt())
}

fn forward_of(call: &mut Call, x: &Array, modulation: Modulation) {
    write_table(call, |call, image, c| whole_statistics(call, x, image, c), modulation);
    let y = normalised_by(call, x, call.read("table"));
    call.write("y", y);
}

pub fn forward(call: &mut Call) {
    let x = call.read("x").clone();
    forward_of(call, &x, unmodulated);
}

pub fn forward_modulated(call: &mut Call) {
    let x = call.read("x").clone();
    forward_of(call, &x, modulated);
}

pub fn forward_joined(call: &mut Call) {
    let (x, skip) = (call.read("x"), call.read("skip"));
    let mut joined = call.zeros("joined");
    for row in 0..joined.rows() {
        let to = joined.row_mut(row);
        to[..x.shape[3]].copy_from_slice(x.row(row));
        to[x.shape[3]..].copy_from_slice(skip.row(row));
    }
    forward_of(call, &joined, unmodulated);
    call.write("joined", joined);
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
    for_each_chunk(call, |image, chunk, c| {
        (0..2).for_each(|i| *totals.at_mut(image, 0, i, c) += sums.at(image, chunk, i, c));
    });
    let weight_sums = write_gradients(call, table, &mut totals);
    call.write("totals", totals);
    call.write("channel_weight_sums", weight_sums);
}

/// Of S1 and S2 in rows 0 and 1 of `totals`: puts G1 and G2 into rows 2 and 3. Gives each image's dgamma and dbeta.
fn write_gradients(call: &Call, table: &Array, totals: &mut Array) -> Array {
    let (images, channels, group) = (call.u("images"), call.u("channels"), call.u("group_channels"));
    let size = (call.u("rows") * group) as f64;
    let mut weight_sums = Array::zeros([2, images, 1, channels]);
    for image in 0..images {
        for c in 0..channels {
            let (a, scale) = (table.at(image, 0, 2, c), table.at(image, 0, 4, c));
            for i in 0..2 {
                let sum = totals.at(image, 0, i, c);
                *weight_sums.at_mut(1 - i, image, 0, c) = scale * sum;
                for other in c / group * group..(c / group + 1) * group {
                    *totals.at_mut(image, 0, 2 + i, other) += a * sum / size;
                }
            }
        }
    }
    weight_sums
}

/// rstd (du a - G1 - xhat G2) of every element.
fn gradient(call: &Call, totals: &Array) -> Array {
    let table = call.read("affine_table");
    let mut dx = call.zeros("x");
    for image in 0..call.u("images") {
        for row in 0..call.u("rows") {
            for c in 0..call.u("channels") {
                let (xhat, du) = normalised(call, image, row, c);
                let (rstd, a) = (table.at(image, 0, 1, c), table.at(image, 0, 2, c));
                let (g1, g2) = (totals.at(image, 0, 2, c), totals.at(image, 0, 3, c));
                dx.row_mut(image * call.u("rows") + row)[c] = rstd * (du * a - g1 - xhat * g2);
            }
        }
    }
    dx
}

fn add_to(dx: &mut Array, addend: &Array) {
    dx.data.iter_mut().zip(&addend.data).for_each(|(dx, addend)| *dx += addend);
}

/// Adds as many addends as there are.
fn add_addends(call: &Call, dx: &mut Array) {
    ["addend", "second_addend"].iter().take(call.u("added")).for_each(|name| add_to(dx, call.read(name)));
}

pub fn backward_data(call: &mut Call) {
    let mut dx = gradient(call, call.read("total_table"));
    add_addends(call, &mut dx);
    call.write("dx", dx);
}

fn write_modulation(call: &mut Call, totals: &Array) {
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

pub fn backward_modulation(call: &mut Call) {
    let totals = call.read("total_table").clone();
    write_modulation(call, &totals);
}

/// Writes each image's dgamma and dbeta; gives S1, S2, G1, G2 and dx without addends.
fn whole_gradient(call: &mut Call) -> (Array, Array) {
    let (images, channels) = (call.u("images"), call.u("channels"));
    let mut totals = Array::zeros([images, 1, 4, channels]);
    for image in 0..images {
        for row in 0..call.u("rows") {
            for c in 0..channels {
                let (xhat, du) = normalised(call, image, row, c);
                *totals.at_mut(image, 0, 0, c) += du;
                *totals.at_mut(image, 0, 1, c) += du * xhat;
            }
        }
    }
    let weight_sums = write_gradients(call, call.read("affine_table"), &mut totals);
    call.write("weight_sums", weight_sums);
    let dx = gradient(call, &totals);
    (totals, dx)
}

pub fn backward(call: &mut Call) {
    let (_, mut dx) = whole_gradient(call);
    add_addends(call, &mut dx);
    call.write("dx", dx);
}

pub fn backward_modulated(call: &mut Call) {
    let (totals, dx) = whole_gradient(call);
    write_modulation(call, &totals);
    call.write("dx", dx);
}

pub fn backward_with_sums(call: &mut Call) {
    let (_, dx) = whole_gradient(call);
    let mut sums = call.read("dx_sums").clone();
    let first = 4 * call.u("modulation_first4");
    for image in 0..call.u("images") {
        for c in 0..4 * call.u("c4") {
            sums.row_mut(image)[first + c] = (0..call.u("rows")).map(|row| element(call, &dx, image, row, c)).sum();
        }
    }
    call.write("dx", dx);
    call.write("dx_sums", sums);
}

pub fn backward_joined(call: &mut Call) {
    let (_, mut whole) = whole_gradient(call);
    add_to(&mut whole, call.read("addend"));
    let (mut dx, mut dskip) = (call.zeros("dx"), call.zeros("dskip"));
    let (first, second) = (dx.shape[3], dskip.shape[3]);
    for row in 0..whole.rows() {
        dx.row_mut(row).copy_from_slice(&whole.row(row)[..first]);
        dskip.row_mut(row)[..second].copy_from_slice(&whole.row(row)[first..][..second]);
    }
    call.write("dx", dx);
    call.write("dskip", dskip);
}

//! Twins of `shaders/reduce.wgsl`.

use super::Call;

pub fn columns(call: &mut Call) {
    let (rows, chunk, chunks) = (call.u("rows"), call.u("chunk"), call.u("chunks"));
    let mut partial = call.zeros("partial");
    for (row, values) in call.read("x").data.chunks_exact(call.u("quads") * 4).enumerate() {
        let to = row / rows * chunks + row % rows / chunk;
        for (sum, value) in partial.row_mut(to).iter_mut().zip(values) {
            *sum += value;
        }
    }
    call.write("partial", partial);
}

pub fn partials(call: &mut Call) {
    let parts = call.read("parts");
    let mut y = call.zeros("y");
    let part = call.u("quads") * 4;
    for (index, values) in parts.data.chunks_exact(part).enumerate() {
        let group = index / call.u("chunks");
        for (sum, value) in y.data[group * part..].iter_mut().zip(values) {
            *sum += value;
        }
    }
    call.write("y", y);
}

pub fn many(call: &mut Call) {
    let (parts, runs) = (call.read("parts").clone(), call.read("runs").clone());
    let mut totals = call.read("totals").clone();
    for run in runs.data.chunks_exact(8).take(call.u("groups")) {
        let [from, stride, count, to, quads] = [0, 1, 2, 3, 4].map(|index| run[index] as usize);
        for (i, total) in totals.data[4 * to..][..4 * quads].iter_mut().enumerate() {
            *total = (0..count).map(|n| parts.data[4 * (from + n * stride) + i]).sum();
        }
    }
    call.write("totals", totals);
}

pub fn total(call: &mut Call) {
    let mut y = call.zeros("y");
    y.data[0] = call.read("parts").data.iter().sum();
    call.write("y", y);
}

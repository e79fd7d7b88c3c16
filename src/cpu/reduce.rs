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
    let (quads, chunks) = (call.u("quads"), call.u("chunks"));
    let mut y = call.read("y").clone();
    for group in 0..call.u("groups") {
        let to = 4 * (group * call.u("stride") + call.u("first"));
        for i in 0..4 * quads {
            y.data[to + i] =
                (0..chunks).map(|chunk| call.read("parts").data[(group * chunks + chunk) * 4 * quads + i]).sum();
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
    let mut sum = call.zeros("sum_of_all");
    sum.data[0] = call.read("parts").data.iter().sum();
    call.write("sum_of_all", sum);
}

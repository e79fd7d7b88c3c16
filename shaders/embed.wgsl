// Embeddings: of a timestep as sines and cosines, of a class as a row of a table.
//
//   timestep         y[n,i] = sin(t[n] f_i), y[n,i+h] = cos(t[n] f_i), i < h = dim / 2, or the cosines first if flipped;
//                    f_i = 10000^(-i / (h - freq_shift)); an odd dim ends in a zero
//   gather           y[n] = table[labels[n]]
//   gather_backward  d_table[class] = sum of dy[n] over all n with labels[n] = class; 0 for a class that is absent
//
// A timestep has no gradient.
//
// t: f32 [N]; turns: [h, 3], f_i / 2 pi as three summands; labels: u32 [N]; table, d_table: [classes, C] in f32;
// y, dy: [N, 1, 1, C], C is dim in timestep.

struct Params {
    quads: u32,         // vec4 elements of what is written
    channels4: u32,     // quadruples of C
    dim: u32,           // C without padding
    flip: u32,          // flip_sin_to_cos
    freq_shift: f32,    // for the twin; here it is in turns
    count: u32,         // N
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> t: array<f32>;
@group(0) @binding(1) var<storage, read> turns: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> labels: array<u32>;
@group(0) @binding(4) var<storage, read> dy: array<real4>;
@group(0) @binding(5) var<storage, read_write> y: array<real4>;
@group(0) @binding(6) var<storage, read_write> d_table: array<vec4<f32>>;

// time * (f.x + f.y + f.z) less whole turns, from -1/8 to 3/2. f.x and f.y have 12 significant bits each, so that their
// products with a whole number up to 4096 are exact: only what is left after whole turns is rounded.
fn turns_of(time: f32, f: vec3<f32>) -> f32 {
    let whole = floor(time);
    let rest = time - whole;
    return fract(whole * f.x) + (whole * f.y + (whole * f.z + rest * (f.x + f.y)));
}

@compute @workgroup_size(64)
fn timestep(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads) {
        return;
    }
    let time = t[i / params.channels4];
    let half = params.dim / 2u;
    var result = vec4<f32>();
    for (var j = 0u; j < 4u; j++) {
        let channel = 4u * (i % params.channels4) + j;
        if (channel < 2u * half) {
            let sin_cos = sin_cos_turns(turns_of(time, turns[channel % half].xyz));
            result[j] = select(sin_cos.x, sin_cos.y, (channel >= half) != (params.flip != 0u));
        }
    }
    y[i] = store4(result);
}

@compute @workgroup_size(64)
fn gather(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < params.quads) {
        y[i] = store4(table[labels[i / params.channels4] * params.channels4 + i % params.channels4]);
    }
}

@compute @workgroup_size(64)
fn gather_backward(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads) {
        return;
    }
    var sum = vec4<f32>();
    for (var n = 0u; n < params.count; n++) {
        if (labels[n] == i / params.channels4) {
            sum += load4(dy[n * params.channels4 + i % params.channels4]);
        }
    }
    d_table[i] = sum;
}

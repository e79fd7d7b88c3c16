// The tokens of attention pooling (Dhariwal & Nichol 2021, section 4, after CLIP, Radford et al. 2021, section 2.4): a
// pooling token, which begins as the mean of all positions, attends over itself and them; what it becomes is the result.
//
//   tokens           y[n,0]   = p[0] + 1/T sum_i x[n,i]        tokens_backward  dx[n,i] = dy[n,1+i] + dy[n,0] / T
//                    y[n,1+i] = p[1+i] + x[n,i],  0 <= i < T
//   first            y[n] = x[n,0]                             first_backward   dx[n,0] = dy[n], dx[n,i] = 0 for i > 0
//
// x[n,i] is in y[n,1+i] as it is, and in y[n,0] with weight 1/T: hence dx. (dp is the sum of dy over n: reduce.wgsl.)
//
// tokens: x, dx: [N, H, W, C] with T = H·W positions; y, dy: [N, T+1, 1, C]; p: [T+1, C] in f32.
// first:  x, dx: [N, T, heads, d]; y, dy: [N, 1, heads, d].

struct Params {
    quads: u32,         // vec4 elements of what is written
    token4: u32,        // vec4 elements of a token
    tokens: u32,        // T
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(1) var<storage, read> p: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<real4>;
@group(0) @binding(3) var<storage, read_write> y: array<real4>;
@group(0) @binding(4) var<storage, read_write> dx: array<real4>;

@compute @workgroup_size(64)
fn tokens(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads) {
        return;
    }
    let in_image = i % ((params.tokens + 1u) * params.token4);
    let n = i / ((params.tokens + 1u) * params.token4);
    let positions = n * params.tokens * params.token4;
    if (in_image >= params.token4) {
        y[i] = store4(p[in_image] + load4(x[positions + in_image - params.token4]));
        return;
    }
    var sum = vec4<f32>();
    for (var t = 0u; t < params.tokens; t++) {
        sum += load4(x[positions + t * params.token4 + in_image]);
    }
    y[i] = store4(p[in_image] + sum / f32(params.tokens));
}

@compute @workgroup_size(64)
fn tokens_backward(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads) {
        return;
    }
    let n = i / (params.tokens * params.token4);
    let first = n * (params.tokens + 1u) * params.token4;
    let own = load4(dy[i + (n + 1u) * params.token4]);
    dx[i] = store4(own + load4(dy[first + i % params.token4]) / f32(params.tokens));
}

@compute @workgroup_size(64)
fn first(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < params.quads) {
        y[i] = x[i / params.token4 * params.tokens * params.token4 + i % params.token4];
    }
}

@compute @workgroup_size(64)
fn first_backward(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads) {
        return;
    }
    let n = i / (params.tokens * params.token4);
    let in_image = i % (params.tokens * params.token4);
    if (in_image < params.token4) {
        dx[i] = dy[n * params.token4 + in_image];
    } else {
        dx[i] = store4(vec4<f32>());
    }
}

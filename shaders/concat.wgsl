// Concatenation over channels.
//
//   concat  y[m, c] = a[m, c] for c < A, b[m, c - A] for A <= c < A + B, 0 in the padding
//   split   da[m, c] = dy[m, c], db[m, c] = dy[m, A + c]
//
// a, da: [M, A]   b, db: [M, B]   y, dy: [M, A + B]
// A need not be a multiple of 4: then quads of y straddle quads of b.

struct Params {
    rows: u32,          // M
    channels_a: u32,    // A
    channels_b: u32,    // B
    a4: u32,            // quads in a row of a
    b4: u32,            // quads in a row of b
    whole4: u32,        // quads in a row of both, joined
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> a: array<real4>;
@group(0) @binding(1) var<storage, read> b: array<real4>;
@group(0) @binding(2) var<storage, read_write> y: array<real4>;

@compute @workgroup_size(64)
fn concat(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    let row = i / params.whole4;
    let quad = i % params.whole4;
    if (row >= params.rows) {
        return;
    }
    // Where A is a multiple of 4, quads stay quads.
    if (params.channels_a % 4u == 0u) {
        if (quad < params.a4) {
            y[i] = a[row * params.a4 + quad];
        } else {
            y[i] = b[row * params.b4 + quad - params.a4];
        }
        return;
    }
    var value = vec4<f32>();
    for (var j = 0u; j < 4u; j++) {
        let c = 4u * quad + j;
        if (c < params.channels_a) {
            value[j] = load4(a[row * params.a4 + c / 4u])[c % 4u];
        } else if (c < params.channels_a + params.channels_b) {
            let d = c - params.channels_a;
            value[j] = load4(b[row * params.b4 + d / 4u])[d % 4u];
        }
    }
    y[i] = store4(value);
}

@group(0) @binding(0) var<storage, read> dy: array<real4>;
@group(0) @binding(1) var<storage, read_write> da: array<real4>;
@group(0) @binding(2) var<storage, read_write> db: array<real4>;

// The quad of dy's row from channel `first` on, of which the first `channels` are a part's.
fn quad_from(row: u32, first: u32, channels: u32) -> real4 {
    // A last quad that is not full needs the other way: what stands behind is not this part's.
    if (first % 4u == 0u && channels >= 4u) {
        return dy[row * params.whole4 + first / 4u];
    }
    var value = vec4<f32>();
    for (var j = 0u; j < min(4u, channels); j++) {
        let c = first + j;
        value[j] = load4(dy[row * params.whole4 + c / 4u])[c % 4u];
    }
    return store4(value);
}

@compute @workgroup_size(64)
fn split(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    let row = i / (params.a4 + params.b4);
    let quad = i % (params.a4 + params.b4);
    if (row >= params.rows) {
        return;
    }
    if (quad < params.a4) {
        da[row * params.a4 + quad] = quad_from(row, 4u * quad, params.channels_a - 4u * quad);
    } else {
        let of_b = 4u * (quad - params.a4);
        db[row * params.b4 + quad - params.a4] = quad_from(row, params.channels_a + of_b, params.channels_b - of_b);
    }
}

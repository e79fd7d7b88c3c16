// Concatenation over channels.
//
//   concat  y[m, c] = a[m, c] for c < A, b[m, c - A] for A <= c < A + B, 0 in the padding
//   split   da[m, c] = dy[m, c], db[m, c] = dy[m, A + c]: `part` copies B channels from channel `first` on
//
// a: [M, A]   b: [M, B]   y: [M, A + B]   whole: [M, C]   part: [M, B]
// A need not be a multiple of 4: then quads of y straddle quads of b.

struct Params {
    quads: u32,         // vec4 of what is written
    channels_a: u32,    // A; in split the first channel
    channels_b: u32,    // B
    from_a4: u32,       // quads in a row of a; in split of whole
    from_b4: u32,       // quads in a row of b
    to4: u32,           // quads in a row of what is written
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> a: array<real4>;
@group(0) @binding(1) var<storage, read> b: array<real4>;
@group(0) @binding(2) var<storage, read_write> y: array<real4>;

@compute @workgroup_size(64)
fn concat(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads) {
        return;
    }
    let row = i / params.to4;
    let quad = i % params.to4;
    // Where A is a multiple of 4, quads stay quads.
    if (params.channels_a % 4u == 0u) {
        if (quad < params.from_a4) {
            y[i] = a[row * params.from_a4 + quad];
        } else {
            y[i] = b[row * params.from_b4 + quad - params.from_a4];
        }
        return;
    }
    var value = vec4<f32>();
    for (var j = 0u; j < 4u; j++) {
        let c = 4u * quad + j;
        if (c < params.channels_a) {
            value[j] = load4(a[row * params.from_a4 + c / 4u])[c % 4u];
        } else if (c < params.channels_a + params.channels_b) {
            let d = c - params.channels_a;
            value[j] = load4(b[row * params.from_b4 + d / 4u])[d % 4u];
        }
    }
    y[i] = store4(value);
}

@group(0) @binding(0) var<storage, read> whole: array<real4>;
@group(0) @binding(1) var<storage, read_write> part: array<real4>;

@compute @workgroup_size(64)
fn split(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads) {
        return;
    }
    let row = i / params.to4;
    let quad = i % params.to4;
    // A last quad that is not full needs the other way: what stands behind is not this part's.
    if (params.channels_a % 4u == 0u && 4u * quad + 4u <= params.channels_b) {
        part[i] = whole[row * params.from_a4 + params.channels_a / 4u + quad];
        return;
    }
    var value = vec4<f32>();
    for (var j = 0u; j < 4u; j++) {
        let d = 4u * quad + j;
        if (d < params.channels_b) {
            let c = params.channels_a + d;
            value[j] = load4(whole[row * params.from_a4 + c / 4u])[c % 4u];
        }
    }
    part[i] = store4(value);
}

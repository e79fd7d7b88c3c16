// Elementwise sums.
//
//   add           y = scale (a + b)          da = db = scale dy, which `scale` makes
//   scale         y = scale a
//   add_per_image y[n,h,w,c] = a[n,h,w,c] + b[n,c]      da = dy, db[n,c] = sum over h,w of dy (reduce.wgsl)
//   add_guidance  y = a + step.classifier b       b again and again where a has more images
//   accumulate    total += part                   f32, whatever activations are stored as
//   narrow        narrowed = part                      from f32 to what activations are stored as
//   widen         total = a                       and back
//
// a, y, part, total, narrowed: [N, H, W, C]; b: the same, or [N, 1, 1, C] in add_per_image, or fewer images in
// add_guidance.

struct Params {
    quads: u32,         // vec4 elements of y
    quads_per_image: u32,   // in add_guidance those of b
    channels4: u32,
    scale: f32,
}
@group(0) @binding(14) var<uniform> params: Params;

// Quadruples of a lane, 256 apart, so that lanes read side by side: a lane's start costs more than a sum.
const SHARE = 4u;

@group(0) @binding(0) var<storage, read> a: array<real4>;
@group(0) @binding(1) var<storage, read> b: array<real4>;
@group(0) @binding(2) var<storage, read_write> y: array<real4>;
@group(0) @binding(2) var<storage, read> part: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> total: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> narrowed: array<real4>;

@compute @workgroup_size(256)
fn add(invocation: Invocation) {
    let first = index_of(invocation, 256u * SHARE);
    for (var i = first; i < min(first + 256u * SHARE, params.quads); i += 256u) {
        y[i] = store4(params.scale * (load4(a[i]) + load4(b[i])));
    }
}

@compute @workgroup_size(256)
fn scale(invocation: Invocation) {
    let first = index_of(invocation, 256u * SHARE);
    for (var i = first; i < min(first + 256u * SHARE, params.quads); i += 256u) {
        y[i] = store4(params.scale * load4(a[i]));
    }
}

@compute @workgroup_size(256)
fn add_per_image(invocation: Invocation) {
    let first = index_of(invocation, 256u * SHARE);
    for (var i = first; i < min(first + 256u * SHARE, params.quads); i += 256u) {
        y[i] = store4(load4(a[i]) + load4(b[i / params.quads_per_image * params.channels4 + i % params.channels4]));
    }
}

@compute @workgroup_size(256)
fn add_guidance(invocation: Invocation) {
    let first = index_of(invocation, 256u * SHARE);
    for (var i = first; i < min(first + 256u * SHARE, params.quads); i += 256u) {
        y[i] = store4(load4(a[i]) + step.classifier * load4(b[i % params.quads_per_image]));
    }
}

@compute @workgroup_size(256)
fn accumulate(invocation: Invocation) {
    let first = index_of(invocation, 256u * SHARE);
    for (var i = first; i < min(first + 256u * SHARE, params.quads); i += 256u) {
        total[i] += part[i];
    }
}

@compute @workgroup_size(256)
fn narrow(invocation: Invocation) {
    let first = index_of(invocation, 256u * SHARE);
    for (var i = first; i < min(first + 256u * SHARE, params.quads); i += 256u) {
        narrowed[i] = store4(part[i]);
    }
}

@compute @workgroup_size(256)
fn widen(invocation: Invocation) {
    let first = index_of(invocation, 256u * SHARE);
    for (var i = first; i < min(first + 256u * SHARE, params.quads); i += 256u) {
        total[i] = load4(a[i]);
    }
}

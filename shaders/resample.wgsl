// Nearest upsampling by two.
//
//   upsample           y[n,h,w,c]  = x[n, h/2, w/2, c]
//   upsample_backward  dx[n,h,w,c] = dy[n,2h,2w,c] + dy[n,2h,2w+1,c] + dy[n,2h+1,2w,c] + dy[n,2h+1,2w+1,c]
//
// x, dx: [N, H, W, C]   y, dy: [N, 2H, 2W, C]

struct Params {
    quads: u32,         // vec4 of what is written
    width: u32,         // W
    c4: u32,
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(1) var<storage, read_write> y: array<real4>;

@compute @workgroup_size(64)
fn upsample(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < params.quads) {
        // Rows of all images run on: image n starts at row 2 n H, so that halving the row number is right across images.
        let column = i / params.c4 % (2u * params.width);
        let row = i / (params.c4 * 2u * params.width);
        y[i] = x[(row / 2u * params.width + column / 2u) * params.c4 + i % params.c4];
    }
}

@group(0) @binding(0) var<storage, read> dy: array<real4>;
@group(0) @binding(1) var<storage, read_write> dx: array<real4>;

@compute @workgroup_size(64)
fn upsample_backward(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < params.quads) {
        let column = i / params.c4 % params.width;
        let row = i / (params.c4 * params.width);
        let upper = (2u * row * 2u * params.width + 2u * column) * params.c4 + i % params.c4;
        let lower = upper + 2u * params.width * params.c4;
        dx[i] = store4((load4(dy[upper]) + load4(dy[upper + params.c4])) + (load4(dy[lower]) + load4(dy[lower + params.c4])));
    }
}

// Clipping by the global norm, AdamW and the moving average of the weights, over flat buffers.
//
//   square_sum   partials = sums of (gradient / loss_scale)^2, one of each lane; reduce.wgsl adds them up to `total`
//
//   update       norm    = scale sqrt(total)                      of the scaled gradient: scale = 1/K over K micro-batches
//                g       = scale min(1, max_norm / (norm + 1e-6)) gradient / loss_scale       max_norm = 0: not clipped
//                m'      = beta1 m + (1 - beta1) g
//                v'      = beta2 v + (1 - beta2) g^2
//                w'      = w - lr weight_decay w - lr (m' / bias_correction1) / (sqrt(v' / bias_correction2) + eps)
//                ema'    = decay ema + (1 - decay) w'
//                If the norm isn't finite all stays as it was; the host sees the norm.
//
//   adjust_scale If the norm isn't finite: loss_scale' = max(1, loss_scale / 2), good' = 0. Otherwise good' = good + 1, and
//                every `interval` times loss_scale' = min(most, 2 loss_scale), good' = 0.
//
// Gradients of activations in half precision vanish below 6e-8 and overflow beyond 65,504: the loss is scaled up to keep
// them between, as far as it goes without overflow (Micikevicius et al. 2018, section 3.2). In single precision the scale
// is 1 and stays.
//
// Clipping: torch.nn.utils.clip_grad_norm_. AdamW: Loshchilov & Hutter 2019, Algorithm 2, the decay scaled by lr as in
// torch.optim.AdamW. lr, the bias corrections 1 - beta^t and the decay of the average come with the step.
//
// weights, gradient, m, v, ema: [1, 1, 1, count]   partials: [1, 1, 1, 64 groups]   total: one number
// loss_scale, state: the scale, then good

struct Squares {
    quads: u32,
    partials: u32,
}
@group(0) @binding(14) var<uniform> squares: Squares;

struct Update {
    quads: u32,
    scale: f32,
    max_norm: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,   // rounded once: 1 - 0.999 in f32 is off by 1e-5
    one_minus_beta2: f32,
    eps: f32,
    weight_decay: f32,
}
@group(0) @binding(14) var<uniform> params: Update;

struct Adjust {
    interval: f32,
    most: f32,
}
@group(0) @binding(14) var<uniform> adjust: Adjust;

@group(0) @binding(0) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<storage, read> total: array<f32>;
@group(0) @binding(3) var<storage, read_write> weights: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> ema: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> loss_scale: array<f32>;
@group(0) @binding(7) var<storage, read_write> state: array<f32>;

// A lane takes 64 vec4, 64 apart, so that the 64 lanes of a group read side by side.
@compute @workgroup_size(64)
fn square_sum(invocation: Invocation) {
    let partial = index_of(invocation, 64u);
    if (partial >= squares.partials) {
        return;
    }
    let first = partial / 64u * 4096u + invocation.lane;
    let inverse = 1.0 / loss_scale[0];
    var sum = vec4<f32>();
    for (var i = first; i < min(first + 4096u, squares.quads); i += 64u) {
        let g = inverse * gradient[i];
        sum += g * g;
    }
    partials[partial] = (sum.x + sum.y) + (sum.z + sum.w);
}

// What the gradient is multiplied with: micro-batches and clipping.
fn gradient_factor() -> f32 {
    if (params.max_norm == 0.0) {
        return params.scale;
    }
    let norm = params.scale * sqrt(total[0]);
    return params.scale * min(1.0, params.max_norm / (norm + 1e-6));
}

@compute @workgroup_size(64)
fn update(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads || !is_finite(total[0])) {
        return;
    }
    let g = gradient_factor() / loss_scale[0] * gradient[i];
    let new_m = params.beta1 * m[i] + params.one_minus_beta1 * g;
    let new_v = params.beta2 * v[i] + params.one_minus_beta2 * g * g;
    let direction = new_m / step.bias_correction1 / (sqrt(new_v / step.bias_correction2) + params.eps);
    let w = weights[i];
    let new_w = w - step.learning_rate * (params.weight_decay * w + direction);
    m[i] = new_m;
    v[i] = new_v;
    weights[i] = new_w;
    ema[i] = step.ema_decay * ema[i] + (1.0 - step.ema_decay) * new_w;
}

@compute @workgroup_size(1)
fn adjust_scale() {
    let scale = state[0];
    let good = state[1] + 1.0;
    if (!is_finite(total[0])) {
        state[0] = max(1.0, 0.5 * scale);
        state[1] = 0.0;
    } else if (good >= adjust.interval) {
        state[0] = min(adjust.most, 2.0 * scale);
        state[1] = 0.0;
    } else {
        state[1] = good;
    }
}

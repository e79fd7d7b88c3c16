// What diffusion itself computes: training pairs, the loss, one step of any sampler.
//
//   noise      image = shuffle(cursor + n)                       each image once an epoch; `alone`: step.record for all n
//              i     = floor(T u), u uniform in [0, 1), and t = i if T u - i is below share[i], else other[i]
//              x0    = pixels / 127.5 - 1, flipped left to right with probability 1/2 if `flip`
//              x     = alpha[t] x0 + sigma[t] eps                eps ~ N(0, I)
//              goal  = target_x0[t] x0 + target_eps[t] eps
//              label = the image's, or `classes` (the null class) with probability class_dropout
//
//   loss       loss  = 1/E sum weight[n] (out - goal)^2          E = N H W C
//              d_out = loss_scale 2/E weight[n] (out - goal)     loss_scale: see adamw.wgsl
//              The sum is left in `partials`, as many of each image, one of each lane.
//
//   levels     total_loss = sum of `partials`, and of each eighth of the timesteps, the least noise first:
//              by_level[b]     = sum over the images whose timestep is in it of N times their partials: their losses
//              by_level[8 + b] = how many they are
//
//   hybrid_loss  of a network that learns its variance, too: out = (m, v), C channels each; t = timestep[n]
//              loss  = 1/E sum weight[t] (m - goal)^2 + bound/E sum L(m, v)
//              r     = (v + 1)/2 log_ratio[t]                    log of the variance over that of the posterior
//              L     = (r - 1 + (1 + mean_error[t] (m - goal)^2) exp(-r)) / 2                          t > 0
//              L     = -log of what N(x0_hat, exp(log_small[0] + r)) gives to the bin of x0            t = 0
//              d_m is that of the first sum alone: the second one's gradient stops at m
//              (Nichol & Dhariwal 2021, eq. 15 and 16)
//
//   denoise    o      = guidance out[with class] + (1 - guidance) out[null class], or out if not guided
//              v      = channels C to 2 C of out[with class] if there are so many, which learned variances are; else 0
//              x0_hat = clamp(x0_from_x x + x0_from_out o, -clip, clip)
//              x'     = step.x x + step.out o + step.x0 x0_hat + sum over slots s of step.previous[s] previous[s]
//                       + step.noise exp(((1 - v) step.log_small + (1 + v) step.log_large) / 4) z    z ~ N(0, I)
//              previous'[step.keep_x] = x, previous'[step.keep] = x0_hat, each if there is such a slot
//
//   start      x = step.noise z, all slots of previous = 0            z ~ N(0, I)
//
//   impute     x' = x + mask (to_alpha known + to_sigma z - x)   z ~ N(0, I), the same known image for each sample
//
//   broadcast_timestep   timestep[n] = step.timestep
//
// x, goal, out, d_out: [N, H, W, C]   previous: `slots` times that, f32   timestep, label, weight: [1, 1, 1, N]
// schedule: T rows of 8: alpha, sigma, target_x0, target_eps, weight of the loss, log_small, log_ratio, mean_error
//   For `noise` there follow T pairs of share, in units of 2^-24, and other, with zeros to the end of the row.
// records, more_records: one list of bytes, 4 to a word, the low byte first; the first binding ends after first_words.
//   A record is one image: its label in two bytes, the low one first, then H W C bytes. Streamed, they are those of this step
//   alone, in the order in which it takes them; image n of the batch has number step.record + n.
// known, mask: [1, H, W, C], f32; mask is 1 where the known image stays, 0 elsewhere
// partials: [N, 1, 1, 64 groups]   total_loss: the first of 4   by_level: 16
//
// Guided: x and out are [2 N, H, W, C], the first N with their class, the second N with the null class. x holds the same
// N images twice; a slot of `previous` holds them once.
//
// Random numbers are Philox blocks, keyed by the seed and a purpose; one block serves the 4 channels of a quadruple:
//
//   purpose    counter                                           gives
//   SHUFFLE    epoch, 0, 0, 0                                    4 keys of the shuffle
//   IMAGE      n, step.counter, 0, 0                             t, flip, class dropout of image n of the batch
//   EPS        quadruple in the image, n, step.counter, 0        eps
//   START      quadruple in the sample, sample, 0, 0             z of `start`
//   DENOISE    quadruple in the sample, sample, step.counter, 0  z of `denoise`
//   IMPUTE     quadruple in the sample, sample, step.counter, 0  z of `impute`
//
// A sample is numbered over all batches (step.sample + n), so that its noise doesn't depend on the batch it is in.

const SHUFFLE = 1u;
const IMAGE = 2u;
const EPS = 3u;
const START = 4u;
const DENOISE = 5u;
const IMPUTE = 6u;

struct Training {
    batch: u32,             // N
    images: u32,            // in the data set
    streamed: u32,          // whether the records are a step's own
    alone: u32,             // whether all are of image step.record
    half_bits: u32,         // the shuffle's domain is 4^half_bits >= images
    first_words: u32,       // length of `records`
    height: u32,
    width: u32,
    channels: u32,
    timesteps: u32,         // T
    flip: u32,
    classes: u32,
    class_dropout: f32,
}
@group(0) @binding(14) var<uniform> training: Training;

struct Elements {
    images: u32,            // N
    quads_per_image: u32,   // vec4 of out
    partials_per_image: u32,
    factor: f32,            // 1/E
}
@group(0) @binding(14) var<uniform> elements: Elements;

struct Hybrid {
    images: u32,            // N
    quads_per_image: u32,   // vec4 of out
    partials_per_image: u32,
    channels: u32,          // C
    factor: f32,            // 1/E
    bound: f32,             // what L counts
}
@group(0) @binding(14) var<uniform> hybrid: Hybrid;

struct Levels {
    images: u32,            // N
    partials_per_image: u32,
    timesteps: u32,         // T
}
@group(0) @binding(14) var<uniform> sorted: Levels;

struct Samples {
    quads: u32,             // vec4 of N samples
    quads_per_image: u32,
    channels: u32,
    outputs: u32,           // channels of out: C, or 2 C; 0 without it
    guided: u32,
    slots: u32,             // of `previous`
}
@group(0) @binding(14) var<uniform> samples: Samples;

struct Broadcast {
    batch: u32,             // N
}
@group(0) @binding(14) var<uniform> broadcast: Broadcast;

@group(0) @binding(0) var<storage, read> records: array<u32>;
@group(0) @binding(1) var<storage, read> more_records: array<u32>;
@group(0) @binding(2) var<storage, read> schedule: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> x: array<real4>;
@group(0) @binding(4) var<storage, read_write> goal: array<real4>;
@group(0) @binding(5) var<storage, read_write> timestep: array<f32>;
@group(0) @binding(6) var<storage, read_write> label: array<u32>;
@group(0) @binding(7) var<storage, read_write> weight: array<f32>;
@group(0) @binding(8) var<storage, read> out: array<real4>;
@group(0) @binding(9) var<storage, read_write> d_out: array<real4>;
@group(0) @binding(10) var<storage, read_write> partials: array<f32>;
@group(0) @binding(11) var<storage, read_write> previous: array<vec4<f32>>;
@group(0) @binding(12) var<storage, read> known: array<vec4<f32>>;
@group(0) @binding(13) var<storage, read> mask: array<vec4<f32>>;
@group(0) @binding(13) var<storage, read> loss_scale: array<f32>;

// 1 for the channels of quadruple `quad` that exist, 0 for padding. Quadruples of a pixel follow each other.
fn channel_mask(quad: u32, channels: u32) -> vec4<f32> {
    let first = quad % ((channels + 3u) / 4u) * 4u;
    return select(vec4<f32>(0.0), vec4<f32>(1.0), first + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(channels));
}

// The finalizer of MurmurHash3 (Appleby): a bijection of words in which every bit depends on every bit.
fn scramble(word: u32) -> u32 {
    var h = (word ^ (word >> 16u)) * 0x85ebca6bu;
    h = (h ^ (h >> 13u)) * 0xc2b2ae35u;
    return h ^ (h >> 16u);
}

// Which image stands at `position` of an epoch: a permutation of 0..images. A Feistel network of 8 rounds permutes
// 0..4^half_bits; what lands outside is permuted again until it is inside ("cycle walking", Black & Rogaway 2002).
fn shuffle(position: u32, epoch: u32) -> u32 {
    let keys = philox(vec4<u32>(epoch, 0u, 0u, 0u), vec2<u32>(step.seed, SHUFFLE));
    let mask = (1u << training.half_bits) - 1u;
    var image = position;
    loop {
        var left = image >> training.half_bits;
        var right = image & mask;
        for (var round = 0u; round < 8u; round++) {
            let mixed = left ^ (scramble(right + keys[round % 4u] + round * 0x9e3779b9u) & mask);
            left = right;
            right = mixed;
        }
        image = (left << training.half_bits) | right;
        if (image < training.images) {
            break;
        }
    }
    return image;
}

fn record_byte(address: u32) -> u32 {
    let index = address / 4u;
    var word = 0u;
    if (index < training.first_words) {
        word = records[index];
    } else {
        word = more_records[index - training.first_words];
    }
    return (word >> (address % 4u * 8u)) & 0xffu;
}

// The address of the record of image n of the batch.
fn record_address(n: u32) -> u32 {
    var record = step.record;
    if (training.streamed != 0u) {
        record += n;
    } else if (training.alone == 0u) {
        let position = step.cursor + n;
        record = shuffle(position % training.images, step.epoch + position / training.images);
    }
    return record * (2u + training.height * training.width * training.channels);
}

// t, flip and class dropout of image n of the batch.
fn image_draw(n: u32) -> vec4<u32> {
    return philox(vec4<u32>(n, step.counter, 0u, 0u), vec2<u32>(step.seed, IMAGE));
}

// The alias method (Walker, 1977).
fn draw_timestep(bits: u32) -> u32 {
    let scaled = multiply_wide(bits, training.timesteps);
    let i = scaled.y;
    let pairs = schedule[2u * training.timesteps + i / 2u];
    let pair = select(pairs.xy, pairs.zw, i % 2u == 1u);
    return select(u32(pair.y), i, (scaled.x >> 8u) < u32(pair.x));
}

// Timestep, label and weight of image n; zeros behind the last one.
fn write_image(n: u32) {
    if (n >= training.batch) {
        timestep[n] = 0.0;
        label[n] = 0u;
        weight[n] = 0.0;
        return;
    }
    let draw = image_draw(n);
    let address = record_address(n);
    let t = draw_timestep(draw.x);
    let own_label = record_byte(address) | (record_byte(address + 1u) << 8u);
    timestep[n] = f32(t);
    label[n] = select(own_label, training.classes, uniform_open(draw.z) < training.class_dropout);
    weight[n] = schedule[2u * t + 1u].x;
}

@compute @workgroup_size(64)
fn noise(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < (training.batch + 3u) / 4u * 4u) {
        write_image(i);
    }
    let channels4 = (training.channels + 3u) / 4u;
    let quads_per_image = training.height * training.width * channels4;
    if (i >= training.batch * quads_per_image) {
        return;
    }
    let n = i / quads_per_image;
    let quad = i % quads_per_image;
    let pixel = quad / channels4;
    let first = quad % channels4 * 4u;
    let draw = image_draw(n);
    let mirrored = training.flip != 0u && (draw.y >> 31u) == 1u;
    let column = select(pixel % training.width, training.width - 1u - pixel % training.width, mirrored);
    let source = pixel / training.width * training.width + column;
    let address = record_address(n) + 2u + source * training.channels + first;
    var x0 = vec4<f32>();
    for (var c = 0u; c < min(4u, training.channels - first); c++) {
        x0[c] = f32(record_byte(address + c)) / 127.5 - 1.0;
    }
    let eps = normal4(philox(vec4<u32>(quad, n, step.counter, 0u), vec2<u32>(step.seed, EPS)))
        * channel_mask(quad, training.channels);
    let row = schedule[2u * draw_timestep(draw.x)];
    x[i] = store4(row.x * x0 + row.y * eps);
    goal[i] = store4(row.z * x0 + row.w * eps);
}

// A lane takes 16 vec4 of an image, 64 apart, so that the 64 lanes of a group read side by side.
@compute @workgroup_size(64)
fn loss(invocation: Invocation) {
    let partial = index_of(invocation, 64u);
    let n = partial / elements.partials_per_image;
    if (n >= elements.images) {
        return;
    }
    let first = partial % elements.partials_per_image / 64u * 1024u + invocation.lane;
    var sum = 0.0;
    for (var quad = first; quad < min(first + 1024u, elements.quads_per_image); quad += 64u) {
        let i = n * elements.quads_per_image + quad;
        let difference = load4(out[i]) - load4(goal[i]);
        let weighted = weight[n] * difference;
        d_out[i] = store4(loss_scale[0] * 2.0 * elements.factor * weighted);
        sum += dot(weighted, difference);
    }
    partials[partial] = elements.factor * sum;
}

const HALF_BIN = 1.0 / 255.0;

// The share of a standard normal distribution above x >= 0: erfc(x / sqrt(2)) / 2 by Chebyshev's approximation, to 1e-7
// of itself (Press et al., Numerical Recipes, section 6.2).
fn upper_tail(x: f32) -> f32 {
    let z = x * 0.70710678119;
    let t = 1.0 / (1.0 + 0.5 * z);
    let series = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
        + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    return 0.5 * t * exp(series - z * z);
}

// The share below x.
fn lower_tail(x: f32) -> f32 {
    if (x > 0.0) {
        return 1.0 - upper_tail(x);
    }
    return upper_tail(-x);
}

fn normal_density(x: f32) -> f32 {
    return 0.39894228040 * exp(-0.5 * x * x);
}

// The integrals of the normal density d and of its (1 - x^2) d, which is that of x d, from low to high. A difference of
// tails would be all rounding where they are close: there Gauss's rule of 4 points is good to 1e-7.
fn between(low: f32, high: f32) -> vec2<f32> {
    if (high - low < 0.5) {
        let half = 0.5 * (high - low);
        let x = 0.5 * (high + low) + half * vec4<f32>(-0.86113631159, -0.33998104358, 0.33998104358, 0.86113631159);
        let weighted = vec4<f32>(0.34785484514, 0.65214515486, 0.65214515486, 0.34785484514) * exp(-0.5 * x * x);
        return 0.39894228040 * half * vec2<f32>(dot(weighted, vec4<f32>(1.0)), dot(weighted, 1.0 - x * x));
    }
    let mass = select(lower_tail(high) - lower_tail(low), upper_tail(low) - upper_tail(high), low > 0.0);
    return vec2<f32>(mass, high * normal_density(high) - low * normal_density(low));
}

// L_0 of an element, and its derivative by the log of the variance. `error` is x0_hat - x0. The outer bins are open (Ho et
// al. 2020, eq. 13). A mass below 1e-12 counts as 1e-12.
fn decoder(x0: f32, error: f32, log_variance: f32) -> vec2<f32> {
    let scale = exp(-0.5 * log_variance);
    let low = (-HALF_BIN - error) * scale;
    let high = (HALF_BIN - error) * scale;
    var integrals = vec2<f32>();
    if (x0 < -1.0 + HALF_BIN) {
        integrals = vec2<f32>(lower_tail(high), high * normal_density(high));
    } else if (x0 > 1.0 - HALF_BIN) {
        integrals = vec2<f32>(lower_tail(-low), -low * normal_density(low));
    } else {
        integrals = between(low, high);
    }
    if (integrals.x < 1e-12) {
        return vec2<f32>(27.6310211, 0.0);
    }
    return vec2<f32>(-log(integrals.x), 0.5 * integrals.y / integrals.x);
}

// L of an element, and its derivative by v.
fn bound_term(t: u32, x_t: f32, m: f32, v: f32, wanted: f32) -> vec2<f32> {
    let terms = schedule[2u * t + 1u];
    let r = 0.5 * (v + 1.0) * terms.z;
    let difference = m - wanted;
    if (t == 0u) {
        let row = schedule[0];
        let det = row.x * row.w - row.y * row.z;
        let x0 = (row.w * x_t - row.y * wanted) / det;
        let nats = decoder(x0, -row.y * difference / det, terms.y + r);
        return vec2<f32>(nats.x, 0.5 * terms.z * nats.y);
    }
    let spread = (1.0 + terms.w * difference * difference) * exp(-r);
    return vec2<f32>(0.5 * (r - 1.0 + spread), 0.25 * terms.z * (1.0 - spread));
}

// Its index, below 2 C, is that of a channel of out; gives what it adds to the loss, and the gradient.
fn hybrid_element(pixel: u32, channel: u32, t: u32) -> vec2<f32> {
    let outputs4 = (hybrid.channels + 1u) / 2u;
    let c = channel % hybrid.channels;
    let at = pixel * ((hybrid.channels + 3u) / 4u) + c / 4u;
    let wanted = load4(goal[at])[c % 4u];
    let m = load4(out[pixel * outputs4 + c / 4u])[c % 4u];
    if (channel < hybrid.channels) {
        let weight = schedule[2u * t + 1u].x;
        return weight * vec2<f32>((m - wanted) * (m - wanted), 2.0 * (m - wanted));
    }
    let v = load4(out[pixel * outputs4 + channel / 4u])[channel % 4u];
    return hybrid.bound * bound_term(t, load4(x[at])[c % 4u], m, v, wanted);
}

@compute @workgroup_size(64)
fn hybrid_loss(invocation: Invocation) {
    let partial = index_of(invocation, 64u);
    let n = partial / hybrid.partials_per_image;
    if (n >= hybrid.images) {
        return;
    }
    let outputs4 = (hybrid.channels + 1u) / 2u;
    let first = partial % hybrid.partials_per_image / 64u * 1024u + invocation.lane;
    let t = u32(timestep[n]);
    var sum = 0.0;
    for (var quad = first; quad < min(first + 1024u, hybrid.quads_per_image); quad += 64u) {
        let i = n * hybrid.quads_per_image + quad;
        let channel = i % outputs4 * 4u;
        var gradient = vec4<f32>();
        for (var c = 0u; c < min(4u, 2u * hybrid.channels - channel); c++) {
            let element = hybrid_element(i / outputs4, channel + c, t);
            sum += element.x;
            gradient[c] = element.y;
        }
        d_out[i] = store4(loss_scale[0] * hybrid.factor * gradient);
    }
    partials[partial] = hybrid.factor * sum;
}

@group(0) @binding(0) var<storage, read> partial_losses: array<f32>;
@group(0) @binding(1) var<storage, read_write> total_loss: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> by_level: array<f32>;

const LEVELS = 8u;
const TURN = 256u;

var<workgroup> image_losses: array<f32, 256>;
var<workgroup> image_levels: array<u32, 256>;

// One workgroup. A lane sums the partials of an image, then lane b those images whose level is b, in their order.
@compute @workgroup_size(256)
fn levels(invocation: Invocation) {
    let lane = invocation.lane;
    var sum = 0.0;
    var count = 0.0;
    for (var first = 0u; first < sorted.images; first += TURN) {
        let n = first + lane;
        if (n < sorted.images) {
            var own = 0.0;
            for (var i = 0u; i < sorted.partials_per_image; i++) {
                own += partial_losses[n * sorted.partials_per_image + i];
            }
            image_losses[lane] = own;
            image_levels[lane] = u32(timestep[n]) * LEVELS / sorted.timesteps;
        }
        workgroupBarrier();
        if (lane < LEVELS) {
            for (var k = 0u; k < min(TURN, sorted.images - first); k++) {
                if (image_levels[k] == lane) {
                    sum += image_losses[k];
                    count += 1.0;
                }
            }
        }
        workgroupBarrier();
    }
    if (lane < LEVELS) {
        by_level[lane] = f32(sorted.images) * sum;
        by_level[LEVELS + lane] = count;
        image_losses[lane] = sum;
    }
    workgroupBarrier();
    if (lane == 0u) {
        var all = 0.0;
        for (var level = 0u; level < LEVELS; level++) {
            all += image_losses[level];
        }
        total_loss[0] = vec4<f32>(all, 0.0, 0.0, 0.0);
    }
}

// What the step's uniform says of `slot`.
fn previous_coefficient(slot: u32) -> f32 {
    switch slot {
        case 0u: { return step.previous0; }
        case 1u: { return step.previous1; }
        case 2u: { return step.previous2; }
        case 3u: { return step.previous3; }
        case 4u: { return step.previous4; }
        case 5u: { return step.previous5; }
        case 6u: { return step.previous6; }
        case 7u: { return step.previous7; }
        default: { return step.previous8; }
    }
}

// NaN stays NaN, so that a broken network shows.
fn keep_within(value: vec4<f32>, range: vec4<f32>) -> vec4<f32> {
    return select(select(value, range, value > range), -range, value < -range);
}

// Four channels of a pixel's output from `channel` on, as far as there are any.
fn variance_output(first_quad: u32, channel: u32) -> vec4<f32> {
    var v = vec4<f32>();
    for (var c = 0u; c < min(4u, samples.outputs - channel); c++) {
        v[c] = load4(out[first_quad + (channel + c) / 4u])[(channel + c) % 4u];
    }
    return v;
}

@compute @workgroup_size(64)
fn denoise(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= samples.quads) {
        return;
    }
    let channels4 = (samples.channels + 3u) / 4u;
    let outputs4 = (samples.outputs + 3u) / 4u;
    let pixel = i / channels4;
    let at = pixel * outputs4 + i % channels4;
    let old = load4(x[i]);
    var o = load4(out[at]);
    if (samples.guided != 0u) {
        o = step.guidance * o + (1.0 - step.guidance) * load4(out[at + samples.quads / channels4 * outputs4]);
    }
    o *= channel_mask(i, samples.channels);
    let x0_hat = keep_within(step.x0_from_x * old + step.x0_from_out * o, vec4<f32>(step.clip));
    var next = step.x * old + step.out * o + step.x0 * x0_hat;
    for (var slot = 0u; slot < samples.slots; slot++) {
        next += previous_coefficient(slot) * previous[slot * samples.quads + i];
    }
    if (step.noise != 0.0) {
        let quad = i % samples.quads_per_image;
        let sample = step.sample + i / samples.quads_per_image;
        let z = normal4(philox(vec4<u32>(quad, sample, step.counter, 0u), vec2<u32>(step.seed, DENOISE)));
        var deviation = vec4<f32>(step.noise);
        if (samples.outputs > samples.channels) {
            let v = variance_output(pixel * outputs4, samples.channels + i % channels4 * 4u);
            deviation *= exp(0.25 * ((1.0 - v) * step.log_small + (1.0 + v) * step.log_large));
        }
        next += deviation * channel_mask(quad, samples.channels) * z;
    }
    if (step.keep_x < samples.slots) {
        previous[step.keep_x * samples.quads + i] = old;
    }
    if (step.keep < samples.slots) {
        previous[step.keep * samples.quads + i] = x0_hat;
    }
    x[i] = store4(next);
    if (samples.guided != 0u) {
        x[i + samples.quads] = store4(next);
    }
}

@compute @workgroup_size(64)
fn start(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= samples.quads) {
        return;
    }
    let quad = i % samples.quads_per_image;
    let sample = step.sample + i / samples.quads_per_image;
    let z = normal4(philox(vec4<u32>(quad, sample, 0u, 0u), vec2<u32>(step.seed, START)));
    let first = store4(step.noise * channel_mask(quad, samples.channels) * z);
    for (var slot = 0u; slot < samples.slots; slot++) {
        previous[slot * samples.quads + i] = vec4<f32>();
    }
    x[i] = first;
    if (samples.guided != 0u) {
        x[i + samples.quads] = first;
    }
}

@compute @workgroup_size(64)
fn impute(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= samples.quads) {
        return;
    }
    let quad = i % samples.quads_per_image;
    let sample = step.sample + i / samples.quads_per_image;
    let z = normal4(philox(vec4<u32>(quad, sample, step.counter, 0u), vec2<u32>(step.seed, IMPUTE)));
    let wanted = step.to_alpha * known[quad] + step.to_sigma * channel_mask(quad, samples.channels) * z;
    let old = load4(x[i]);
    let next = store4(old + mask[quad] * (wanted - old));
    x[i] = next;
    if (samples.guided != 0u) {
        x[i + samples.quads] = next;
    }
}

@compute @workgroup_size(64)
fn broadcast_timestep(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < (broadcast.batch + 3u) / 4u * 4u) {
        timestep[i] = select(0.0, step.timestep, i < broadcast.batch);
    }
}

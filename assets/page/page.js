"use strict";
// Draws with the model that this page holds. First the engine: it needs WebGPU and no document. Then the page around it.
// docs/recordings.md says what is in the file.

// The file

const FORMAT = { format: "diffuse page", version: 1 };
/// Characters of base64, and weights, that are read at a time: a few milliseconds.
const PIECE = 1 << 20;

/// Lets the page do what waits.
const pause = () => new Promise((resolve) => setTimeout(resolve));

/// What the texts of the page's three blocks hold: the model, its binary and its weights as bytes.
async function readModel(model, binary, weights) {
    const read = JSON.parse(model);
    if (read.format !== FORMAT.format || read.version > FORMAT.version) {
        throw new Error(`This page's script does not know its model's form, ${read.format} ${read.version}: export it again.`);
    }
    return { ...read, binary: await bytesOf(binary), numbers: await bytesOf(weights) };
}

async function bytesOf(base64) {
    const text = base64.trim();
    const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
    const bytes = new Uint8Array(text.length / 4 * 3 - padding);
    for (let start = 0; start < text.length; start += PIECE) {
        const piece = atob(text.slice(start, start + PIECE));
        const first = start / 4 * 3;
        for (let i = 0; i < piece.length; i++) {
            bytes[first + i] = piece.charCodeAt(i);
        }
        await pause();
    }
    return bytes;
}

function floatOfHalf(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const [exponent, fraction] = [bits >> 10 & 31, bits & 1023];
    if (exponent === 31) {
        return fraction ? NaN : sign * Infinity;
    }
    return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

const HALVES = Float32Array.from({ length: 1 << 16 }, (_, bits) => floatOfHalf(bits));

/// `count` weights from number `first` on, in single precision.
function weightsOf(model, first, count) {
    if (model.weights.precision === "f32") {
        return new Float32Array(model.numbers.buffer, 4 * first, count);
    }
    const [halves, floats] = [new Uint16Array(model.numbers.buffer, 2 * first, count), new Float32Array(count)];
    for (let i = 0; i < count; i++) {
        floats[i] = HALVES[halves[i]];
    }
    return floats;
}

// The device

/// Opens the adapter that the browser prefers; null if there is none. What is prepared there is kept from drawing to drawing.
async function openDevice(gpu, model) {
    const adapter = await gpu.requestAdapter();
    if (!adapter) {
        return null;
    }
    for (const [name, needed] of Object.entries(model.limits)) {
        const [own, wanted] = [adapter.limits[name], needed].map((bytes) => Math.ceil(bytes / (1 << 20)));
        if (needed > adapter.limits[name]) {
            throw new Error(`This model needs ${wanted} MiB in one piece (${name}), this graphics adapter has ${own}: try another device.`);
        }
    }
    const subgroups = adapter.features.has("subgroups");
    const requiredFeatures = subgroups ? ["subgroups"] : [];
    const device = await adapter.requestDevice({ requiredFeatures, requiredLimits: model.limits });
    const session = { device, model, info: adapter.info, subgroups, lost: null, problem: null, plans: new Map() };
    Object.assign(session, { modules: new Map(), pipelines: new Map(), weights: null, speed: FIRST_SPEED, stepTime: Infinity });
    device.lost.then(({ message }) => { session.lost = message.replace(/\.$/, "") || "it doesn't say why"; });
    device.onuncapturederror = ({ error }) => { session.problem ??= error.message; };
    return session;
}

/// Fails if the device is lost, or refused what it was asked for.
function checkDevice(session) {
    if (session.lost !== null) {
        throw new Error(`The graphics device was lost (${session.lost}): try again on a new one.`);
    }
    if (session.problem !== null) {
        throw new Error(`The graphics device refused its work: ${session.problem}`);
    }
}

/// Calls `make`; what the device refuses within it is an error.
async function checked(session, make) {
    const { device } = session;
    ["out-of-memory", "validation"].forEach((filter) => device.pushErrorScope(filter));
    const made = await make().catch((error) => error);
    const validation = await device.popErrorScope();
    const memory = await device.popErrorScope();
    checkDevice(session);
    // What was made in vain goes with the device.
    session.problem = (memory ?? validation)?.message ?? null;
    if (memory) {
        throw new Error("The graphics device has too little memory left: close other tabs and draw again.");
    }
    if (validation || made instanceof Error) {
        throw validation ? new Error(validation.message) : made;
    }
    return made;
}

// Frames

/// What is known to compute on the CPU.
const CPU_DRIVERS = /swiftshader|llvmpipe|lavapipe|basic render|warp/i;

function computesOnCpu({ vendor, architecture, device, description, isFallbackAdapter }) {
    return isFallbackAdapter === true || CPU_DRIVERS.test([vendor, architecture, device, description].join(" "));
}

/// The frames that are made for this kind of device, the smallest batch first.
function framesFor(session, guided) {
    const { info, model, subgroups } = session;
    const lanes = subgroups && info.subgroupMinSize === info.subgroupMaxSize ? info.subgroupMinSize : 0;
    const onCpu = computesOnCpu(info);
    const fits = ({ device, subgroup }) => device === "gpu" || (onCpu && (subgroup === 0 || subgroup === lanes));
    const possible = model.frames.filter((frame) => frame.guided === guided && fits(frame));
    const own = possible.filter(({ device }) => device === "cpu");
    return (own.length > 0 ? own : possible).sort((a, b) => a.batch - b.batch);
}

/// The share of a batch from which on it is worth the whole: a GPU takes hardly longer for more images.
const WORTH = { cpu: 0.7, gpu: 0.2 };

/// The batches for `count` images: the frame of each and the number of its first image.
function batchesOf(session, count, guided) {
    const frames = framesFor(session, guided);
    const worth = computesOnCpu(session.info) ? WORTH.cpu : WORTH.gpu;
    const batches = [];
    for (let first = 0; first < count;) {
        const left = count - first;
        const frame = frames.findLast(({ batch }) => left >= worth * batch) ?? frames[0];
        batches.push({ frame, first });
        first += frame.batch;
    }
    return batches;
}

/// Puts what draws these frames on the device, and takes away all others. `report(done, of)` hears of pipelines.
async function preparePlans(session, frames, report) {
    for (const [frame, { owned }] of session.plans) {
        if (!frames.includes(frame)) {
            owned.forEach((buffer) => buffer.destroy());
            session.plans.delete(frame);
        }
    }
    const missing = frames.filter((frame) => !session.plans.has(frame));
    const recordings = missing.map((frame) => recordingsOf(session, frame));
    await preparePipelines(session, recordings.flat(), report);
    for (const [n, frame] of missing.entries()) {
        const set = session.model.recordings.sets[frame.set];
        session.plans.set(frame, await checked(session, async () => {
            return makePlan(session, frame, set, recordings[n], await uploadWeights(session, set));
        }));
    }
}

function recordingsOf(session, frame) {
    const { recordings } = session.model.recordings.sets[frame.set];
    return ["start", "denoise"].map((name) => recordings.find((recording) => recording.name === name));
}

async function preparePipelines(session, recordings, report) {
    const used = recordings.flatMap(({ dispatches }) => dispatches.map(({ pipeline }) => pipeline));
    const missing = [...new Set(used)].filter((number) => !session.pipelines.has(number));
    let done = 0;
    report(done, missing.length);
    await Promise.all(missing.map(async (number) => {
        session.pipelines.set(number, await makePipeline(session, number));
        report(++done, missing.length);
    }));
    checkDevice(session);
}

async function makePipeline(session, number) {
    const { kernels, pipelines } = session.model.recordings;
    const { kernel, entry, constants } = pipelines[number];
    if (!session.modules.has(kernel)) {
        session.modules.set(kernel, session.device.createShaderModule({ code: sourceOf(session.model, kernel) }));
    }
    const compute = { module: session.modules.get(kernel), entryPoint: entry, constants };
    try {
        return await session.device.createComputePipelineAsync({ layout: "auto", compute });
    } catch (error) {
        checkDevice(session);
        throw new Error(`This browser does not compile ${kernels[kernel].label}.${entry}: ${error.message}`);
    }
}

function sourceOf(model, kernel) {
    const { files, needs } = model.recordings.kernels[kernel];
    const source = files.map((file) => model.recordings.files[file].text).join("\n");
    return needs.includes("subgroups") ? `enable subgroups;\n${source}` : source;
}

/// The weights' buffer, which all frames share.
async function uploadWeights(session, set) {
    const { device, model } = session;
    if (session.weights) {
        return session.weights;
    }
    const { bytes } = set.buffers.find(({ name }) => name === model.buffers.weights);
    const buffer = storage(device, bytes);
    for (let first = 0; first < model.weights.elements; first += PIECE) {
        const count = Math.min(PIECE, model.weights.elements - first);
        device.queue.writeBuffer(buffer, 4 * first, weightsOf(model, first, count));
        await pause();
    }
    session.weights = buffer;
    return buffer;
}

function storage(device, size) {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    return device.createBuffer({ size, usage });
}

function makePlan(session, frame, set, recordings, weights) {
    const { device, model } = session;
    const own = set.buffers.map(({ name, bytes }) => name === model.buffers.weights ? weights : storage(device, bytes));
    set.buffers.forEach(({ contents }, index) => {
        if (contents) {
            device.queue.writeBuffer(own[index], 0, model.binary, ...contents);
        }
    });
    const named = (name) => own[set.buffers.findIndex((buffer) => buffer.name === name)];
    const step = uniform(device, model.recordings.step.bytes);
    const [start, denoise] = recordings.map((recording) => makeReplay(session, recording, own, step));
    const staging = [0, 1].map(() => makeStaging(device, frame, model));
    const owned = [...own.filter((buffer) => buffer !== weights), step, ...start.owned, ...denoise.owned, ...staging];
    const [images, labels] = [named(model.buffers.images), named(model.buffers.labels)];
    return { frame, images, labels, step, start, denoise, staging, owned };
}

function uniform(device, size) {
    return device.createBuffer({ size, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
}

function makeStaging(device, frame, model) {
    const size = frame.batch * 4 * paddedSize(model.image);
    return device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
}

/// A recording with its slots, parameters and bind groups.
function makeReplay(session, recording, buffers, step) {
    const { device, model } = session;
    const slots = recording.slots.map((bytes) => storage(device, bytes));
    const params = uniform(device, 256 * recording.dispatches.length);
    device.queue.writeBuffer(params, 0, paramsOf(recording, model.binary));
    const place = (tensor) => {
        const [buffer, offset] = tensor.slot ? [slots[tensor.slot[0]], tensor.slot[1]] : [buffers[tensor.buffer[0]], tensor.buffer[1]];
        return { buffer, offset, size: tensor.bytes };
    };
    const dispatches = recording.dispatches.map(({ pipeline: number, io, grid, flops }, index) => {
        const pipeline = session.pipelines.get(number);
        const known = model.recordings.pipelines[number];
        const entries = io.map((tensor, n) => ({ binding: known.bindings[n], resource: place(recording.tensors[tensor]) }));
        if (known.params) {
            const resource = { buffer: params, offset: 256 * index, size: known.params.bytes };
            entries.push({ binding: known.params.binding, resource });
        }
        if (known.step !== undefined) {
            entries.push({ binding: known.step, resource: { buffer: step } });
        }
        return { pipeline, group: device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }), grid, flops };
    });
    return { dispatches, flops: dispatches.reduce((sum, { flops }) => sum + flops, 0), owned: [...slots, params] };
}

/// The parameters of all dispatches, 256 bytes each.
function paramsOf({ dispatches }, binary) {
    const lines = new Uint8Array(256 * dispatches.length);
    dispatches.forEach(({ params }, index) => {
        if (params) {
            lines.set(binary.subarray(params[0], params[0] + params[1]), 256 * index);
        }
    });
    return lines;
}

// Drawing

/// Arithmetic a millisecond that is taken for granted until a step was timed.
const FIRST_SPEED = 1e7;
/// Milliseconds of work that are submitted at a time: the browser draws its windows on the same device.
const SUBMISSION = 40;
/// Steps of fewer milliseconds are submitted one ahead, so that the device never waits; longer ones could not be stopped soon.
const SHORT_STEP = 100;

/// Draws `count` images with a program of the model, batch by batch. `watch({ first, step, of, done, pixels })` is called behind
/// every step, step 0 being the noise: `done` is the share of all steps, `pixels()` gives the RGBA of the batch's images.
async function drawImages(session, request, report, watch, signal) {
    const { labels, count, guidance } = request;
    const batches = batchesOf(session, count, labels !== null && guidance !== 1);
    await preparePlans(session, [...new Set(batches.map(({ frame }) => frame))], report);
    for (const { frame, first } of batches) {
        const own = Math.min(frame.batch, count - first);
        const tell = (shown) => watch({ ...shown, done: (first + own * shown.step / shown.of) / count });
        await drawBatch(session, session.plans.get(frame), request, first, tell, signal);
    }
}

async function drawBatch(session, plan, request, first, watch, signal) {
    const { evaluations } = request.program;
    const pending = [];
    const show = async () => {
        const { step, staging, mapped, since } = pending[0];
        await mapped;
        checkDevice(session);
        const bytes = staging.getMappedRange().slice(0);
        staging.unmap();
        pending.shift();
        keepTime(session, plan, step, since);
        const shown = Math.min(plan.frame.batch, request.count - first);
        watch({ first, step, of: evaluations, pixels: () => pixelsOf(session.model.image, new Float32Array(bytes), shown) });
    };
    writeLabels(session, plan, request, first);
    try {
        for (let step = 0; step <= evaluations; step++) {
            signal?.throwIfAborted();
            pending.push(submitStep(session, plan, request, first, step));
            while (pending.length > (session.stepTime < SHORT_STEP ? 1 : 0)) {
                await show();
            }
        }
        while (pending.length > 0) {
            await show();
        }
    } finally {
        await Promise.allSettled(pending.map(({ mapped }) => mapped));
        pending.forEach(({ staging }) => staging.unmap());
    }
}

/// Learns from a step that is done how fast the device is.
function keepTime(session, plan, step, since) {
    const now = performance.now();
    if (step > 0) {
        session.stepTime = now - Math.max(since, session.lastShown);
        session.speed = plan.denoise.flops / Math.max(session.stepTime, 1);
    }
    session.lastShown = now;
}

/// The noise is step 0, evaluation i step i + 1.
function submitStep(session, plan, request, first, step) {
    const { program, seed, guidance } = request;
    const common = { seed, sample: first, guidance };
    const since = performance.now();
    const staging = plan.staging[step % 2];
    if (step === 0) {
        replay(session, plan, plan.start, { ...common, noise: program.initial_scale }, staging);
    } else {
        const each = Object.entries(program.each).map(([name, values]) => [name, values[step - 1]]);
        const values = { ...common, counter: step - 1, ...program.same, ...Object.fromEntries(each) };
        replay(session, plan, plan.denoise, values, staging);
    }
    const mapped = staging.mapAsync(GPUMapMode.READ).catch((error) => failed(session, error));
    return { step, staging, mapped, since };
}

/// Why nothing came back: a lost device says so a little later.
async function failed(session, error) {
    await Promise.race([session.device.lost, new Promise((resolve) => setTimeout(resolve, 500))]);
    checkDevice(session);
    throw error;
}

/// Submits all dispatches in pieces, then a copy of the images.
function replay(session, plan, { dispatches }, values, staging) {
    const { device } = session;
    device.queue.writeBuffer(plan.step, 0, stepBytes(session.model.recordings.step, values));
    for (const piece of piecesOf(dispatches, session.speed * SUBMISSION)) {
        const encoder = device.createCommandEncoder();
        const pass = encoder.beginComputePass();
        for (const { pipeline, group, grid } of piece) {
            pass.setPipeline(pipeline);
            pass.setBindGroup(0, group);
            pass.dispatchWorkgroups(...grid);
        }
        pass.end();
        device.queue.submit([encoder.finish()]);
    }
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(plan.images, 0, staging, 0, staging.size);
    device.queue.submit([encoder.finish()]);
}

/// Dispatches one behind the other, in pieces of at most `most` arithmetic unless a single one has more.
function piecesOf(dispatches, most) {
    const pieces = [[]];
    let sum = 0;
    for (const dispatch of dispatches) {
        if (sum > 0 && sum + dispatch.flops > most) {
            pieces.push([]);
            sum = 0;
        }
        pieces[pieces.length - 1].push(dispatch);
        sum += dispatch.flops;
    }
    return pieces;
}

/// The step's uniform; fields without a value are 0.
function stepBytes({ bytes, fields }, values) {
    const view = new DataView(new ArrayBuffer(bytes));
    for (const { name, offset, float } of fields) {
        const value = values[name] ?? 0;
        float ? view.setFloat32(offset, value, true) : view.setUint32(offset, value, true);
    }
    return view.buffer;
}

function writeLabels(session, plan, { labels }, first) {
    if (!plan.labels) {
        return;
    }
    const { batch, guided } = plan.frame;
    const words = new Uint32Array(plan.labels.size / 4);
    for (let n = 0; n < batch; n++) {
        words[n] = labels[Math.min(first + n, labels.length - 1)];
    }
    if (guided) {
        words.fill(session.model.null_class, batch, 2 * batch);
    }
    session.device.queue.writeBuffer(plan.labels, 0, words);
}

// Pixels

/// Numbers of an image on the device, whose channels are padded.
function paddedSize({ height, width, channels }) {
    return height * width * Math.ceil(channels / 4) * 4;
}

/// -1 to 0, 1 to 255, rounded in single precision as `diffuse sample` does it.
function level(value) {
    return Math.min(Math.max(Math.round(Math.fround(Math.fround(value + 1) * 127.5)), 0), 255);
}

/// The first `count` images of a batch, RGBA. What is no number is magenta.
function pixelsOf(image, values, count) {
    const stride = Math.ceil(image.channels / 4) * 4;
    const [green, blue] = image.channels < 3 ? [0, 0] : [1, 2];
    const size = image.height * image.width;
    return Array.from({ length: count }, (_, n) => {
        const rgba = new Uint8ClampedArray(4 * size).fill(255);
        for (let pixel = 0; pixel < size; pixel++) {
            const at = (n * size + pixel) * stride;
            const finite = Number.isFinite(values[at] + values[at + green] + values[at + blue]);
            rgba[4 * pixel] = finite ? level(values[at]) : 255;
            rgba[4 * pixel + 1] = finite ? level(values[at + green]) : 0;
            rgba[4 * pixel + 2] = finite ? level(values[at + blue]) : 255;
        }
        return rgba;
    });
}

// Settings

/// What the page asks for where nothing else is said.
function defaultsOf(model) {
    return { class: "each", ...model.defaults };
}

/// The settings that a location's hash names, as far as the model has them.
function settingsOfHash(model, hash) {
    // A + stands for itself there, for dpm++.
    const asked = new URLSearchParams(hash.replace(/^#/, "").replaceAll("+", "%2B"));
    const settings = defaultsOf(model);
    const number = (name, low, high, whole) => {
        const value = Number(asked.get(name) || NaN);
        if (value >= low && value <= high && (!whole || Number.isInteger(value))) {
            settings[name] = value;
        }
    };
    number("count", 1, 64, true);
    number("seed", 0, 0xffffffff, true);
    number("guidance", -20, 20, false);
    number("steps", 1, 1e6, true);
    if (model.samplers.some(({ name }) => name === asked.get("sampler"))) {
        settings.sampler = asked.get("sampler");
    }
    if (model.classes && Number(asked.get("class") ?? NaN) in model.classes) {
        settings.class = Number(asked.get("class"));
    }
    return { ...settings, steps: programOf(model, settings).steps };
}

/// The sampler's program of so many steps, or of the number that is nearest.
function programOf(model, { sampler, steps }) {
    const { programs } = model.samplers.find(({ name }) => name === sampler) ?? model.samplers[0];
    return programs.reduce((best, program) => Math.abs(program.steps - steps) < Math.abs(best.steps - steps) ? program : best);
}

/// What the engine draws for some settings.
function requestOf(model, settings) {
    const { count, guidance, seed } = settings;
    const own = (n) => settings.class === "each" ? n % model.classes.length : settings.class;
    const labels = model.classes && Array.from({ length: count }, (_, n) => own(n));
    return { program: programOf(model, settings), labels, count, guidance: model.null_class === null ? 1 : guidance, seed };
}

// The film

/// Bytes, and steps, of a drawing that are kept for the slider.
const FILM = { bytes: 1 << 27, steps: 64 };

/// A drawing's steps, as many as may be kept, evenly spaced with the first and the last.
function makeFilm(image, count, steps) {
    const bytes = 4 * image.height * image.width * count;
    const most = Math.max(2, Math.min(FILM.steps, Math.floor(FILM.bytes / bytes), steps + 1));
    const numbers = Array.from({ length: most }, (_, n) => Math.round(n * steps / (most - 1)));
    return { steps, numbers, frames: new Map(numbers.map((number) => [number, new Array(count).fill(null)])) };
}

// The page

/// Pixels between two images on the screen, and the least width of one where there are several in a row.
const [GAP, SMALLEST] = [4, 40];

/// Why there is no WebGPU here, and what to do.
function advice({ userAgent }, secure) {
    if (!secure) {
        return "Browsers keep WebGPU from pages that come over plain http: save this page and open the file, or serve it over https.";
    }
    if (/Firefox/.test(userAgent)) {
        return "In Firefox open about:config, set dom.webgpu.enabled and gfx.webgpu.ignore-blocklist to true, and restart.";
    }
    if (/Safari/.test(userAgent) && !/Chrome|Chromium|Edg/.test(userAgent)) {
        return "Safari has it from version 26 on; before that, switch on WebGPU under Develop, Feature Flags.";
    }
    const scheme = /Edg/.test(userAgent) ? "edge" : "chrome";
    const linux = /Linux/.test(userAgent) && !/Android/.test(userAgent);
    const flags = ["enable-unsafe-webgpu", ...(linux ? ["enable-vulkan"] : [])].map((flag) => `${scheme}://flags/#${flag}`);
    return `Open ${flags.join(" and ")}, choose Enabled and relaunch; graphics acceleration must be on under ${scheme}://settings/system.`;
}

const short = (number) => number < 9.95 ? number.toFixed(1) : Math.round(number);
const timeOf = (milliseconds) => milliseconds < 1000 ? `${short(milliseconds)} ms` : `${short(milliseconds / 1000)} s`;
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;

function startPage() {
    const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));
    let model = null;
    let session = null;
    let drawing = null;
    let running = Promise.resolve();
    let stopping = new AbortController();
    let player = null;

    // What it says

    const say = (message) => { element.status.textContent = message; };
    const tell = (message, share) => {
        element.numbers.textContent = message;
        element.progress.value = share;
    };
    const complain = (message) => {
        element.problem.hidden = message === null;
        element.message.textContent = message ?? "";
    };

    function describe() {
        const { image, classes, weights } = model;
        const color = image.channels < 3 ? "grey" : "colour";
        const parts = [`${image.width} × ${image.height} pixels, ${color}`, classes && counted(classes.length, "class"),
            counted(weights.parameters, "parameter"), `made by ${model.made_by}`];
        element.about.textContent = parts.filter(Boolean).join("\u00a0· ");
    }

    function describeMachine(milliseconds) {
        const { vendor, architecture, device, description } = session.info;
        const name = description || [vendor, architecture, device].filter(Boolean).join(" ") || "an adapter that this browser doesn't name";
        const time = milliseconds === null ? "" : ` · ${counted(session.pipelines.size, "kernel")} · ${timeOf(milliseconds)} a step`;
        element.machine.textContent = `Drawn on ${name}${time}`;
    }

    // Settings

    const option = (value, label) => new Option(label, value);

    function fillChoices() {
        const named = (name, n) => name === String(n) ? name : `${n}: ${name}`;
        if (model.classes) {
            element.class.replaceChildren(option("each", "Each in turn"), ...model.classes.map((name, n) => option(n, named(name, n))));
        }
        element["class-field"].hidden = model.classes === null;
        element["guidance-field"].hidden = model.null_class === null;
        element.sampler.replaceChildren(...model.samplers.map(({ name, label }) => option(name, label)));
        const usual = Math.max(1, Math.round(64 / model.image.height));
        const sides = [...new Set([1, 2, 4, 8, 16, usual])].sort((a, b) => a - b);
        element.scale.replaceChildren(...sides.map((scale) => option(scale, scale === 1 ? "true size" : `× ${scale}`)));
        element.scale.value = usual;
    }

    function fillSteps(steps) {
        const { sampler } = element;
        const { programs } = model.samplers.find(({ name }) => name === sampler.value);
        element.steps.replaceChildren(...programs.map((program) => option(program.steps, program.steps)));
        element.steps.value = programOf(model, { sampler: sampler.value, steps }).steps;
    }

    function showSettings(settings) {
        ["count", "guidance", "seed", "sampler"].forEach((name) => { element[name].value = settings[name]; });
        element.class.value = settings.class;
        fillSteps(settings.steps);
    }

    function readSettings() {
        const number = (name) => Number(element[name].value);
        const chosen = model.classes && element.class.value !== "each" ? number("class") : "each";
        return { class: chosen, count: number("count"), sampler: element.sampler.value, steps: number("steps"),
            guidance: number("guidance"), seed: number("seed") };
    }

    function keepSettings(settings) {
        const hash = `#${new URLSearchParams(settings)}`;
        if (location.hash !== hash) {
            history.replaceState(null, "", hash);
        }
    }

    // Pictures

    /// As many columns as there are classes, or nearly a square; fewer where images would be small and there is height for it.
    function columnsOf(room) {
        const { total, inTurn } = drawing;
        let columns = inTurn ? Math.min(total, model.classes.length) : Math.ceil(Math.sqrt(total));
        const half = Math.ceil(columns / 2);
        if (total / half <= half) {
            columns = half;
        }
        while (columns > 1 && (room + GAP) / columns - GAP < SMALLEST) {
            columns = Math.ceil(columns / 2);
        }
        return columns;
    }

    /// Each pixel of an image takes whole pixels of the screen, if there is room for it.
    function layOut() {
        const { width } = model.image;
        const room = element.grid.parentElement.clientWidth;
        const columns = columnsOf(room);
        const most = Math.min((room + GAP) / columns - GAP, Math.max(drawing.total === 1 ? 384 : 128, width));
        const unit = width / devicePixelRatio;
        const cell = most < unit ? most : Math.floor(most / unit) * unit;
        drawing.columns = columns;
        element.grid.style.setProperty("--columns", columns);
        element.grid.style.setProperty("--cell", `${cell}px`);
    }

    function makeCanvas(label) {
        const canvas = document.createElement("canvas");
        Object.assign(canvas, { width: model.image.width, height: model.image.height });
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", label);
        return canvas;
    }

    function startFilm(request, inTurn) {
        stopPlaying();
        const { labels, program } = request;
        const film = makeFilm(model.image, request.count, program.evaluations);
        drawing = { film, total: request.count, inTurn, settings: readSettings(), steps: 0, painted: 0 };
        const about = (n) => `Image ${n + 1}${labels ? `: class ${model.classes[labels[n]]}` : ""}`;
        element.grid.replaceChildren(...Array.from({ length: request.count }, (_, n) => makeCanvas(about(n))));
        Object.assign(element.step, { max: film.numbers.length - 1, value: 0, disabled: true });
        [element.play, element.save].forEach((button) => { button.disabled = true; });
        layOut();
        labelStep(0);
    }

    function paint(n, pixels) {
        const context = element.grid.children[n].getContext("2d");
        const { width, height } = model.image;
        pixels ? context.putImageData(new ImageData(pixels, width, height), 0, 0) : context.clearRect(0, 0, width, height);
    }

    function labelStep(number) {
        element["step-label"].textContent = `Step ${number} of ${drawing.film.steps}`;
    }

    /// A step of the film, or of an image that was stopped before it the last one.
    function showFrame(index) {
        const { numbers, frames } = drawing.film;
        for (let n = 0; n < drawing.total; n++) {
            const number = numbers.slice(0, index + 1).findLast((number) => frames.get(number)[n]);
            paint(n, number === undefined ? null : frames.get(number)[n]);
        }
        element.step.value = index;
        labelStep(numbers[index]);
    }

    function keepStep({ first, step, of, done, pixels }) {
        const { film } = drawing;
        const frame = film.frames.get(step);
        const now = performance.now();
        // Steps quicker than a screen are not all shown.
        if (frame || now - drawing.painted > 16) {
            drawing.painted = now;
            pixels().forEach((image, n) => {
                paint(first + n, image);
                if (frame) {
                    frame[first + n] = image;
                }
            });
        }
        if (frame) {
            element.step.value = film.numbers.indexOf(step);
        }
        labelStep(step);
        drawing.steps += step > 0 ? 1 : 0;
        const batch = first > 0 ? `, from image ${first + 1} on` : "";
        tell(`step ${step} of ${of}${batch}`, done);
    }

    /// What was drawn can be looked at, and saved.
    function openFilm() {
        const whole = drawing.film.numbers.filter((number) => drawing.film.frames.get(number).some(Boolean));
        drawing.film.numbers = whole;
        Object.assign(element.step, { max: Math.max(whole.length - 1, 0), disabled: whole.length < 2 });
        element.play.disabled = whole.length < 2;
        element.save.disabled = whole.length < 1;
        if (whole.length > 0) {
            showFrame(whole.length - 1);
        }
    }

    function stopPlaying() {
        clearInterval(player);
        player = null;
        element.play.textContent = "Play";
    }

    function play() {
        if (player !== null) {
            return stopPlaying();
        }
        const { length } = drawing.film.numbers;
        let index = 0;
        element.play.textContent = "Pause";
        player = setInterval(() => {
            showFrame(index);
            index += 1;
            if (index === length) {
                stopPlaying();
            }
        }, Math.min(Math.max(2500 / length, 30), 200));
    }

    /// The grid as it is shown, each pixel `scale` times, with 2 white pixels between images.
    function composeGrid(scale) {
        const { width, height } = model.image;
        const images = [...element.grid.children];
        const across = Math.min(drawing.columns, images.length);
        const canvas = document.createElement("canvas");
        canvas.width = across * (width * scale + 2) - 2;
        canvas.height = Math.ceil(images.length / across) * (height * scale + 2) - 2;
        const context = canvas.getContext("2d");
        context.imageSmoothingEnabled = false;
        context.fillStyle = "white";
        context.fillRect(0, 0, canvas.width, canvas.height);
        images.forEach((image, n) => {
            const [column, row] = [n % across, Math.floor(n / across)];
            context.drawImage(image, column * (width * scale + 2), row * (height * scale + 2), width * scale, height * scale);
        });
        return canvas;
    }

    function save() {
        const { sampler, steps, seed } = drawing.settings;
        composeGrid(Number(element.scale.value)).toBlob((blob) => {
            if (!blob) {
                return complain("The picture is too large for this browser: choose a smaller size.");
            }
            const link = document.createElement("a");
            Object.assign(link, { href: URL.createObjectURL(blob), download: `${model.title}-${sampler}-${steps}-seed-${seed}.png` });
            link.click();
            setTimeout(() => URL.revokeObjectURL(link.href), 60000);
        }, "image/png");
    }

    // Drawing

    async function openSession() {
        if (session && (session.lost !== null || session.problem !== null)) {
            session.device.destroy();
            session = null;
        }
        session ??= navigator.gpu ? await openDevice(navigator.gpu, model) : null;
        if (!session) {
            const what = navigator.gpu ? "This browser has WebGPU, but offers no graphics adapter to it." : "This browser has no WebGPU.";
            throw new Error(`${what} ${advice(navigator, isSecureContext)}`);
        }
    }

    async function drawOnce(settings, signal) {
        const request = requestOf(model, settings);
        startFilm(request, model.classes !== null && settings.class === "each");
        say("Preparing…");
        await openSession();
        describeMachine(null);
        const report = (done, of) => tell(`${done} of ${counted(of, "kernel")}`, of > 0 ? done / of : 1);
        let started = 0;
        const watch = (step) => {
            if (step.step === 0 && step.first === 0) {
                started = performance.now();
                say("Drawing…");
            }
            keepStep(step);
        };
        await drawImages(session, request, report, watch, signal);
        const took = performance.now() - started;
        say(`${counted(request.count, "image")} in ${timeOf(took)}`);
        tell("", 1);
        describeMachine(took / drawing.steps);
    }

    async function attempt(settings, signal) {
        if (signal.aborted) {
            return;
        }
        element.stop.disabled = false;
        complain(null);
        try {
            await drawOnce(settings, signal);
        } catch (error) {
            tell("", 0);
            say(signal.aborted ? "Stopped." : "");
            if (!signal.aborted) {
                complain(error.message);
            }
        }
        element.stop.disabled = true;
        openFilm();
    }

    /// Draws what is set, in the place of what is being drawn.
    function restart() {
        if (!element.settings.reportValidity()) {
            return;
        }
        const settings = readSettings();
        stopping.abort();
        stopping = new AbortController();
        const { signal } = stopping;
        running = running.then(() => attempt(settings, signal));
        keepSettings(settings);
    }

    function anotherSeed() {
        element.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
        restart();
    }

    function listen() {
        element.settings.addEventListener("submit", (event) => {
            event.preventDefault();
            restart();
        });
        element.sampler.addEventListener("change", () => fillSteps(Number(element.steps.value)));
        element.another.addEventListener("click", anotherSeed);
        element.stop.addEventListener("click", () => {
            say("Stopping…");
            stopping.abort();
        });
        element.play.addEventListener("click", play);
        element.save.addEventListener("click", save);
        element.step.addEventListener("input", () => {
            stopPlaying();
            showFrame(Number(element.step.value));
        });
        addEventListener("hashchange", () => {
            showSettings(settingsOfHash(model, location.hash));
            restart();
        });
        addEventListener("resize", () => drawing && layOut());
    }

    async function open() {
        say("Reading the model…");
        await pause();
        const blocks = ["model", "binary", "weights"];
        model = await readModel(...blocks.map((id) => element[id].textContent));
        blocks.forEach((id) => element[id].remove());
        describe();
        fillChoices();
        showSettings(settingsOfHash(model, location.hash));
        listen();
        element.draw.disabled = false;
        restart();
    }

    element.retry.addEventListener("click", () => model ? restart() : location.reload());
    open().catch((error) => {
        say("");
        complain(error.message);
    });
}

if (typeof document !== "undefined") {
    startPage();
}

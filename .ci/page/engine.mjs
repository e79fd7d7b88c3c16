// An exported page's engine and model, outside of a browser.
import { readFileSync } from "node:fs";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);

const NAMES = ["readModel", "openDevice", "drawImages", "requestOf", "settingsOfHash", "programOf"];

// The script of a page as functions, and what stands in its three blocks.
export function loadPage(path) {
    const html = readFileSync(path, "utf8");
    const block = (id) => html.match(new RegExp(`<script id="${id}"[^>]*>([^]*?)</script>`))[1];
    const script = html.match(/<script>([^]*?)<\/script>/)[1];
    const engine = new Function(`${script}\nreturn { ${NAMES.join(", ")} };`)();
    return { engine, blocks: ["model", "binary", "weights"].map(block) };
}

// The page's model on Dawn's adapter.
export async function openPage(path) {
    const { engine, blocks } = loadPage(path);
    const model = await engine.readModel(...blocks);
    nap();
    // Dawn lives as long as somebody holds this.
    globalThis.gpu = create([]);
    const session = await engine.openDevice(globalThis.gpu, model);
    if (!session) {
        throw new Error("Dawn finds no adapter that it takes: it wants a newer driver than stock lavapipe of Debian 12");
    }
    return { engine, model, session };
}

// Dawn's binding asks without a pause whether work is done, which takes the driver's threads a core: it gets a millisecond's sleep.
function nap() {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    setImmediate(nap);
}

// What a location's hash asks for: { images, steps } as RGBA and milliseconds a step.
export async function drawHash({ engine, model, session }, hash) {
    const request = engine.requestOf(model, engine.settingsOfHash(model, hash));
    const images = [];
    const times = [];
    const watch = ({ first, step, of, pixels }) => {
        times.push(performance.now());
        if (step === of) {
            pixels().forEach((pixels, n) => { images[first + n] = pixels; });
        }
    };
    await engine.drawImages(session, request, () => {}, watch);
    const steps = times.slice(1).map((time, n) => time - times[n]).sort((a, b) => a - b);
    return { images, step: steps[Math.floor(steps.length / 2)] };
}

// Opens an exported page in a headless Chromium on SwiftShader and does to it what people do; README.md says what it looks at.
//   usage: node browser.mjs CHROMIUM PAGE.html PICTURES [HASH FOLDER]...
// Screenshots go to PICTURES; HASH and FOLDER as in compare.mjs. ONLY=reloads,looksWell does but these.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { difference } from "./png.mjs";

const FLAGS = ["--no-sandbox", "--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-vulkan=swiftshader",
    "--use-webgpu-adapter=swiftshader", "--ignore-gpu-blocklist", "--enable-unsafe-swiftshader"];
// Milliseconds that the page may be deaf.
const DEAF = 100;

const [executablePath, file, pictures, ...drawings] = process.argv.slice(2);
const address = pathToFileURL(resolve(file)).href;
const browser = await chromium.launch({ executablePath, args: FLAGS });
let failures = 0;

function tell(what, good, more = "") {
    failures += good ? 0 : 1;
    console.log(`${good ? "" : "WRONG: "}${what}${more ? `: ${more}` : ""}`);
}

// A page whose console and requests are watched, with `before` run in it before its own script.
async function open(hash, options = {}, before = () => {}) {
    const page = await browser.newPage(options);
    page.said = [];
    page.on("console", (message) => page.said.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => page.said.push(`error: ${error.message}`));
    page.on("request", (request) => {
        const own = request.url().split("#")[0] === address || /^(data|blob):/.test(request.url());
        if (!own) {
            page.said.push(`request: ${request.url()}`);
        }
    });
    await page.addInitScript(before);
    await page.goto(`${address}#${hash}`);
    return page;
}

const until = (page, holds, argument = null) => page.waitForFunction(holds, argument, { timeout: 600000 });
const drawn = (page) => until(page, () => / images? in /.test(document.querySelector("#status").textContent));
const atStep = (page, step) =>
    until(page, (step) => document.querySelector("#step-label").textContent.startsWith(`Step ${step} `), step);

// What the page complains of, as soon as it does.
async function complaint(page) {
    await until(page, () => !document.querySelector("#problem").hidden);
    return page.locator("#message").textContent();
}

const imagesOf = (page) => page.evaluate(() => [...document.querySelectorAll("#grid canvas")].map((canvas) =>
    [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]));

// Called in the page before its script: keeps the device at hand, and times for how long the page doesn't answer.
function watchPage() {
    const request = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...descriptor) {
        window.device = await request.apply(this, descriptor);
        window.devices = (window.devices ?? 0) + 1;
        return window.device;
    };
    let last = performance.now();
    window.late = 0;
    setInterval(() => {
        const now = performance.now();
        window.late = Math.max(window.late, now - last - 20);
        last = now;
    }, 20);
    window.long = [];
    new PerformanceObserver((list) => window.long.push(...list.getEntries().map(({ startTime, duration }) => [startTime, duration])))
        .observe({ type: "longtask", buffered: true });
}

async function drawsAsSampleDoes() {
    for (let n = 0; n < drawings.length; n += 2) {
        const [hash, folder] = drawings.slice(n, n + 2);
        const page = await open(hash);
        await drawn(page);
        const { largest, differing } = difference(await imagesOf(page), folder);
        const machine = await page.locator("#machine").textContent();
        const told = [`${differing} values differ, by ${largest} of 255 at most`, machine, ...page.said].join("; ");
        tell(hash, largest <= 1 && page.said.length === 0, told);
        await page.close();
    }
}

async function looksWell() {
    for (const [width, colorScheme] of [[360, "light"], [400, "dark"], [900, "light"], [1600, "dark"], [1600, "light"]]) {
        const page = await open("", { viewport: { width, height: width < 500 ? 800 : 900 }, colorScheme });
        await drawn(page);
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        await page.screenshot({ path: join(pictures, `${width}-${colorScheme}.png`), fullPage: true });
        tell(`${width} pixels wide, ${colorScheme}`, over <= 0 && page.said.length === 0, page.said.join("; "));
        await page.close();
    }
}

async function staysAwake() {
    const page = await open("steps=50", {}, watchPage);
    await atStep(page, 2);
    const since = await page.evaluate(() => {
        window.late = 0;
        return performance.now();
    });
    await drawn(page);
    const { late, long } = await page.evaluate(() => ({ late: window.late, long: window.long }));
    const longest = (tasks) => Math.max(0, ...tasks.map(([, duration]) => duration));
    const [before, during] = [long.filter(([start]) => start < since), long.filter(([start]) => start >= since)].map(longest);
    const told = `longest task ${during} ms, timers ${late.toFixed(0)} ms late at most; while it opens, longest task ${before} ms`;
    tell("answers while it draws", during < DEAF && late < DEAF, told);
    await page.close();
}

async function survivesLoss() {
    const page = await open("steps=20&seed=5", {}, watchPage);
    await atStep(page, 3);
    await page.evaluate(() => window.device.destroy());
    const message = await complaint(page);
    await page.screenshot({ path: join(pictures, "lost.png"), fullPage: true });
    await page.locator("#retry").click();
    await drawn(page);
    tell("a lost device", await page.evaluate(() => window.devices) === 2, message);
    await page.evaluate(() => window.device.destroy());
    await page.locator("#draw").click();
    await drawn(page);
    const quiet = await page.locator("#problem").isHidden();
    tell("a device that is lost between drawings", quiet && await page.evaluate(() => window.devices) === 3);
    await page.close();
}

async function reloads() {
    const page = await open("steps=20&seed=6&count=4");
    await atStep(page, 3);
    await page.reload();
    await drawn(page);
    const seed = await page.locator("#seed").inputValue();
    tell("a reload in the middle", (await imagesOf(page)).length === 4 && seed === "6", page.said.join("; "));
    await page.close();
}

async function stopsAndRestarts() {
    const page = await open("steps=50&seed=7", {}, watchPage);
    await atStep(page, 2);
    const since = Date.now();
    await page.locator("#stop").click();
    await page.waitForFunction(() => document.querySelector("#status").textContent === "Stopped.");
    const stopped = Date.now() - since;
    await page.locator("#steps").selectOption("20");
    await page.locator("#draw").click();
    await atStep(page, 2);
    await page.locator("#count").fill("3");
    await page.locator("#draw").click();
    await drawn(page);
    const told = [`${stopped} ms to stop`, ...page.said].join("; ");
    tell("stopped and restarted", (await imagesOf(page)).length === 3 && page.said.length === 0, told);
    await page.close();
}

async function savesAndSlides() {
    const page = await open("count=4&seed=8");
    await drawn(page);
    const last = await imagesOf(page);
    await page.locator("#scale").selectOption("2");
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#save").click()]);
    const saved = join(pictures, "saved.png");
    await download.saveAs(saved);
    const side = Math.sqrt(last[0].length / 4);
    const header = readFileSync(saved);
    const sizes = [header.readUInt32BE(16), header.readUInt32BE(20)];
    const wanted = 2 * (2 * side + 2) - 2;
    tell("saved", sizes.every((size) => size === wanted), `${download.suggestedFilename()}, ${sizes.join(" x ")}`);
    await page.locator("#step").focus();
    await page.keyboard.press("Home");
    const first = await imagesOf(page);
    await page.keyboard.press("End");
    const again = await imagesOf(page);
    tell("slides", String(first) !== String(last) && String(again) === String(last), await page.locator("#step-label").textContent());
    await page.close();
}

async function saysWhatIsMissing() {
    const none = await open("", {}, () => delete Navigator.prototype.gpu);
    tell("without WebGPU", /no WebGPU/.test(await complaint(none)), await complaint(none));
    await none.screenshot({ path: join(pictures, "none.png"), fullPage: true });
    await none.close();
    const adapter = await open("", {}, () => { GPU.prototype.requestAdapter = async () => null; });
    tell("without an adapter", /adapter/.test(await complaint(adapter)), await complaint(adapter));
    await adapter.close();
    const compiler = await open("", {}, () => {
        GPUDevice.prototype.createComputePipelineAsync = async () => { throw new Error("it says so"); };
    });
    tell("with a compiler that refuses", /compile/.test(await complaint(compiler)), await complaint(compiler));
    await compiler.close();
}

const checks = [drawsAsSampleDoes, looksWell, staysAwake, survivesLoss, reloads, stopsAndRestarts, savesAndSlides, saysWhatIsMissing];
const { ONLY } = process.env;
for (const check of checks.filter(({ name }) => !ONLY || ONLY.split(",").includes(name))) {
    await check().catch((error) => tell(check.name, false, error.message));
    await Promise.all(browser.contexts().map((context) => context.close()));
}
await browser.close();
process.exit(failures > 0 ? 1 : 0);

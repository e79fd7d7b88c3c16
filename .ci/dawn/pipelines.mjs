// Makes every pipeline of FOLDER/modules.json through Dawn; says what it refuses, and fails if it refuses any.
//   usage: node pipelines.mjs FOLDER
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { create } from "webgpu";

const folder = process.argv[2];
// Dawn lives as long as somebody holds this.
globalThis.gpu = create([]);
const adapter = await globalThis.gpu.requestAdapter();
if (!adapter) {
    console.error("Dawn finds no adapter that it takes: it wants a newer driver than stock lavapipe of Debian 12");
    process.exit(2);
}
const subgroups = adapter.features.has("subgroups");
const device = await adapter.requestDevice({ requiredFeatures: subgroups ? ["subgroups"] : [] });

// What Dawn says against a module, or against one of its pipelines.
async function refusals({ file, pipelines }) {
    const module = device.createShaderModule({ code: readFileSync(join(folder, file), "utf8") });
    const errors = (await module.getCompilationInfo()).messages.filter(({ type }) => type === "error");
    if (errors.length > 0) {
        return errors.map(({ lineNum, linePos, message }) => `${file}:${lineNum}:${linePos}: ${message}`);
    }
    const made = pipelines.map(async ({ entry, constants }) => {
        const compute = { module, entryPoint: entry, constants };
        try {
            await device.createComputePipelineAsync({ layout: "auto", compute });
            return [];
        } catch (error) {
            return [`${file}: ${entry} ${JSON.stringify(constants)}: ${error.message}`];
        }
    });
    return (await Promise.all(made)).flat();
}

const modules = JSON.parse(readFileSync(join(folder, "modules.json"), "utf8"));
const possible = modules.filter((module) => subgroups || !module.subgroups);
let refused = 0;
for (const module of possible) {
    for (const refusal of await refusals(module)) {
        console.error(refusal);
        refused += 1;
    }
}
const count = possible.reduce((sum, { pipelines }) => sum + pipelines.length, 0);
console.log(`${adapter.info.description}: ${possible.length} of ${modules.length} modules, ${count} pipelines, ${refused} refused`);
process.exit(refused > 0 || count === 0 ? 1 : 0);

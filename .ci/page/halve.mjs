// Copies a checkpoint with its weights rounded to half precision, as a page holds them.
//   usage: node halve.mjs CHECKPOINT COPY
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const WEIGHTS = "diffusion_pytorch_model.safetensors";

// The bits of the number in half precision that is nearest, of two the even one.
function halfOf(value) {
    const magnitude = Math.abs(value);
    const exponent = Math.max(Math.floor(Math.log2(magnitude)), -14);
    const scaled = magnitude / 2 ** (exponent - 10);
    const below = Math.floor(scaled);
    const up = scaled - below > 0.5 || (scaled - below === 0.5 && below % 2 === 1);
    return (value < 0 ? 0x8000 : 0) + (exponent + 14) * 1024 + below + (up ? 1 : 0);
}

const [from, to] = process.argv.slice(2);
const bytes = readFileSync(join(from, WEIGHTS));
const headerBytes = Number(bytes.readBigUInt64LE(0));
const { __metadata__, ...tensors } = JSON.parse(bytes.toString("utf8", 8, 8 + headerBytes));
const header = { __metadata__ };
const parts = [];
let end = 0;
for (const [name, { dtype, shape, data_offsets: [first, last] }] of Object.entries(tensors)) {
    if (dtype !== "F32") {
        throw new Error(`${join(from, WEIGHTS)}: ${name} is ${dtype}, not F32`);
    }
    const part = Buffer.alloc((last - first) / 2);
    for (let at = 0; at < part.length; at += 2) {
        part.writeUInt16LE(halfOf(bytes.readFloatLE(8 + headerBytes + first + 2 * at)), at);
    }
    header[name] = { dtype: "F16", shape, data_offsets: [end, end + part.length] };
    end += part.length;
    parts.push(part);
}
const text = Buffer.from(JSON.stringify(header));
const length = Buffer.alloc(8);
length.writeBigUInt64LE(BigInt(text.length));
mkdirSync(to, { recursive: true });
writeFileSync(join(to, WEIGHTS), Buffer.concat([length, text, ...parts]));
["config.json", "scheduler_config.json"].forEach((name) => copyFileSync(join(from, name), join(to, name)));

// Reads PNG files as `diffuse sample` writes them (8 bits, grey or RGB, not interlaced), and compares images with them.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { inflateSync } from "node:zlib";

function chunksOf(bytes) {
    const chunks = [];
    for (let at = 8; at < bytes.length;) {
        const length = bytes.readUInt32BE(at);
        chunks.push({ type: bytes.toString("latin1", at + 4, at + 8), data: bytes.subarray(at + 8, at + 8 + length) });
        at += 12 + length;
    }
    return chunks;
}

// What a filter of PNG adds: of the byte to the left, the one above, and the one above to the left.
function predicted(filter, left, above, corner) {
    if (filter < 4) {
        return [0, left, above, (left + above) >> 1][filter];
    }
    const [a, b, c] = [left, above, corner].map((value) => Math.abs(left + above - corner - value));
    return a <= b && a <= c ? left : b <= c ? above : corner;
}

function unfiltered(bytes, width, height, channels) {
    const row = width * channels;
    const pixels = Buffer.alloc(row * height);
    for (let y = 0; y < height; y++) {
        const filter = bytes[y * (row + 1)];
        for (let x = 0; x < row; x++) {
            const at = y * row + x;
            const left = x >= channels ? pixels[at - channels] : 0;
            const above = y > 0 ? pixels[at - row] : 0;
            const corner = x >= channels && y > 0 ? pixels[at - row - channels] : 0;
            pixels[at] = bytes[y * (row + 1) + 1 + x] + predicted(filter, left, above, corner);
        }
    }
    return pixels;
}

// { width, height, rgba }
export function readPng(path) {
    const chunks = chunksOf(readFileSync(path));
    const { data: header } = chunks[0];
    const [width, height, depth, color] = [header.readUInt32BE(0), header.readUInt32BE(4), header[8], header[9]];
    if (depth !== 8 || (color !== 0 && color !== 2) || header[12] !== 0) {
        throw new Error(`${path}: no PNG of 8 bits, grey or RGB`);
    }
    const channels = color === 0 ? 1 : 3;
    const data = Buffer.concat(chunks.filter(({ type }) => type === "IDAT").map(({ data }) => data));
    const pixels = unfiltered(inflateSync(data), width, height, channels);
    const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
    for (let n = 0; n < 3 * width * height; n++) {
        const [pixel, channel] = [Math.floor(n / 3), n % 3];
        rgba[4 * pixel + channel] = pixels[pixel * channels + (channels === 1 ? 0 : channel)];
    }
    return { width, height, rgba };
}

// How many values of the images (RGBA) differ from those of the PNG files of a folder, and by how much at most.
export function difference(images, folder) {
    const names = readdirSync(folder).filter((name) => name.endsWith(".png")).sort();
    if (names.length !== images.length) {
        throw new Error(`${folder} holds ${names.length} images, the page drew ${images.length}`);
    }
    let [largest, differing] = [0, 0];
    names.forEach((name, n) => {
        const { rgba } = readPng(join(folder, name));
        if (rgba.length !== images[n].length) {
            throw new Error(`${join(folder, name)} is of another size than the page's images`);
        }
        rgba.forEach((value, at) => {
            largest = Math.max(largest, Math.abs(value - images[n][at]));
            differing += value === images[n][at] ? 0 : 1;
        });
    });
    return { largest, differing };
}

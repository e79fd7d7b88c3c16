// Draws with an exported page's script on Dawn, and compares with what `diffuse sample` drew.
//   usage: node compare.mjs PAGE.html [HASH FOLDER]...
// HASH is what stands behind # in the page's address, FOLDER holds 00000.png and so on, of `diffuse sample --images`.
import { drawHash, openPage } from "./engine.mjs";
import { difference } from "./png.mjs";

// Grey levels that the roundings of two compilers may lie apart.
const ALLOWED = 1;

const [file, ...drawings] = process.argv.slice(2);
if (!file || drawings.length === 0 || drawings.length % 2 === 1) {
    console.error("usage: node compare.mjs PAGE.html HASH FOLDER [HASH FOLDER]...");
    process.exit(2);
}
const page = await openPage(file);
console.log(`Dawn on ${page.session.info.description || page.session.info.vendor}`);
let wrong = 0;
for (let n = 0; n < drawings.length; n += 2) {
    const [hash, folder] = drawings.slice(n, n + 2);
    const { images, step } = await drawHash(page, hash);
    const { largest, differing } = difference(images, folder);
    wrong += largest > ALLOWED ? 1 : 0;
    const mark = largest > ALLOWED ? "WRONG: " : "";
    console.log(`${mark}${hash}: ${differing} values differ, by ${largest} of 255 at most; ${step.toFixed(1)} ms a step`);
}
process.exit(wrong > 0 ? 1 : 0);

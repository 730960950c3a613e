// One cell of benchmarks/runtimes.py: node runtimes.mjs PACKAGE APP PIXELS RESULT SIZE
// PACKAGE is onnxruntime-node or onnxruntime-web, installed in the working folder. PIXELS holds
// images of SIZE × SIZE × 3 bytes; RESULT gets the probabilities as float32.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [name, app, pixels, result, size] = process.argv.slice(2);
const ort = createRequire(join(process.cwd(), "here.js"))(name);
const bytes = new Uint8Array(readFileSync(pixels));
const shape = [1, Number(size), Number(size), 3];
const step = shape.reduce((product, length) => product * length);
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(app)));
const rows = [];
for (let start = 0; start < bytes.length; start += step) {
  const image = new ort.Tensor("uint8", bytes.slice(start, start + step), shape);
  const { probabilities } = await session.run({ images: image }, ["probabilities"]);
  rows.push(Buffer.from(Float32Array.from(probabilities.data).buffer));
}
writeFileSync(result, Buffer.concat(rows));
process.exit(0); // the threads of onnxruntime-web would keep it

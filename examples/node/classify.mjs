// Classify photos with an app of cnncodes; print a line of JSON for each.
//
//     npm install
//     node classify.mjs app.onnx PHOTO...

import { readFileSync } from "node:fs";
import { InferenceSession, Tensor } from "onnxruntime-node";
import sharp from "sharp";

/** Yield number and content of each field of a protobuf message, of those that hold bytes. */
function* fields(message) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = message[at++];
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const tag = varint();
    if (tag % 8 === 0) varint();
    else if (tag % 8 === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), message.subarray(at, at + length)];
      at += length;
    } else throw new Error("this is no ONNX model");
  }
}

/** Return the metadata of an ONNX model, which onnxruntime-node does not give. */
function metadataOf(model) {
  const entries = [...fields(model)].filter(([number]) => number === 14);
  const texts = ([, entry]) => [...fields(entry)].map(([, text]) => text.toString());
  return Object.fromEntries(entries.map(texts));
}

/** Resize the rows of an RGB image by antialiased bilinear interpolation, and transpose it. */
function resizeRows(pixels, width, size) {
  const height = pixels.length / width / 3;
  const resized = new Uint8ClampedArray(size * height * 3); // it rounds
  const scale = width / size;
  const reach = Math.max(scale, 1);
  for (let column = 0; column < size; column++) {
    const centre = (column + 0.5) * scale - 0.5;
    const first = Math.max(Math.ceil(centre - reach), 0);
    const end = Math.min(Math.floor(centre + reach) + 1, width);
    const weights = [];
    for (let x = first; x < end; x++) weights.push(1 - Math.abs(x - centre) / reach);
    const total = weights.reduce((sum, weight) => sum + weight);
    for (let row = 0; row < height; row++)
      for (let colour = 0; colour < 3; colour++) {
        const start = (row * width + first) * 3 + colour;
        const add = (sum, weight, i) => sum + weight * pixels[start + i * 3];
        resized[(column * height + row) * 3 + colour] = weights.reduce(add, 0) / total;
      }
  }
  return resized;
}

const [app, ...photos] = process.argv.slice(2);
if (photos.length === 0) throw new Error("node classify.mjs app.onnx PHOTO...");
const model = readFileSync(app);
const labels = JSON.parse(metadataOf(model)["cnncodes.labels"]);
const session = await InferenceSession.create(model);
const size = session.inputMetadata[0].shape[1];
for (const path of photos) {
  const photo = sharp(path, { ignoreIcc: true });
  if ((await photo.metadata()).depth !== "uchar") throw new Error(`${path}: 16 bits`);
  const image = photo.rotate().flatten({ background: "white" }).toColourspace("srgb").raw();
  const { data, info } = await image.toBuffer({ resolveWithObject: true });
  const pixels = resizeRows(resizeRows(data, info.width, size), info.height, size);
  const images = new Tensor("uint8", new Uint8Array(pixels.buffer), [1, size, size, 3]);
  const { probabilities } = await session.run({ images }, ["probabilities"]);
  const classes = labels.map((label, index) => [label, probabilities.data[index]]);
  classes.sort((one, other) => other[1] - one[1]);
  console.log(JSON.stringify({ path, classes }));
}

"use strict";
/* Where the answers of a page without a server come from: onnxruntime, in this browser. Its functions
   are those of backend.js. */
(() => {
  const { app } = cnncodes; // of app-data.js
  const REFUSED_FROM = 0.5; // of an app's output ‘unknown’
  const TOP = 5; // classes, as the server answers
  const PARTS = { model: [], runtime: [] }; // base64, as the files part-NAME-NUMBER.js add them
  cnncodes.part = (name, text) => PARTS[name].push(text);
  let session = null;
  let weights = null;

  function load(name) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = name;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`the file ${name} of this page is missing`));
      document.head.append(script);
    }).finally(() => document.head.lastElementChild.remove());
  }

  async function bytesOf(text) {
    const response = await fetch(`data:application/octet-stream;base64,${text}`);
    return new Uint8Array(await response.arrayBuffer());
  }

  /** Read the parts of a file, which a page that is opened from a disk can only load as scripts. */
  async function read(name, size, nParts) {
    const content = new Uint8Array(size);
    let at = 0;
    for (let number = 0; number < nParts; number++) {
      await load(`part-${name}-${number}.js`);
      const part = await bytesOf(PARTS[name].pop());
      content.set(part, at);
      at += part.length;
    }
    return content;
  }

  async function open() {
    const { env, InferenceSession } = ort;
    env.wasm.numThreads = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
    env.wasm.wasmBinary = (await read("runtime", ...app.runtime)).buffer;
    const loader = new Blob([app.loader], { type: "text/javascript" });
    env.wasm.wasmPaths = { mjs: URL.createObjectURL(loader) };
    return InferenceSession.create(await read("model", ...app.model), { executionProviders: ["wasm"] });
  }

  async function run(file) {
    session ??= open();
    const opened = await session;
    const size = app.input_size;
    const images = new ort.Tensor("uint8", await cnncodes.pixels.read(file, size), [1, size, size, 3]);
    return opened.run({ images });
  }

  const queue = { last: Promise.resolve() };
  /** Run one image after another: the session takes one at a time. */
  function inTurn(work) {
    const result = queue.last.then(work);
    queue.last = result.catch(() => {});
    return result;
  }

  /** What each cell adds to the codes, as cnncodes.app.explain computes it. */
  function shares(features, nCells, nChannels) {
    if (app.pool === "avg") return features.map((value) => value / nCells);
    if (app.pool !== "max") return features;
    const parts = new Float32Array(features.length);
    for (let channel = 0; channel < nChannels; channel++) {
      let largest = -Infinity;
      let n = 0;
      for (let at = channel; at < features.length; at += nChannels) {
        n = features[at] > largest ? 1 : n + (features[at] === largest);
        largest = Math.max(largest, features[at]);
      }
      for (let at = channel; at < features.length; at += nChannels) {
        parts[at] = features[at] === largest ? largest / n : 0;
      }
    }
    return parts;
  }

  /** Multiply what cells add to codes as the head normalises these. */
  function normalize(parts, nCodes) {
    const how = app.normalize ?? "none";
    if (how === "none") return parts;
    const codes = new Float64Array(nCodes);
    parts.forEach((part, index) => { codes[index % nCodes] += part; });
    const normal = how.includes("sqrt") ? codes.map((code) => Math.sign(code) * Math.sqrt(Math.abs(code))) : codes;
    const length = how.includes("length") ? Math.max(Math.sqrt(normal.reduce((sum, each) => sum + each * each, 0)), 1e-12) : 1;
    return parts.map((part, index) => {
      const code = codes[index % nCodes];
      return code === 0 ? 0 : part * normal[index % nCodes] / length / code;
    });
  }

  function contributions(output, column) {
    const [, height, width, nChannels] = output.dims;
    const nCodes = app.pool === "none" ? height * width * nChannels : nChannels;
    const parts = normalize(shares(output.data, height * width, nChannels), nCodes);
    const nClasses = app.labels.length;
    const isPooled = app.pool !== "none";
    return Array.from({ length: height }, (_, row) => Array.from({ length: width }, (__, at) => {
      const first = (row * width + at) * nChannels;
      let sum = 0;
      for (let channel = 0; channel < nChannels; channel++) {
        const feature = isPooled ? channel : first + channel;
        sum += parts[first + channel] * weights[feature * nClasses + column];
      }
      return sum;
    }));
  }

  cnncodes.backend = {
    async info() {
      const { name, labels, caution } = app;
      return {
        name,
        labels,
        caution,
        privacy: "Your images stay in this browser: nothing is sent anywhere, and nothing is stored.",
      };
    },

    async *predict(files) {
      for (const file of files) {
        try {
          const { probabilities, unknown } = await inTurn(() => run(file));
          const isPresent = (probability, index) =>
            app.thresholds && { present: probability >= app.thresholds[index] };
          const all = [...probabilities.data]
            .map((probability, index) => (
              { label: app.labels[index], probability, ...isPresent(probability, index) }
            ))
            .sort((a, b) => (b.present ?? 0) - (a.present ?? 0) || b.probability - a.probability);
          const predictions = all.slice(0, Math.max(TOP, all.filter((each) => each.present).length));
          const score = unknown && { unknown: unknown.data[0], is_known: unknown.data[0] < REFUSED_FROM };
          yield { predictions, problem: "", ...score };
        } catch (error) {
          yield { predictions: [], problem: error.message };
        }
      }
    },

    async explain(file, label) {
      const column = app.labels.indexOf(label);
      const { features } = await inTurn(() => run(file));
      if (!features) throw new Error("its head is not linear");
      weights ??= new Float32Array((await bytesOf(app.weights)).buffer);
      const rows = contributions(features, column);
      const bias = app.bias[column];
      return { label, bias, logit: bias + rows.flat().reduce((a, b) => a + b, 0), contributions: rows };
    },
  };
})();

"use strict";
/* From an image file to the pixels of the network's input, as cnncodes computes them. */
cnncodes.pixels = (() => {
  const BITS = 22; // of the fractions in a weight, as in Pillow: sums of 8 bits fit into 32
  const PNG = [0x89, 0x50, 0x4e, 0x47];
  const DEPTH = 24; // position of the depth in a PNG, and behind it of the kind of colour

  /** Decode a file: {data: RGB of 8 bits, width, height}, upright and on white. */
  async function decode(file) {
    const head = new Uint8Array(await file.slice(0, DEPTH + 2).arrayBuffer());
    if (PNG.every((byte, index) => head[index] === byte) && head[DEPTH] === 16 && !(head[DEPTH + 1] & 2)) {
      throw new Error("16-bit grey, which browsers show in 8: save it with 8 bits");
    }
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    } catch {
      throw new Error("not an image that this browser can decode: save it as JPEG or PNG");
    }
    const { width, height } = bitmap;
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error("too large for this browser");
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const rgba = context.getImageData(0, 0, width, height).data;
    const data = new Uint8Array(3 * width * height);
    for (let from = 0, to = 0; to < data.length; from += 4) {
      data[to++] = rgba[from];
      data[to++] = rgba[from + 1];
      data[to++] = rgba[from + 2];
    }
    return { data, width, height };
  }

  /** Average blocks of pixels; those at the right and lower edge may be smaller.

      The division is by a product of 24 bits, as in Pillow, which gives some exact means less one. */
  function reduce({ data, width, height }, across, down) {
    const columns = Math.ceil(width / across);
    const rows = Math.ceil(height / down);
    const reduced = new Uint8Array(3 * columns * rows);
    for (let row = 0, to = 0; row < rows; row++) {
      const bottom = Math.min(height, (row + 1) * down);
      for (let column = 0; column < columns; column++) {
        const right = Math.min(width, (column + 1) * across);
        const n = (bottom - row * down) * (right - column * across);
        const factor = Math.floor(Math.fround(2 ** 24 / n));
        for (let channel = 0; channel < 3; channel++) {
          let sum = Math.floor(n / 2);
          for (let y = row * down; y < bottom; y++) {
            for (let x = column * across; x < right; x++) sum += data[3 * (y * width + x) + channel];
          }
          reduced[to++] = Math.floor((sum * factor) / 2 ** 24);
        }
      }
    }
    return { data: reduced, width: columns, height: rows };
  }

  /** Weights of antialiased bilinear interpolation: for each result its first input and weights. */
  function weights(length, used, size) {
    const scale = used / size;
    const support = Math.max(scale, 1);
    return Array.from({ length: size }, (_, index) => {
      const centre = (index + 0.5) * scale;
      const first = Math.max(0, Math.floor(centre - support + 0.5));
      const last = Math.min(length, Math.floor(centre + support + 0.5));
      const shares = [];
      for (let at = first; at < last; at++) {
        shares.push(Math.max(0, 1 - Math.abs((at - centre + 0.5) / support)));
      }
      const sum = shares.reduce((total, share) => total + share, 0);
      return { first, fractions: shares.map((share) => Math.round((share / sum) * 2 ** BITS)) };
    });
  }

  /** Interpolate along one axis: `stride` from value to value, `lines` of them `step` apart. */
  function interpolate(from, to, plan, lines, [inStride, inStep], [outStride, outStep]) {
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < 3; channel++) {
        plan.forEach(({ first, fractions }, index) => {
          let sum = 1 << (BITS - 1);
          let at = line * inStep + first * inStride + channel;
          for (const fraction of fractions) {
            sum += from[at] * fraction;
            at += inStride;
          }
          to[line * outStep + index * outStride + channel] = Math.min(255, sum >> BITS);
        });
      }
    }
  }

  function resize({ data, width, height }, usedWidth, usedHeight, size) {
    let current = data;
    if (width !== size || usedWidth !== size) {
      const narrow = new Uint8Array(3 * size * height);
      const plan = weights(width, usedWidth, size);
      interpolate(current, narrow, plan, height, [3, 3 * width], [3, 3 * size]);
      current = narrow;
    }
    if (height !== size || usedHeight !== size) {
      const square = new Uint8Array(3 * size * size);
      const plan = weights(height, usedHeight, size);
      interpolate(current, square, plan, size, [3 * size, 3], [3 * size, 3]);
      current = square;
    }
    return current;
  }

  /** Return the pixels of a file, size × size × 3 of 8 bits. */
  async function read(file, size) {
    const image = await decode(file);
    const across = Math.max(1, Math.floor(image.width / (2 * size)));
    const down = Math.max(1, Math.floor(image.height / (2 * size)));
    if (across * down === 1) return resize(image, image.width, image.height, size);
    return resize(reduce(image, across, down), image.width / across, image.height / down, size);
  }

  return { read };
})();

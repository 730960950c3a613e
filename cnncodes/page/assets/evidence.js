"use strict";
/* Maps of evidence: drawn over an image, and in words. */
cnncodes.evidence = (() => {
  const FOR = [213, 94, 0]; // as in style.css, and as predict --explain has them
  const AGAINST = [0, 114, 178];
  const OPACITY = 0.8; // of the largest contribution
  const ROWS = ["top", "middle", "bottom"];
  const COLUMNS = ["left", "centre", "right"];

  /** Paint a pixel per cell; style.css enlarges them. */
  function paint(canvas, contributions) {
    const height = contributions.length;
    const width = contributions[0].length;
    const largest = Math.max(1e-12, ...contributions.flat().map(Math.abs));
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    contributions.flat().forEach((value, index) => {
      const alpha = Math.round((255 * OPACITY * Math.abs(value)) / largest);
      pixels.data.set([...(value > 0 ? FOR : AGAINST), alpha], 4 * index);
    });
    context.putImageData(pixels, 0, 0);
  }

  /** Lay a canvas over what an image shows, to the fraction of a pixel. */
  function cover(canvas, image) {
    const { left, top, width, height } = image.getBoundingClientRect();
    const parent = canvas.offsetParent.getBoundingClientRect();
    canvas.style.left = `${left - parent.left}px`;
    canvas.style.top = `${top - parent.top}px`;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }

  /** Name the part of the image with the largest value. */
  function strongest(contributions, sign) {
    let best = { value: 0, part: null };
    contributions.forEach((row, y) => row.forEach((cell, x) => {
      if (sign * cell <= best.value) return;
      const vertical = ROWS[Math.floor(((y + 0.5) / contributions.length) * 3)];
      const horizontal = COLUMNS[Math.floor(((x + 0.5) / row.length) * 3)];
      const isCentre = vertical === "middle" && horizontal === "centre";
      best = { value: sign * cell, part: isCentre ? "centre" : `${vertical} ${horizontal}` };
    }));
    return best.part;
  }

  function inWords({ label, contributions }) {
    const words = [[1, "most for it"], [-1, "most against it"]]
      .map(([sign, word]) => [word, strongest(contributions, sign)])
      .filter(([, part]) => part)
      .map(([word, part]) => `${word} at the ${part}`);
    return `Evidence for ${label}: ${words.join(", ") || "none"}`;
  }

  return { paint, cover, inWords };
})();

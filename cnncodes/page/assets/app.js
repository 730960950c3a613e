"use strict";
/* The page: images in, results out, all through cnncodes.backend. */
(() => {
  const { backend, camera, evidence } = cnncodes;
  const HOVER = 120; // milliseconds until a pointer that rests on a class asks for its map
  const LABELS_SHOWN = 20;
  const $ = (id) => document.getElementById(id);
  const cards = [];
  let nDone = 0;

  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  /** Whether an image may have several labels; then each of its predictions is present or not. */
  const hasSeveral = (result) => result?.predictions[0]?.present !== undefined;
  const present = (result) => result.predictions.filter((each) => each.present);
  const isRefused = (result) => result?.is_known === false; // absent where the app has no such score
  const images = (n) => (n === 1 ? "1 image" : `${n} images`);
  const clone = (id) => $(id).content.firstElementChild.cloneNode(true);

  /** An image on the page, from its file to its result and its maps. */
  class Card {
    constructor(file) {
      this.file = file;
      this.result = null;
      this.maps = new Map(); // promises, by label
      this.shown = null; // the label whose map is to be seen
      this.pinned = null; // the label whose map stays
      this.element = clone("card");
      this.picture = this.part(".picture");
      this.image = this.part("img");
      this.canvas = this.part("canvas");
      this.part("h2").textContent = file.name;
      this.image.alt = file.name;
      this.image.onerror = () => {
        this.image.hidden = true;
        this.part(".placeholder").hidden = false;
      };
      this.image.src = URL.createObjectURL(file);
      this.picture.onclick = () => this.toggle(this.best);
      this.onRest(this.picture, () => this.best);
    }

    part(selector) {
      return this.element.querySelector(selector);
    }

    get best() {
      return this.result?.predictions[0]?.label ?? null;
    }

    finish(result) {
      this.result = result;
      const problem = this.part(".problem");
      const hasNone = hasSeveral(result) && !present(result).length;
      const none = isRefused(result) ? "None of these; the nearest:" : hasNone && "No label; the nearest:";
      const note = none || result.problem;
      problem.hidden = !note;
      problem.textContent = note;
      this.part(".classes").replaceChildren(...result.predictions.map((each) => this.bar(each)));
    }

    bar({ label, probability, present: isPresent }) {
      const item = clone("class");
      const button = item.querySelector("button");
      button.dataset.label = label;
      item.querySelector(".label").textContent = isPresent ? `✓ ${label}` : label;
      item.querySelector(".share").textContent = percent(probability);
      button.style.setProperty("--share", probability);
      button.onfocus = () => button.matches(":focus-visible") && this.show(label);
      button.onblur = () => this.show(this.pinned);
      button.onclick = () => this.toggle(label);
      this.onRest(button, () => label);
      return item;
    }

    /** Show a map while a mouse rests on an element; a finger taps instead. */
    onRest(element, labelOf) {
      let timer = 0;
      element.onpointerenter = ({ pointerType }) => {
        if (pointerType !== "touch") timer = setTimeout(() => this.show(labelOf()), HOVER);
      };
      element.onpointerleave = ({ pointerType }) => {
        clearTimeout(timer);
        if (pointerType !== "touch") this.show(this.pinned);
      };
    }

    toggle(label) {
      this.pinned = this.pinned === label ? null : label;
      for (const button of this.element.querySelectorAll(".classes button")) {
        button.setAttribute("aria-pressed", String(button.dataset.label === this.pinned));
      }
      this.show(this.pinned);
    }

    async show(label) {
      if (this.shown === label) return;
      this.shown = label;
      let words = "";
      let map = null;
      if (label !== null) {
        if (!this.maps.has(label)) this.maps.set(label, backend.explain(this.file, label));
        try {
          map = await this.maps.get(label);
          words = evidence.inWords(map);
        } catch (error) {
          this.maps.delete(label); // it may succeed another time
          words = `No evidence map: ${error.message}`;
        }
      }
      if (this.shown !== label) return; // by now another one is wanted
      this.part(".evidence").textContent = words;
      this.canvas.hidden = !map || this.image.hidden;
      this.picture.classList.toggle("explained", !this.canvas.hidden);
      if (!this.canvas.hidden) {
        evidence.paint(this.canvas, map.contributions);
        evidence.cover(this.canvas, this.image);
      }
    }

    remove() {
      URL.revokeObjectURL(this.image.src);
      this.element.remove();
    }
  }

  async function add(files) {
    if (!files.length) return;
    const added = files.map((file) => new Card(file));
    cards.push(...added);
    $("results").append(...added.map((card) => card.element));
    $("output").hidden = false;
    report();
    let index = 0;
    for await (const result of backend.predict(files)) {
      const card = added[index++];
      if (!cards.includes(card)) continue; // cleared meanwhile
      card.finish(result);
      nDone += 1;
      report();
    }
  }

  function report() {
    const n = cards.length;
    const only = n === 1 ? cards[0].result?.predictions[0] : null;
    const nUnusable = cards.filter(({ result }) => result?.problem).length;
    let text = n ? `${nDone} of ${images(n)} done …` : "";
    if (n && !nDone) text = `Classifying ${images(n)}; the first takes longest …`;
    if (n && nDone === n) text = `${images(n - nUnusable)} classified.`;
    if (n && nDone === n && nUnusable) text += ` ${images(nUnusable)} cannot be used.`;
    if (only) {
      const { result } = cards[0];
      const named = ({ label, probability }) => `${label}, ${percent(probability)}`;
      const all = hasSeveral(result) ? present(result).map(named).join("; ") : named(only);
      const nearest = `(nearest: ${named(only)})`;
      const answer = isRefused(result) ? `none of these ${nearest}` : all || `no label ${nearest}`;
      text = `${cards[0].file.name}: ${answer}`;
    }
    $("status").textContent = text;
    $("download").disabled = nDone < n;
  }

  function clear() {
    for (const card of cards.splice(0)) card.remove();
    nDone = 0;
    $("output").hidden = true;
    report();
    $("choose").focus();
  }

  /* CSV as of ‘cnncodes predict --format csv’. */

  function cell(text) {
    const visible = text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (each) => JSON.stringify(each).slice(1, -1));
    const isFormula = /^[=+@-](?![\d.]*$)/.test(visible); // a spreadsheet would compute it
    const safe = isFormula ? `'${visible}` : visible;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function asCsv() {
    const hasUnknown = cards.some(({ result }) => "unknown" in result);
    const rows = [["path", "rank", "label", "probability", "problem"]];
    if (hasUnknown) rows[0].push("unknown");
    const severalLabels = cards.some(({ result }) => hasSeveral(result));
    if (severalLabels) rows[0].push("present");
    for (const { file, result } of cards) {
      const name = cell(file.name);
      const score = hasUnknown ? [result.unknown?.toFixed(6) ?? ""] : [];
      const absent = severalLabels ? [""] : [];
      if (result.problem) rows.push([name, "", "", "", cell(result.problem), ...score, ...absent]);
      result.predictions.forEach(({ label, probability, present: isPresent }, index) => {
        const own = severalLabels ? [Number(isPresent)] : [];
        rows.push([name, index + 1, cell(label), probability.toFixed(6), "", ...score, ...own]);
      });
    }
    return rows.map((row) => `${row.join(",")}\n`).join("");
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([asCsv()], { type: "text/csv" }));
    link.download = "predictions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  /* What is dropped: files, and those in folders. */

  async function filesBelow(entry) {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    const reader = entry.createReader();
    const files = [];
    for (;;) { // it returns at most a hundred at a time
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!part.length) return files;
      for (const each of part) files.push(...(await filesBelow(each)));
    }
  }

  async function dropped(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
    return (await Promise.all(entries.map(filesBelow))).flat();
  }

  function act(action) {
    return async (event) => {
      try {
        await action(event);
      } catch (error) {
        $("status").textContent = error.message;
      }
    };
  }

  const isDragging = (yes) => document.body.classList.toggle("dragging", yes);
  document.ondragover = (event) => {
    event.preventDefault();
    isDragging(true);
  };
  document.ondragleave = (event) => event.relatedTarget || isDragging(false);
  document.ondrop = act(async (event) => {
    event.preventDefault();
    isDragging(false);
    await add(await dropped(event.dataTransfer));
  });
  document.onpaste = act((event) => add([...event.clipboardData.files]));
  $("choose").onchange = act(async ({ target }) => {
    const files = [...target.files];
    target.value = ""; // so that the same file can be chosen again
    await add(files);
  });
  $("photo").onclick = act(async () => add(await camera.take()));
  $("download").onclick = download;
  $("clear").onclick = clear;
  onresize = () => {
    for (const { canvas, image } of cards) if (!canvas.hidden) evidence.cover(canvas, image);
  };

  act(async () => {
    const { name, labels, caution, privacy } = await backend.info();
    const others = labels.length - LABELS_SHOWN;
    const names = labels.slice(0, LABELS_SHOWN).join(", ") + (others > 0 ? ` and ${others} more` : "");
    $("about").textContent = `${name}: ${labels.length} classes (${names})${caution && `; ${caution}`}`;
    $("privacy").textContent = privacy;
    document.title = `${name}: image classifier`;
  })();
})();

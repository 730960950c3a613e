"use strict";
/* Where the page's answers come from. The page knows these three functions and nothing else:

   info()                → {name, labels, caution, privacy}
   predict(files)        yields {predictions: [{label, probability}], problem} for each, in order; with unknown
                         (0 to 1) and is_known where the app's head was trained with such a score;
                         each prediction has present where an image may have several labels
   explain(file, label)  → {label, logit, bias, contributions: rows of numbers}; throws an Error

   Here they ask the server that the page comes from. */
globalThis.cnncodes = { backend: (() => {
  const GROUP = 8; // files in a request
  const PENDING = 2; // requests at a time
  const TRIES = 20; // while the server is busy
  let version = null;

  async function json(response) {
    const content = await response.json().catch(() => ({}));
    if (response.ok || content.results) return content;
    throw new Error(content.error || `the server answers with status ${response.status}`);
  }

  async function request(path, form) {
    for (let tries = 1; ; tries++) {
      let response;
      try {
        response = await fetch(path, form && { method: "POST", body: form });
      } catch {
        throw new Error("the server does not answer, or the file cannot be read");
      }
      if (response.status !== 503 || tries === TRIES) return json(response);
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    }
  }

  function describe() {
    version ??= request("api/version");
    return version;
  }

  function formOf(files, fields = {}) {
    const form = new FormData();
    for (const file of files) form.append("file", file, file.name);
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    return form;
  }

  function groups(files, maxBytes) {
    const groups = [];
    let room = 0;
    for (const file of files) {
      const last = groups.at(-1);
      if (!last || last.length === GROUP || file.size > room) {
        groups.push([file]);
        room = maxBytes - file.size;
      } else {
        last.push(file);
        room -= file.size;
      }
    }
    return groups;
  }

  async function predictGroup(files) {
    try {
      return (await request("api/predict", formOf(files))).results;
    } catch (error) {
      return files.map(() => ({ predictions: [], problem: error.message }));
    }
  }

  return {
    async info() {
      const { app, labels, weights } = await describe();
      const isHere = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
      return {
        name: app,
        labels,
        caution: weights.startsWith("random") ? "random weights, for trying out" : "",
        privacy: isHere
          ? "Your images stay on this machine: nothing is sent elsewhere, and nothing is stored."
          : `Your images go to ${location.hostname} and nowhere else, and are not stored there.`,
      };
    },

    async *predict(files) {
      const { max_body: maxBody } = await describe();
      const waiting = groups(files, maxBody / 2);
      const pending = [];
      while (waiting.length || pending.length) {
        while (waiting.length && pending.length < PENDING) pending.push(predictGroup(waiting.shift()));
        yield* await pending.shift();
      }
    },

    explain(file, label) {
      return request("api/explain", formOf([file], { label }));
    },
  };
})() };

"use strict";

// Requests to the gateway; whether it is ready, and its classes and versions.
page.server = (() => {
  const { state, element, address, listed } = page;
  const STATUS_INTERVAL = 5000; // milliseconds
  const SILENCE = 20000; // milliseconds, more than the server itself waits for the model; then it counts as away
  const LONGEST = 150000; // milliseconds, more than an image may take to arrive and the server to answer
  const NO_VERSION = "-"; // no version has this name, because a version begins with a letter or a digit
  const KEY = "classifier-key"; // in the storage of this visit
  const MAY_PASS = [401, 429, 503]; // another key, or a later try, may succeed
  const OF_A_PROXY = [502, 504]; // which a proxy says while the server starts again
  const SLOW = [408, 504]; // the server was busy, or the image is always too slow
  const UNREACHABLE = "The server cannot be reached. Start it with “make serve”.";

  function post(path, file, name, fields = {}) {
    const body = new FormData();
    body.append("file", file, name);
    for (const [field, text] of Object.entries(fields)) if (text) body.append(field, text);
    return ask(path, { method: "POST", body });
  }

  let unstored = null; // the key, if the browser allows no storage

  function key() {
    try {
      return sessionStorage.getItem(KEY);
    } catch {
      return unstored;
    }
  }

  function send(path, options) {
    const signal = AbortSignal.timeout(options ? LONGEST : SILENCE);
    return fetch(address(path), { signal, ...options, headers: key() ? { "X-API-Key": key() } : {} });
  }

  async function ask(path, options) {
    let response;
    try {
      response = await send(path, options);
    } catch {
      showStatus();
      return { error: UNREACHABLE, lost: true };
    }
    const { status } = response;
    const answer = await response.json().catch(() => null); // null for what is no JSON
    if (answer && (response.ok || typeof answer.error === "string")) {
      const id = response.headers.get("X-Request-ID");
      return { ...answer, id, lost: MAY_PASS.includes(status), slow: SLOW.includes(status) };
    }
    if ([...MAY_PASS, ...OF_A_PROXY].includes(status)) {
      return { error: `A proxy answered instead of the server (status ${status}).`, lost: true };
    }
    return { error: `The server's answer is not JSON (status ${status}). Check whether a proxy sent it.` };
  }

  let checks = 0; // under way

  async function checkStatus() {
    checks++;
    try {
      if (!(await showStatus())) return;
      await Promise.all([listClasses(), listVersions()]);
      page.predicting.retryLost();
      page.explanation.retryLost();
    } finally {
      checks--;
    }
  }

  // A page that nobody sees fills the server's log only if it waits for an answer.
  const isIdle = () => document.hidden && !state.entries.some(page.predicting.isLost);

  let latest = 0;

  // Returns whether it is ready; a check that another one has overtaken shows and returns nothing.
  async function showStatus() {
    const number = ++latest;
    let health = {};
    let locked = false;
    try {
      const response = await send("health");
      locked = response.status === 401;
      health = await response.json();
    } catch {
      // No answer means that the server is not there.
    }
    if (number !== latest) return false;
    const ready = health.status === "healthy";
    const line = element("status");
    const wanted = key() ? "The server does not take this key" : "The server asks for an API key";
    const text = ready ? `Ready: ${health.model}, version ${health.version}` : locked ? wanted : "The server is not ready";
    element("locked").hidden = !locked;
    element("model").hidden = Boolean(key()); // a link sends no key
    if (ready) page.feedback.offer(health.feedback); // otherwise a form stays, in which somebody may type
    if (line.textContent !== text) line.textContent = text; // otherwise a screen reader would repeat it
    line.className = ready ? "up" : "down";
    return ready;
  }

  async function listClasses() {
    const { classes } = await ask("classes");
    if (!classes) return; // the list on show stays
    element("classes").textContent = `${classes.length.toLocaleString("en")} classes: ${listed(classes)}`;
    page.choosing.offerExamples(classes);
  }

  async function listVersions() {
    const { models } = await ask("models");
    if (!models) return; // the choice stays
    const texts = models.map(({ version, default: isDefault }) => (isDefault ? `${version} (default)` : version));
    const values = models.map(({ version, default: isDefault }) => (isDefault ? "" : version));
    element("choice").hidden = models.length < 2;
    if (texts.join() === [...element("version").options].map(({ text }) => text).join()) return; // the choice stays
    const options = () => texts.map((text, at) => new Option(text, values[at]));
    refill("version", options(), "");
    refill("compare", [new Option("none", NO_VERSION), ...options()], NO_VERSION);
  }

  // The selected value stays if it is still there.
  function refill(id, options, otherwise) {
    const select = element(id);
    const values = options.map(({ value }) => value);
    const value = select.options.length && values.includes(select.value) ? select.value : otherwise;
    select.replaceChildren(...options);
    select.value = value;
  }

  // One or two versions; "" is the default version.
  function selectedVersions() {
    const selected = [element("version").value, element("compare").value];
    return [...new Set(selected)].filter((version) => version !== NO_VERSION);
  }

  for (const id of ["version", "compare"]) {
    element(id).addEventListener("change", () => state.chosen && page.predicting.predictAgain([state.chosen]));
  }

  element("locked").addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = element("key").value.trim();
    element("key").value = "";
    // A header takes no other letters. A key that is copied badly may have some.
    const usable = /^[!-~]+$/.test(typed) ? typed : "-";
    try {
      sessionStorage.setItem(KEY, usable);
    } catch {
      unstored = usable;
    }
    checkStatus();
  });

  for (const path of ["model", "swagger/"]) element(path.replace("/", "")).href = address(path);

  // Wait for the other scripts.
  document.addEventListener("DOMContentLoaded", () => {
    checkStatus();
    setInterval(() => checks || isIdle() || checkStatus(), STATUS_INTERVAL);
    document.addEventListener("visibilitychange", () => checks || isIdle() || checkStatus());
  });

  return { UNREACHABLE, key, ask, post, checkStatus, selectedVersions };
})();

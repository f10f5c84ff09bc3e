"use strict";

// Opened from disk, the page talks to the gateway where it listens by default.
const API = location.protocol === "file:" ? "http://localhost:5001" : "";
const TYPES = ["image/jpeg", "image/png", "image/gif"];
const MAX_BYTES = 10 * 1024 * 1024;
const STATUS_INTERVAL = 5000; // milliseconds

const element = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
let latest = 0; // the number of the newest request: an answer to an older one is not shown

function show(id) {
  for (const part of ["error", "waiting", "result"]) element(part).hidden = part !== id;
}

function fail(message) {
  latest++;
  element("error").textContent = message;
  show("error");
}

function wait(message) {
  element("waiting").textContent = message;
  show("waiting");
}

function problem(file) {
  if (!TYPES.includes(file.type)) return "This is not a JPG, PNG or GIF image.";
  if (file.size > MAX_BYTES) return "This image is larger than 10 MB.";
  if (file.size === 0) return "This file is empty.";
  return null;
}

function preview(file) {
  const image = element("preview");
  URL.revokeObjectURL(image.src);
  image.onload = () => (image.hidden = false);
  image.onerror = () => (image.hidden = true);
  image.src = URL.createObjectURL(file);
}

async function classify(file) {
  const wrong = problem(file);
  element("preview").hidden = true;
  if (wrong) return fail(wrong);
  preview(file);
  wait("Looking at the image…");
  const number = ++latest;
  const form = new FormData();
  form.append("file", file, file.name || "pasted");
  const answer = await ask("/predict", { method: "POST", body: form });
  if (number !== latest) return;
  if (answer.error) fail(answer.error);
  else present(answer);
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(API + path, options);
  } catch {
    checkStatus();
    return { error: "The server cannot be reached. Start it with “make serve” and try again." };
  }
  try {
    return await response.json();
  } catch {
    return { error: `The server gave an answer that is not understood (status ${response.status}).` };
  }
}

function present({ predicted_class, confidence, class_probabilities, in_distribution }) {
  element("unfamiliar").hidden = in_distribution !== false;
  element("predicted").textContent = predicted_class;
  element("confidence").textContent = `${percent(confidence)} confidence`;
  const sorted = Object.entries(class_probabilities).sort(([, one], [, other]) => other - one);
  element("bars").replaceChildren(...sorted.map(bar));
  show("result");
}

function bar([name, probability]) {
  const row = document.createElement("li");
  const part = (className, text = "") => {
    const span = document.createElement("div");
    span.className = className;
    span.textContent = text;
    return span;
  };
  const track = part("track");
  const filled = part("bar");
  filled.style.width = `${100 * probability}%`;
  track.append(filled);
  row.append(part("name", name), track, part("value", percent(probability)));
  return row;
}

async function checkStatus() {
  let health = {};
  try {
    health = await (await fetch(`${API}/health`)).json();
  } catch {
    // No answer is an answer: the server is not there.
  }
  const up = health.status === "healthy";
  const status = element("status");
  const text = up ? `Ready: ${health.model}, version ${health.version}` : "The server is not ready";
  if (up) listClasses();
  if (status.textContent === text) return; // a screen reader would say it again
  status.textContent = text;
  status.className = up ? "up" : "down";
}

async function listClasses() {
  const { classes } = await ask("/classes");
  element("classes").textContent = classes ? `It knows ${classes.length} classes: ${classes.join(", ")}.` : "";
}

async function classifyExample(name) {
  try {
    const response = await fetch(`${API}/examples/${name}`);
    classify(new File([await response.blob()], name, { type: "image/jpeg" }));
  } catch {
    fail("The server cannot be reached. Start it with “make serve” and try again.");
  }
}

element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) classify(target.files[0]);
  target.value = ""; // so that choosing the same file again is a change
});

for (const button of document.querySelectorAll("#examples button")) {
  const name = button.firstElementChild.getAttribute("src").split("/").pop();
  button.addEventListener("click", () => classifyExample(name));
}

for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") receive(event.dataTransfer);
  });
}

document.addEventListener("paste", ({ clipboardData }) => receive(clipboardData));

function receive({ files }) {
  if (files.length) classify(files[0]);
  else fail("That is not an image file.");
}

for (const name of ["model", "swagger/"]) element(name.replace("/", "")).href = `${API}/${name}`;
checkStatus();
setInterval(checkStatus, STATUS_INTERVAL);

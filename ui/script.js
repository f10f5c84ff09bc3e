"use strict";

// The gateway is where the page comes from, below a proxy's path too. Opened from disk, it is where it listens by default.
const API = location.protocol === "file:" ? "http://localhost:5001/" : location.origin + location.pathname;
const OTHER_TYPES = /^(audio|font|text|video)\/|^application\/(pdf|zip)$/; // of all others the server judges
const PHOTO = /^[^.].*\.(jpe?g|jpe|jfif|png|gif|webp)$/i; // in a folder
const LEAVINGS = /^(\.|@eaDir$|__MACOSX$)/; // folders of systems and network drives
const MAX_BYTES = 10 * 1024 * 1024;
const STATUS_INTERVAL = 5000; // milliseconds
const AT_ONCE = 4; // requests
const NO_VERSION = "-"; // a version begins with a letter or a digit
const UNREACHABLE = "The server cannot be reached; start it with “make serve”.";

const element = (id) => document.getElementById(id);
const address = (path) => new URL(path, API).href;
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`; // on one line
// What was chosen, in order: file, its name and address, and once there is an answer what was `asked`, of each version:
// path, answer, milliseconds, and whether it is `lost`, as the server was not ready.
const visit = [];
const waiting = []; // those of them that have not been asked yet
const examples = Array.from(document.querySelectorAll("#examples button"), (button) => [
  button.firstElementChild.getAttribute("src").split("/").pop(),
  button,
]);
let asking = 0;
let chosen = null; // the one that is shown

function show(id) {
  for (const part of ["error", "waiting", "result"]) element(part).hidden = part !== id;
}

function say(id, message) {
  element(id).textContent = message;
  show(id);
}

// What concerns no image that was taken is said beside the result on show.
function note(message) {
  element("note").textContent = message;
  element("note").hidden = !message;
}

function mark(entry) {
  chosen = entry;
  for (const each of visit) each.button.ariaCurrent = each === entry ? "true" : null;
}

async function problem(file) {
  if (OTHER_TYPES.test(file.type)) return "This is not a JPG, PNG, GIF or WebP image.";
  if (file.size > MAX_BYTES) return "This image is larger than 10 MB.";
  if (file.size === 0) return "This file is empty.";
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return "This file cannot be read. It may have changed, or is a folder; choose it again.";
  }
  return null;
}

function take(files) {
  note("");
  const entries = Array.from(files, (file) => ({ file, name: file.name || "pasted", url: URL.createObjectURL(file) }));
  visit.push(...entries);
  element("visit").append(...entries.map(listed));
  element("history").hidden = false;
  choose(entries[0]);
  enqueue(entries);
}

function enqueue(entries) {
  waiting.push(...entries);
  while (asking < AT_ONCE && waiting.length) askWaiting();
}

async function askWaiting() {
  asking++;
  for (let entry = waiting.shift(); entry; entry = waiting.shift()) {
    const wanted = versions();
    const asked = await askVersions(entry, wanted);
    if (wanted.join() === versions().join()) settle(entry, asked);
    else waiting.push(entry); // the choice has changed meanwhile
  }
  asking--;
}

function versions() {
  return [...new Set([element("version").value, element("compare").value])].filter((each) => each !== NO_VERSION);
}

// One after another, so that none waits for the other and each one's time is its own.
async function askVersions({ file, name }, wanted) {
  const wrong = await problem(file);
  if (wrong) return [{ answer: { error: wrong } }];
  const asked = [];
  for (const version of wanted) {
    const path = version ? `predict?version=${encodeURIComponent(version)}` : "predict";
    const started = performance.now();
    const { lost, ...answer } = await post(path, file, name);
    asked.push({ path, answer, lost, milliseconds: performance.now() - started });
  }
  return asked;
}

function settle(entry, asked) {
  entry.asked = asked;
  entry.explanations = new Map();
  entry.said.textContent = failure(entry) || summary(entry);
  if (entry === chosen) display();
}

// What is being asked already is left to that.
function askAgain(entries) {
  const settled = entries.filter(({ asked }) => asked);
  for (const entry of settled) {
    entry.asked = null;
    entry.said.textContent = "…";
  }
  if (settled.includes(chosen)) display();
  enqueue(settled);
}

const isLost = ({ asked }) => asked?.some(({ lost }) => lost);

const promising = (error, lost) => (lost ? `${error} It is asked again by itself once the server is ready.` : error);

// Why there is nothing to show; one version's failure stands beside the other's answer.
function failure({ asked }) {
  if (!asked.every(({ answer }) => answer.error)) return null;
  const [{ answer, lost }] = asked;
  return promising(answer.error, lost);
}

function choose(entry) {
  stopCamera();
  mark(entry);
  const image = element("preview");
  image.hidden = true;
  image.onload = () => (image.hidden = false);
  image.src = entry.url;
  display();
}

function display() {
  if (!chosen.asked) return say("waiting", "Looking at the image…");
  const failed = failure(chosen);
  if (failed) say("error", failed);
  else present(chosen);
}

function post(path, file, name) {
  const body = new FormData();
  body.append("file", file, name);
  return ask(path, { method: "POST", body });
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(address(path), options);
  } catch {
    showStatus();
    return { error: UNREACHABLE, lost: true };
  }
  try {
    const reply = await response.json();
    return response.status === 503 ? { ...reply, lost: true } : reply;
  } catch {
    return { error: `The server gave an answer that is not understood (status ${response.status}).` };
  }
}

async function checkStatus() {
  if (await showStatus()) welcome();
}

async function showStatus() {
  let health = {};
  try {
    health = await (await fetch(address("health"))).json();
  } catch {
    // No answer is an answer: the server is not there.
  }
  const up = health.status === "healthy";
  const line = element("status");
  const text = up ? `Ready: ${health.model}, version ${health.version}` : "The server is not ready";
  if (line.textContent !== text) line.textContent = text; // or else a screen reader would say it again
  line.className = up ? "up" : "down";
  return up;
}

async function welcome() {
  await Promise.all([listClasses(), listVersions()]);
  askAgain(visit.filter(isLost));
  if (explanationLost) explain();
}

async function listClasses() {
  const { classes } = await ask("classes");
  if (!classes) return; // those shown stay
  element("classes").textContent = `It knows ${classes.length} classes: ${classes.join(", ")}.`;
  for (const [name, button] of examples) button.hidden = !classes.includes(name.replace(".jpg", ""));
  element("offer").hidden = examples.every(([, { hidden }]) => hidden);
}

async function listVersions() {
  const { models } = await ask("models");
  if (!models) return; // the choice stays
  const texts = models.map(({ version, default: isDefault }) => (isDefault ? `${version}, the default` : version));
  element("choice").hidden = models.length < 2;
  if (texts.join() === [...element("version").options].map(({ text }) => text).join()) return; // what was chosen stays
  const options = () => models.map(({ version, default: isDefault }, at) => new Option(texts[at], isDefault ? "" : version));
  refill("version", options(), "");
  refill("compare", [new Option("none", NO_VERSION), ...options()], NO_VERSION);
}

// What was chosen stays if it is still there.
function refill(id, options, otherwise) {
  const select = element(id);
  const values = options.map(({ value }) => value);
  const value = select.options.length && values.includes(select.value) ? select.value : otherwise;
  select.replaceChildren(...options);
  select.value = value;
}

async function classifyExample(name) {
  try {
    const response = await fetch(address(`examples/${name}`));
    take([new File([await response.blob()], name, { type: "image/jpeg" })]);
  } catch {
    note(UNREACHABLE);
  }
}

async function receive({ items, files }, missing) {
  const entries = Array.from(items, (item) => item.webkitGetAsEntry()).filter(Boolean); // now; later they are gone
  const folders = entries.filter(({ isDirectory }) => isDirectory);
  const names = folders.map(({ name }) => name);
  let photos;
  try {
    photos = (await Promise.all(folders.map(photosIn))).flat();
  } catch {
    return note("This folder cannot be read.");
  }
  const all = [...Array.from(files).filter(({ name }) => !names.includes(name)), ...photos];
  if (all.length) take(all);
  else note(folders.length ? "There is no JPG, PNG, GIF or WebP image in that folder." : missing);
}

async function photosIn(folder) {
  const reader = folder.createReader();
  const entries = [];
  const more = () => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
  for (let some = await more(); some.length; some = await more()) entries.push(...some); // a hundred at once
  entries.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  const photos = entries.map((entry) => {
    if (entry.isDirectory) return LEAVINGS.test(entry.name) ? [] : photosIn(entry);
    return PHOTO.test(entry.name) ? new Promise((resolve, reject) => entry.file(resolve, reject)) : [];
  });
  return (await Promise.all(photos)).flat();
}

function part(className, text = "") {
  const made = document.createElement("div");
  made.className = className;
  made.textContent = text;
  return made;
}

element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) take(target.files);
  target.value = ""; // so that choosing the same file again is a change
});

for (const id of ["version", "compare"]) {
  element(id).addEventListener("change", () => chosen && askAgain([chosen]));
}

for (const [name, button] of examples) button.addEventListener("click", () => classifyExample(name));

for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") receive(event.dataTransfer, "No file was dropped. Save the image, then drop its file.");
  });
}

document.addEventListener("paste", ({ clipboardData }) => receive(clipboardData, "There is no image in what you pasted. Copy an image, not its text or address."));

for (const name of ["model", "swagger/"]) element(name.replace("/", "")).href = address(name);

// Once the other scripts are there.
document.addEventListener("DOMContentLoaded", () => {
  checkStatus();
  setInterval(checkStatus, STATUS_INTERVAL);
});

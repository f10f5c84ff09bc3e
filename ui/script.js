"use strict";

// Opened from disk, the page talks to the gateway where it listens by default.
const API = location.protocol === "file:" ? "http://localhost:5001" : "";
const TYPES = ["image/jpeg", "image/png", "image/gif"];
const MAX_BYTES = 10 * 1024 * 1024;
const STATUS_INTERVAL = 5000; // milliseconds

const COPIED_SHOWN = 2000; // milliseconds
const AT_ONCE = 4; // requests
const TOP = 10; // classes shown before one asks for all

const element = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const visit = []; // what was asked, in order: file, its name and address, the answer once there is one, milliseconds
const waiting = []; // those of them that have not been asked yet
let asking = 0;
let chosen = null; // the one that is shown

function show(id) {
  for (const part of ["error", "waiting", "result"]) element(part).hidden = part !== id;
}

function fail(message) {
  chosen = null;
  element("preview").hidden = true;
  say("error", message);
}

function say(id, message) {
  element(id).textContent = message;
  show(id);
}

function problem(file) {
  if (!TYPES.includes(file.type)) return "This is not a JPG, PNG or GIF image.";
  if (file.size > MAX_BYTES) return "This image is larger than 10 MB.";
  if (file.size === 0) return "This file is empty.";
  return null;
}

function take(files) {
  const entries = Array.from(files, (file) => ({ file, name: file.name || "pasted", url: URL.createObjectURL(file) }));
  visit.push(...entries);
  waiting.push(...entries);
  element("visit").append(...entries.map(listed));
  element("history").hidden = false;
  choose(entries[0]);
  while (asking < AT_ONCE && waiting.length) askWaiting();
}

async function askWaiting() {
  asking++;
  for (let entry = waiting.shift(); entry; entry = waiting.shift()) {
    entry.answer = await classify(entry);
    entry.said.textContent = entry.answer.error || `${entry.answer.predicted_class} ${percent(entry.answer.confidence)}`;
    if (entry === chosen) display();
  }
  asking--;
}

async function classify(entry) {
  const wrong = problem(entry.file);
  if (wrong) return { error: wrong };
  const form = new FormData();
  form.append("file", entry.file, entry.name);
  const started = performance.now();
  const version = element("version").value;
  entry.path = version ? `/predict?version=${encodeURIComponent(version)}` : "/predict";
  const answer = await ask(entry.path, { method: "POST", body: form });
  entry.milliseconds = performance.now() - started;
  return answer;
}

function choose(entry) {
  chosen = entry;
  const image = element("preview");
  image.hidden = true;
  image.onload = () => (image.hidden = false);
  image.src = entry.url;
  for (const each of visit) each.button.ariaCurrent = each === entry ? "true" : null;
  display();
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

function display() {
  if (!chosen.answer) say("waiting", "Looking at the image…");
  else if (chosen.answer.error) say("error", chosen.answer.error);
  else present(chosen);
}

function present({ answer, name, milliseconds, path }) {
  element("unfamiliar").hidden = answer.in_distribution !== false;
  element("predicted").textContent = answer.predicted_class;
  element("confidence").textContent = `${percent(answer.confidence)} confidence`;
  const sorted = Object.entries(answer.class_probabilities).sort(([, one], [, other]) => other - one);
  const bars = (count) => {
    element("bars").replaceChildren(...sorted.slice(0, count).map(bar));
    element("all").hidden = count >= sorted.length;
  };
  element("all").textContent = `Show all ${sorted.length} classes`;
  element("all").onclick = () => bars(sorted.length);
  bars(TOP);
  element("spent").textContent = `Version ${answer.version} answered within ${Math.round(milliseconds)} ms.`;
  const url = `${API || location.origin}${path}`;
  element("curl").textContent = `curl -F 'file=@${name.replaceAll("'", "'\\''")}' '${url}'`;
  element("python").textContent = [
    "import requests",
    "",
    `with open(${JSON.stringify(name)}, "rb") as image:`,
    `    answer = requests.post(${JSON.stringify(url)}, files={"file": image}).json()`,
    'print(answer["predicted_class"], answer["confidence"])',
  ].join("\n");
  show("result");
}

// Made once for each, so that the one a keyboard is on stays there.
function listed(entry) {
  entry.button = document.createElement("button");
  entry.button.type = "button";
  entry.button.addEventListener("click", () => choose(entry));
  const image = document.createElement("img");
  image.src = entry.url;
  image.alt = "";
  entry.said = part("said", "…");
  entry.button.append(image, entry.said, part("name", entry.name));
  const item = document.createElement("li");
  item.append(entry.button);
  return item;
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function asCsv(entries) {
  const classes = [...new Set(entries.flatMap(({ answer }) => Object.keys(answer.class_probabilities || {})))];
  const rows = entries.map(({ name, answer, milliseconds }) => [
    name,
    ...["predicted_class", "confidence", "in_distribution", "version", "error"].map((key) => answer[key]),
    milliseconds,
    ...classes.map((each) => answer.class_probabilities?.[each]),
  ]);
  const header = ["file", "predicted_class", "confidence", "in_distribution", "version", "error", "milliseconds"];
  const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const all = [[...header, ...classes.map((each) => `probability_${each}`)], ...rows];
  return all.map((row) => row.map(quoted).join(",") + "\r\n").join("");
}

const answered = () => visit.filter(({ answer }) => answer);

function part(className, text = "") {
  const made = document.createElement("div");
  made.className = className;
  made.textContent = text;
  return made;
}

function bar([name, probability]) {
  const row = document.createElement("li");
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
  if (up) listVersions();
  if (status.textContent === text) return; // a screen reader would say it again
  status.textContent = text;
  status.className = up ? "up" : "down";
}

async function listClasses() {
  const { classes } = await ask("/classes");
  element("classes").textContent = classes ? `It knows ${classes.length} classes: ${classes.join(", ")}.` : "";
}

async function listVersions() {
  const { models = [] } = await ask("/models");
  const select = element("version");
  const texts = models.map(({ version, default: isDefault }) => (isDefault ? `${version}, the default` : version));
  element("choice").hidden = models.length < 2;
  if (texts.join() === [...select.options].map(({ text }) => text).join()) return; // what was chosen stays
  const options = models.map(({ version, default: isDefault }, index) => new Option(texts[index], isDefault ? "" : version));
  select.replaceChildren(...options);
  select.value = "";
}

async function classifyExample(name) {
  try {
    const response = await fetch(`${API}/examples/${name}`);
    take([new File([await response.blob()], name, { type: "image/jpeg" })]);
  } catch {
    fail("The server cannot be reached. Start it with “make serve” and try again.");
  }
}

element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) take(target.files);
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
  if (files.length) take(files);
  else fail("That is not an image file.");
}

element("csv").addEventListener("click", () => save("predictions.csv", "text/csv", asCsv(answered())));
element("json").addEventListener("click", () => {
  const entries = answered().map(({ name, answer, milliseconds }) => ({ file: name, ...answer, milliseconds }));
  save("predictions.json", "application/json", JSON.stringify(entries, null, 2));
});

for (const button of document.querySelectorAll(".copy")) {
  button.hidden = !navigator.clipboard; // there is none in an insecure context
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(element(button.dataset.of).textContent);
    const text = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = text), COPIED_SHOWN);
  });
}

for (const name of ["model", "swagger/"]) element(name.replace("/", "")).href = `${API}/${name}`;
checkStatus();
setInterval(checkStatus, STATUS_INTERVAL);

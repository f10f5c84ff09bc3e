"use strict";

// What was asked in this visit, to look at again and to save.

const BYTE_ORDER_MARK = "\ufeff"; // without it spreadsheets do not take a CSV file for UTF-8

// Made once for each, so that the one a keyboard is on stays there.
function listed(entry) {
  entry.button = document.createElement("button");
  entry.button.type = "button";
  entry.button.addEventListener("click", () => choose(entry));
  const image = document.createElement("img");
  image.src = entry.url;
  image.alt = "";
  image.onerror = () => (image.hidden = true);
  entry.said = part("said", "…");
  entry.button.append(image, entry.said, part("name", entry.name));
  const item = document.createElement("li");
  item.append(entry.button);
  return item;
}

// One for each image and version.
const answers = () => visit.flatMap(({ name, asked }) => (asked ?? []).map((each) => ({ name, ...each })));

function asCsv(rows) {
  const classes = [...new Set(rows.flatMap(({ answer }) => Object.keys(answer.class_probabilities ?? {})))];
  const keys = ["predicted_class", "confidence", "in_distribution", "version", "error"];
  const lines = rows.map(({ name, answer, milliseconds }) => [
    name,
    ...keys.map((key) => answer[key]),
    milliseconds,
    ...classes.map((each) => answer.class_probabilities?.[each]),
  ]);
  const quoted = (value) => `"${String(harmless(value ?? "")).replaceAll('"', '""')}"`;
  const all = [["file", ...keys, "milliseconds", ...classes.map((each) => `probability_${each}`)], ...lines];
  return all.map((line) => line.map(quoted).join(",") + "\r\n").join("");
}

// A spreadsheet would run a text such as =1+1; a number such as -1 stays one.
function harmless(value) {
  return /^[=+\-@\t\r\n]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : value;
}

function asJson(rows) {
  return JSON.stringify(rows.map(({ name, answer, milliseconds }) => ({ file: name, ...answer, milliseconds })), null, 2);
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

element("csv").addEventListener("click", () => save("predictions.csv", "text/csv", BYTE_ORDER_MARK + asCsv(answers())));
element("json").addEventListener("click", () => save("predictions.json", "application/json", asJson(answers())));

"use strict";

// The images of this visit, to look at again and to save.
page.history = (() => {
  const { state, element, division } = page;
  const BYTE_ORDER_MARK = "\ufeff"; // without it, spreadsheets do not read a CSV file as UTF-8

  function add(entries) {
    state.entries.push(...entries);
    element("visit").append(...entries.map(item));
    element("history").hidden = false;
  }

  // Made once for each entry, so that keyboard focus stays on it.
  function item(entry) {
    entry.button = document.createElement("button");
    entry.button.type = "button";
    entry.button.addEventListener("click", () => page.choosing.choose(entry));
    const image = document.createElement("img");
    image.src = entry.url;
    image.alt = "";
    image.onerror = () => (image.hidden = true);
    entry.summary = division("summary", "…");
    entry.button.append(image, entry.summary, division("name", entry.name));
    const made = document.createElement("li");
    made.append(entry.button);
    return made;
  }

  function markChosen() {
    for (const entry of state.entries) entry.button.ariaCurrent = entry === state.chosen ? "true" : null;
  }

  // One row for each image and version.
  const rows = () => state.entries.flatMap(({ name, replies }) => (replies ?? []).map((reply) => ({ name, ...reply })));

  function asCsv() {
    const classes = [...new Set(rows().flatMap(({ answer }) => Object.keys(answer.class_probabilities ?? {})))];
    const keys = ["predicted_class", "confidence", "in_distribution", "version", "error"];
    const header = ["file", ...keys, "milliseconds", ...classes.map((name) => `probability_${name}`)];
    const lines = rows().map(({ name, answer, milliseconds }) => [
      name,
      ...keys.map((key) => answer[key]),
      milliseconds,
      ...classes.map((className) => answer.class_probabilities?.[className]),
    ]);
    const quoted = (value) => `"${String(harmless(value ?? "")).replaceAll('"', '""')}"`;
    return BYTE_ORDER_MARK + [header, ...lines].map((line) => line.map(quoted).join(",") + "\r\n").join("");
  }

  // A spreadsheet would run a text such as =1+1. A number such as -1 stays a number.
  function harmless(value) {
    return /^[=+\-@\t\r\n]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : value;
  }

  function asJson() {
    const answers = rows().map(({ name, answer, milliseconds }) => ({ file: name, ...answer, milliseconds }));
    return JSON.stringify(answers, null, 2);
  }

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  element("csv").addEventListener("click", () => save("predictions.csv", "text/csv", asCsv()));
  element("json").addEventListener("click", () => save("predictions.json", "application/json", asJson()));

  return { add, markChosen };
})();

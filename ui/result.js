"use strict";

// The answer to the chosen image, or those of two versions side by side.

const TOP = 10; // classes shown before one asks for all

function present(entry) {
  const names = likeliest(entry);
  const columns = (count) => {
    element("answers").replaceChildren(...entry.asked.map((each, at) => column(entry.asked, at, names.slice(0, count))));
    element("all").hidden = count >= names.length;
  };
  element("agreement").hidden = entry.asked.length < 2;
  element("agreement").textContent = agreement(entry);
  element("all").textContent = `Show all ${names.length} classes`;
  element("all").onclick = () => columns(names.length);
  columns(TOP);
  offerExplanations(names);
  showPrograms(entry);
  show("result");
  explain();
}

// One order for both versions, that of the first that answered.
function likeliest({ asked }) {
  const sorted = ({ answer }) => Object.entries(answer.class_probabilities ?? {}).sort(([, one], [, other]) => other - one);
  return [...new Set(asked.flatMap(sorted).map(([name]) => name))];
}

function agreement({ asked }) {
  const said = asked.filter(({ answer }) => !answer.error).map(({ answer }) => answer);
  if (said.length < 2) return "One version did not answer.";
  const [one, other] = said;
  if (one.predicted_class === other.predicted_class) return `They agree: both say ${one.predicted_class}.`;
  return `They disagree: version ${one.version} says ${one.predicted_class}, version ${other.version} ${other.predicted_class}.`;
}

function summary({ asked }) {
  const short = ({ answer }) =>
    answer.error || `${answer.predicted_class} ${percent(answer.confidence)}${answer.in_distribution === false ? " (unlike)" : ""}`;
  if (asked.length === 1) return short(asked[0]);
  return asked.map((each) => `${each.answer.version ?? "?"}: ${short(each)}`).join("\n");
}

function column(asked, at, names) {
  const { answer, milliseconds } = asked[at];
  const made = element("column").content.cloneNode(true).firstElementChild;
  const fill = (name, text) => {
    const filled = made.querySelector(`.${name}`);
    if (text) filled.textContent = text;
    else filled.remove();
  };
  const before = at ? asked[0].answer.class_probabilities : null;
  const heading = answer.version ? `Version ${answer.version}${before ? ", and how it differs" : ""}` : "No answer";
  fill("version", asked.length > 1 && heading);
  fill("refused", answer.error);
  if (answer.error) for (const name of ["unfamiliar", "answer", "bars", "spent"]) fill(name, null);
  else {
    if (answer.in_distribution !== false) fill("unfamiliar", null);
    fill("predicted", answer.predicted_class);
    fill("confidence", `${percent(answer.confidence)} confidence`);
    fill("spent", `Version ${answer.version} answered within ${Math.round(milliseconds)}\u00a0ms.`);
    made.querySelector(".bars").append(...names.map((name) => bar(name, answer.class_probabilities, before)));
  }
  return made;
}

function bar(name, probabilities, before) {
  const row = document.createElement("li");
  const track = part("track");
  const filled = part("bar");
  const probability = probabilities[name] ?? 0;
  filled.style.width = `${100 * probability}%`;
  track.append(filled);
  row.append(part("name", name), track, part("value", percent(probability)));
  if (before) row.append(part("difference", difference(probability - (before[name] ?? 0))));
  return row;
}

function difference(share) {
  const points = (100 * Math.abs(share)).toFixed(1);
  return points === "0.0" ? "same" : `${share < 0 ? "−" : "+"}${points}`;
}

"use strict";

// What the model saw of the chosen image, and what of it speaks for a class and what against.

const FOR = [178, 24, 43]; // red and blue of ColorBrewer's scale RdBu: equally dark, and told apart by the colour-blind
const AGAINST = [33, 102, 172];
const MOST_OPAQUE = 217; // of 255; the image stays visible
const NOTICEABLE = 0.005; // of probability
const FULL = 0.1; // of probability, or the most there is if that is more, has the full colour; so noise has hardly any
const PLACES = [
  ["upper left", "upper middle", "upper right"],
  ["left", "middle", "right"],
  ["lower left", "lower middle", "lower right"],
];
let explaining = false;
let explanationLost = false; // as the server was not ready

function offerExplanations(names) {
  element("why").replaceChildren(...names.map((name, at) => new Option(`Why ${at ? "not " : ""}${name}?`, name)));
}

// One after another, as the server refuses many at once.
async function explain() {
  explanationLost = false;
  if (!element("explain").open || !chosen?.asked || failure(chosen)) return;
  const { explanations } = chosen;
  const name = element("why").value;
  if (explanations.has(name)) return picture(explanations.get(name));
  tell("Hiding one part of the image after another…");
  if (explaining) return;
  explaining = true;
  const explanation = await askWhy(chosen, name);
  explaining = false;
  if (!explanation.error) explanations.set(name, explanation);
  if (explanations !== chosen?.explanations || name !== element("why").value) return explain();
  explanationLost = explanation.lost;
  if (explanation.error) tell(promising(explanation.error, explanation.lost));
  else picture(explanation);
}

function askWhy({ file, name, asked }, className) {
  const { version } = asked.find(({ answer }) => !answer.error).answer;
  return post(`explain?${new URLSearchParams({ class: className, version })}`, file, name);
}

function tell(message) {
  element("explaining").textContent = message;
  element("explaining").hidden = false;
  element("explained").hidden = true;
}

function picture({ input, heat_map: rows, explained_class: name }) {
  for (const image of document.querySelectorAll(".seen")) image.src = input;
  lay(rows);
  const most = strength(rows);
  element("legend").hidden = most < NOTICEABLE;
  element("where").textContent =
    most < NOTICEABLE
      ? `Hiding any one part hardly changes the probability of ${name}, by about ${points(most)} at most.`
      : `${sentence(rows, 1, name, "for", "falls")} ${sentence(rows, -1, name, "against", "rises")}`;
  element("explaining").hidden = true;
  element("explained").hidden = false;
}

const strength = (rows) => Math.max(...rows.flat().map(Math.abs));
const points = (share) => `${(100 * share).toFixed(1)} percentage points`;

function lay(rows) {
  const canvas = element("heat");
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  const most = Math.max(FULL, strength(rows));
  const pixels = rows.flat().flatMap((value) => [...(value > 0 ? FOR : AGAINST), (MOST_OPAQUE * Math.abs(value)) / most]);
  canvas.getContext("2d").putImageData(new ImageData(Uint8ClampedArray.from(pixels), canvas.width), 0, 0);
}

function sentence(rows, sign, name, side, moves) {
  const { place, most } = strongest(rows.map((row) => row.map((value) => sign * value)));
  if (most < NOTICEABLE) return `No part speaks ${side} ${name}.`;
  return `The ${place} speaks most ${side} ${name}, whose probability ${moves} by up to ${points(most)} where parts of it are hidden.`;
}

// Of the nine places that with the largest sum of what is positive, and the most in it.
function strongest(rows) {
  const third = (at, { length }) => Math.floor((3 * at) / length);
  const places = PLACES.flat().map((place) => ({ place, sum: 0, most: 0 }));
  rows.forEach((row, y) =>
    row.forEach((value, x) => {
      const found = places[3 * third(y, rows) + third(x, row)];
      found.sum += Math.max(0, value);
      found.most = Math.max(found.most, value);
    }),
  );
  return places.reduce((one, other) => (other.sum > one.sum ? other : one));
}

element("explain").addEventListener("toggle", explain);
element("why").addEventListener("change", explain);

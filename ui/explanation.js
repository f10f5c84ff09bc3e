"use strict";

// The image as the model sees it, and a heat map of the parts that support a class or count against it.
page.explanation = (() => {
  const { state, element, say } = page;
  const SUPPORTS = [178, 24, 43]; // red and blue of ColorBrewer's RdBu: equally dark, and safe for colour-blind people
  const AGAINST = [33, 102, 172];
  const MAX_ALPHA = 217; // of 255, so that the image stays visible
  const MIN_CHANGE = 0.005; // of probability; below it a part has no effect worth a word
  const COARSE_SIZE = 96; // pixels of the input; below it each is shown as a square
  const FULL_COLOUR_CHANGE = 0.1; // of probability, at least; so noise has hardly any colour
  const PLACES = [
    ["upper left", "upper middle", "upper right"],
    ["left", "middle", "right"],
    ["lower left", "lower middle", "lower right"],
  ];
  let explaining = false;
  let isLost = false; // because the server was not ready

  function offer(names) {
    element("why").replaceChildren(...names.map((name, at) => new Option(`Why ${at ? "not " : ""}${name}?`, name)));
  }

  // One request after another, because the server refuses many at the same time.
  async function explain() {
    isLost = false;
    const { chosen } = state;
    if (!element("explain").open || !chosen?.replies || page.result.failure(chosen)) return;
    const { explanations } = chosen;
    const name = element("why").value;
    if (explanations.has(name)) return showExplanation(explanations.get(name));
    showMessage("Hiding one part of the image after another…");
    if (explaining) return;
    explaining = true;
    const explanation = await request(chosen, name);
    explaining = false;
    if (explanation.success) explanations.set(name, explanation);
    if (explanations !== state.chosen.explanations || name !== element("why").value) return explain();
    isLost = explanation.lost;
    if (explanation.success) showExplanation(explanation);
    else showMessage(page.result.withRetry(explanation.error, explanation.lost));
  }

  function request({ file, name, replies }, className) {
    const knows = ({ success, class_probabilities: all }) => success && Object.hasOwn(all, className);
    const { version } = replies.map(({ answer }) => answer).find(knows);
    return page.server.post(`explain?${new URLSearchParams({ class: className, version })}`, file, name);
  }

  function showMessage(message) {
    say(message);
    element("explaining").textContent = message;
    element("explaining").hidden = false;
    element("explained").hidden = true;
  }

  function showExplanation({ input, heat_map: rows, explained_class: name }) {
    for (const image of document.querySelectorAll(".seen")) image.src = input;
    element("pictures").firstElementChild.onload = ({ target }) =>
      element("pictures").classList.toggle("coarse", target.naturalWidth < COARSE_SIZE);
    draw(rows);
    const change = largest(rows);
    element("legend").hidden = change < MIN_CHANGE;
    element("where").textContent =
      change < MIN_CHANGE
        ? `Hiding any one part changes the probability of ${name} by at most ${percentagePoints(change)}.`
        : `${sentence(rows, 1, `supports ${name}`, "lowers")} ${sentence(rows, -1, `counts against ${name}`, "raises")}`;
    say(element("where").textContent);
    element("explaining").hidden = true;
    element("explained").hidden = false;
  }

  const largest = (rows) => Math.max(...rows.flat().map(Math.abs));
  const percentagePoints = (share) => `${(100 * share).toFixed(1)} percentage points`;

  function draw(rows) {
    const canvas = element("heat");
    canvas.width = rows[0].length;
    canvas.height = rows.length;
    const full = Math.max(FULL_COLOUR_CHANGE, largest(rows));
    const alpha = (value) => (MAX_ALPHA * Math.abs(value)) / full;
    const pixels = rows.flat().flatMap((value) => [...(value > 0 ? SUPPORTS : AGAINST), alpha(value)]);
    canvas.getContext("2d").putImageData(new ImageData(Uint8ClampedArray.from(pixels), canvas.width), 0, 0);
  }

  function sentence(rows, sign, effect, changes) {
    const { place, most } = strongest(rows.map((row) => row.map((value) => sign * value)));
    if (most < MIN_CHANGE) return `No part ${effect}.`;
    const points = percentagePoints(most);
    return `The ${place} ${effect} most: hiding parts of it ${changes} the probability by up to ${points}.`;
  }

  // Of the nine places, the one with the largest sum of positive values, and its largest value.
  function strongest(rows) {
    const third = (at, { length }) => Math.floor((3 * at) / length);
    const places = PLACES.flat().map((place) => ({ place, sum: 0, most: 0 }));
    rows.forEach((row, y) =>
      row.forEach((value, x) => {
        const here = places[3 * third(y, rows) + third(x, row)];
        here.sum += Math.max(0, value);
        here.most = Math.max(here.most, value);
      }),
    );
    return places.reduce((one, other) => (other.sum > one.sum ? other : one));
  }

  function retryLost() {
    if (isLost) explain();
  }

  element("explain").addEventListener("toggle", explain);
  element("why").addEventListener("change", explain);

  return { offer, explain, retryLost };
})();

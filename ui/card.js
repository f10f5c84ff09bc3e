"use strict";

// The card of the model that is served, to read.

const Z = 1.959964; // of a 95 % interval
const hundredths = (share) => `${(100 * share).toFixed(2)}\u00a0%`;
const counted = (count) => count.toLocaleString("en");

async function readCard() {
  element("facts").replaceChildren();
  element("unread").textContent = "";
  element("carded").showModal();
  const card = await ask("model");
  if (card.error) element("unread").textContent = card.error;
  else element("facts").replaceChildren(...facts(card));
}

function facts({ name, version, classes, metrics: { test }, calibration, data, recipe, commit }) {
  const [low, high] = interval(test.accuracy, test.images);
  const { architecture, optimizer, epochs, seed, members } = recipe;
  const rows = {
    Name: `${name}, version ${version}`,
    Classes: classes.join(", "),
    Accuracy: `${hundredths(test.accuracy)} of ${counted(test.images)} test images; 95\u00a0% interval ${hundredths(low)} to ${hundredths(high)}`,
    Calibration: `error ${hundredths(test.ece)} on them, at temperature ${calibration.temperature.toFixed(3)}`,
    Data: `${data.name}, ${counted(data.training_images)} images to train on`,
    Recipe: members ? `an ensemble of ${members.length}` : `${architecture}, ${optimizer.name}, ${epochs} epochs, seed ${seed}`,
    Commit: commit,
  };
  return Object.entries(rows).flatMap((row) => row.map((text, at) => Object.assign(document.createElement(at ? "dd" : "dt"), { textContent: text })));
}

// Of a share of `count` (Wilson 1927), as training/metrics.py has it.
function interval(share, count) {
  const centre = share + Z ** 2 / (2 * count);
  const reach = Z * Math.sqrt((share * (1 - share)) / count + Z ** 2 / (4 * count ** 2));
  return [centre - reach, centre + reach].map((end) => end / (1 + Z ** 2 / count));
}

element("card").addEventListener("click", readCard);

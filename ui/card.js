"use strict";

// The card of the served model. The other scripts need nothing of it.
(() => {
  const { element, listed } = page;
  const Z = 1.959964; // of a 95 % interval
  const percent = (share) => `${(100 * share).toFixed(2)}\u00a0%`;
  const grouped = (count) => count.toLocaleString("en");

  async function open() {
    element("facts").replaceChildren();
    element("unread").textContent = "";
    element("carded").showModal();
    const card = await page.server.ask("model");
    if (card.error) element("unread").textContent = card.error;
    else element("facts").replaceChildren(...facts(card));
  }

  function facts({ name, version, classes, preprocessing, metrics: { test }, calibration, data, recipe, commit }) {
    if (!test) return ready({ name, version, classes, data, recipe, calibration, commit });
    const [low, high] = interval(test.accuracy, test.images);
    const { architecture, optimizer, epochs, seed, members, pair } = recipe;
    const rows = {
      Name: `${name}, version ${version}`,
      Classes: listed(classes),
      Input: preprocessing.map(({ size, fit }) => `${size} × ${size} pixels (${fit})`).join(" and "),
      Accuracy:
        `${percent(test.accuracy)} of ${grouped(test.images)} test images; ` +
        `95\u00a0% interval ${percent(low)} to ${percent(high)}`,
      Calibration:
        `expected calibration error ${percent(test.ece)} on the test images` +
        (pair ? "" : `; temperature ${calibration.temperature.toFixed(3)}`),
      Data: `${data.name}, ${grouped(data.training_images)} training images`,
      Recipe: pair
        ? `a pair: ${pair[0].name} for thumbnails, ${pair[1].name} for photos`
        : members
          ? `an ensemble of ${members.length}`
          : `${architecture}, ${optimizer.name}, ${epochs} epochs, seed ${seed}`,
      Commit: commit,
    };
    return list(rows);
  }

  // The facts of a network whose weights came ready-made, and which nobody measured here.
  function ready({ name, version, classes, data, recipe, calibration, commit }) {
    return list({
      Name: `${name}, version ${version}`,
      Classes: `${grouped(classes.length)} classes, from ${classes[0]} to ${classes.at(-1)}`,
      Accuracy: "not measured",
      Calibration: `not measured; ${calibration.in_distribution.threshold ? "a threshold was chosen" : "no image is called an outlier"}`,
      Data: data.name,
      Recipe: recipe.architecture,
      Commit: commit,
    });
  }

  function list(rows) {
    return Object.entries(rows).flatMap(([term, text]) => [textElement("dt", term), textElement("dd", text)]);
  }

  function textElement(tag, text) {
    const made = document.createElement(tag);
    made.textContent = text;
    return made;
  }

  // Wilson's interval (1927) of a share of `count`; training/metrics.py computes the same.
  function interval(share, count) {
    const centre = share + Z ** 2 / (2 * count);
    const reach = Z * Math.sqrt((share * (1 - share)) / count + Z ** 2 / (4 * count ** 2));
    return [centre - reach, centre + reach].map((end) => end / (1 + Z ** 2 / count));
  }

  element("card").addEventListener("click", open);
})();

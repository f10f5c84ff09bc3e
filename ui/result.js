"use strict";

// The prediction for the chosen image, or those of two versions side by side.
page.result = (() => {
  const { state, element, percent, division, show, say } = page;
  const FEW_CLASSES = 10; // shown at first; a button shows all

  function display() {
    if (!state.chosen.replies) {
      say("Predicting…");
      return show("waiting", "Predicting…");
    }
    const error = failure(state.chosen);
    if (!error) return present(state.chosen);
    say(""); // the error is an alert
    show("error", error);
  }

  // Why there is nothing to show. If only one version failed, its error stands beside the other's prediction.
  function failure({ replies }) {
    if (replies.some(({ answer }) => answer.success)) return null;
    const [{ answer, lost }] = replies;
    return withRetry(answer.error, lost);
  }

  const withRetry = (error, lost) => (lost ? `${error} The page tries again when the server is ready.` : error);

  function present(entry) {
    const { replies } = entry;
    const names = sortedClasses(replies);
    const showClasses = (count) => {
      element("answers").replaceChildren(...replies.map((reply, at) => column(replies, at, names.slice(0, count))));
      element("all").hidden = count >= names.length;
    };
    element("agreement").hidden = replies.length < 2;
    element("agreement").textContent = agreement(replies);
    element("all").textContent = `Show all ${names.length.toLocaleString("en")} classes`;
    element("all").onclick = () => {
      showClasses(names.length);
      const more = element("answers").querySelectorAll("li")[FEW_CLASSES]; // the button is gone, and with it the focus
      more.tabIndex = -1;
      more.focus();
    };
    showClasses(FEW_CLASSES);
    page.explanation.offer(names);
    page.feedback.reset(names);
    page.programs.update(entry);
    show("result");
    page.explanation.explain();
    say(`${replies.length < 2 ? "" : agreement(replies)} ${summary(entry)}`); // last, because one text is read
  }

  // Both versions list the classes in one order: by the probabilities of the first version that answered.
  function sortedClasses(replies) {
    const probabilities = ({ answer }) => Object.entries(answer.class_probabilities ?? {});
    const sorted = (reply) => probabilities(reply).sort(([, one], [, other]) => other - one);
    return [...new Set(replies.flatMap(sorted).map(([name]) => name))];
  }

  function agreement(replies) {
    const answers = replies.map(({ answer }) => answer).filter(({ success }) => success);
    if (answers.length < 2) return "One version did not answer.";
    const [one, other] = answers.map(({ predicted_class: name }) => name);
    if (one === other) return `The versions agree: both predict ${one}.`;
    const predictions = answers.map(({ version, predicted_class: name }) => `${version} predicts ${name}`);
    return `The versions disagree: ${predictions.join(", ")}.`;
  }

  // For the history, in a few words.
  function summary({ replies }) {
    const words = ({ answer: { success, error, predicted_class: name, confidence, in_distribution: isIn } }) =>
      success ? `${name} ${percent(confidence)}${isIn === false ? " (outlier)" : ""}` : error;
    if (replies.length === 1) return words(replies[0]);
    return replies.map((reply) => `${reply.answer.version ?? "?"}: ${words(reply)}`).join("\n");
  }

  function column(replies, at, names) {
    const { answer, milliseconds } = replies[at];
    const made = element("column").content.cloneNode(true).firstElementChild;
    const fill = (name, text) => {
      const filled = made.querySelector(`.${name}`);
      if (text) filled.textContent = text;
      else filled.remove();
    };
    const before = at ? replies[0].answer.class_probabilities : null;
    const heading = answer.version ? `Version ${answer.version}${before ? ", with differences" : ""}` : "No answer";
    fill("version", replies.length > 1 && heading);
    fill("refused", answer.error);
    if (!answer.success) for (const name of ["outlier", "answer", "bars", "spent"]) fill(name, null);
    else {
      if (answer.in_distribution !== false) fill("outlier", null);
      fill("predicted", answer.predicted_class);
      fill("confidence", `${percent(answer.confidence)} confidence`);
      fill("spent", `Version ${answer.version} answered in ${Math.round(milliseconds)}\u00a0ms.`);
      made.querySelector(".bars").append(...names.map((name) => bar(name, answer.class_probabilities, before)));
    }
    return made;
  }

  function bar(name, probabilities, before) {
    const row = document.createElement("li");
    const track = division("track");
    const filled = division("bar");
    const probability = probabilities[name] ?? 0;
    filled.style.width = `${100 * probability}%`;
    track.append(filled);
    row.append(division("name", name), track, division("value", percent(probability)));
    if (before) row.append(division("difference", difference(probability - (before[name] ?? 0))));
    return row;
  }

  function difference(share) {
    const points = (100 * Math.abs(share)).toFixed(1);
    return points === "0.0" ? "same" : `${share < 0 ? "−" : "+"}${points}`;
  }

  return { display, failure, withRetry, summary };
})();

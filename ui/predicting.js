"use strict";

// The queue of images that wait for a prediction.
page.predicting = (() => {
  const { state } = page;
  const MAX_REQUESTS = 4; // at the same time
  const queue = [];
  let requests = 0;

  function enqueue(entries) {
    queue.push(...entries);
    while (requests < MAX_REQUESTS && queue.length) work();
  }

  async function work() {
    requests++;
    for (let entry = queue.shift(); entry; entry = queue.shift()) {
      const versions = page.server.selectedVersions();
      const replies = await predict(entry, versions);
      if (versions.join() === page.server.selectedVersions().join()) settle(entry, replies);
      else queue.push(entry); // other versions were selected meanwhile
    }
    requests--;
  }

  // One version after another, so that the time of each is its own.
  async function predict({ file, name }, versions) {
    const error = await page.choosing.refusal(file);
    if (error) return [{ answer: { error } }];
    const replies = [];
    for (const version of versions) {
      const path = version ? `predict?version=${encodeURIComponent(version)}` : "predict";
      const started = performance.now();
      const { lost, id, ...answer } = await page.server.post(path, file, name);
      replies.push({ path, answer, id, lost, milliseconds: performance.now() - started });
    }
    return replies;
  }

  function settle(entry, replies) {
    entry.replies = replies;
    entry.explanations = new Map();
    entry.summary.textContent = page.result.failure(entry) || page.result.summary(entry);
    if (entry === state.chosen) page.result.display();
  }

  // Entries without replies are in the queue already.
  function predictAgain(entries) {
    const settled = entries.filter(({ replies }) => replies);
    for (const entry of settled) {
      entry.replies = null;
      entry.summary.textContent = "…";
    }
    if (settled.includes(state.chosen)) page.result.display();
    enqueue(settled);
  }

  function retryLost() {
    predictAgain(state.entries.filter(({ replies }) => replies?.some(({ lost }) => lost)));
  }

  return { enqueue, predictAgain, retryLost };
})();

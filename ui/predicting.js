"use strict";

// The queue of images that wait for a prediction.
page.predicting = (() => {
  const { state } = page;
  const MAX_REQUESTS = 4; // at the same time
  const MAX_SLOW = 3; // times that an image is asked again because its answer took too long
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

  // One version after another, so that the time of each is its own. What was `kept` is not asked again.
  async function predict(entry, versions) {
    const { file, name, kept } = entry;
    const error = await page.choosing.refusal(file);
    if (error) return [{ answer: { error } }];
    const replies = [];
    for (const version of versions) {
      const had = kept?.find((reply) => reply.version === version);
      if (had) {
        replies.push(had);
        continue;
      }
      const path = version ? `predict?version=${encodeURIComponent(version)}` : "predict";
      const started = performance.now();
      const { lost: away, slow, id, ...answer } = await page.server.post(path, file, name);
      if (slow) entry.slow = (entry.slow ?? 0) + 1;
      const lost = away || (slow && entry.slow <= MAX_SLOW);
      replies.push({ version, path, answer, id, lost, milliseconds: performance.now() - started });
    }
    return replies;
  }

  function settle(entry, replies) {
    const isNew = !entry.replies?.some((reply) => reply.lost) || replies.some((reply, at) => differs(reply, entry.replies[at]));
    entry.kept = null;
    if (!isNew) return; // so that what is typed beside it stays
    entry.replies = replies;
    entry.explanations = new Map();
    entry.summary.textContent = page.result.failure(entry) || page.result.summary(entry);
    if (entry === state.chosen) page.result.display();
  }

  function differs(reply, before) {
    return reply !== before && !(reply.lost && before?.lost && reply.answer.error === before.answer.error);
  }

  // Entries without replies are in the queue already.
  function predictAgain(entries) {
    const settled = entries.filter(({ replies }) => replies);
    for (const entry of settled) {
      entry.replies = entry.kept = null;
      entry.summary.textContent = "…";
    }
    if (settled.includes(state.chosen)) page.result.display();
    enqueue(settled);
  }

  const isLost = ({ replies }) => replies?.some(({ lost }) => lost);

  // What is on show stays meanwhile: the answer of one of two versions, or the error.
  function retryLost() {
    const entries = state.entries.filter((entry) => !entry.kept && isLost(entry));
    for (const entry of entries) entry.kept = entry.replies.filter((reply) => !reply.lost);
    enqueue(entries);
  }

  return { enqueue, predictAgain, retryLost, isLost };
})();

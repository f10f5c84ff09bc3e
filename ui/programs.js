"use strict";

// Programs that get the prediction on show.
page.programs = (() => {
  const { element, address } = page;
  const COPIED_TIME = 2000; // milliseconds for which the button says so
  const shellQuoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;
  const PROGRAMS = {
    curl: (name, url, keyed) =>
      `curl ${keyed ? '-H "X-API-Key: $CLASSIFIER_KEY" ' : ""}` +
      `-F ${shellQuoted(`file=@"${name.replace(/["\\]/g, "\\$&")}"`)} '${url}'`,
    python: (name, url, keyed) => `${keyed ? "import os\n\n" : ""}import requests

with open(${JSON.stringify(name)}, "rb") as image:
    answer = requests.post(${JSON.stringify(url)}, files={"file": image}${keyed ? ', headers={"X-API-Key": os.environ["CLASSIFIER_KEY"]}' : ""}).json()
print(answer["predicted_class"], answer["confidence"])`,
    javascript: (name, url, keyed) => `import { readFile } from "node:fs/promises";

const body = new FormData();
body.append("file", new Blob([await readFile(${JSON.stringify(name)})]), ${JSON.stringify(name)});
const response = await fetch(${JSON.stringify(url)}, { method: "POST", body${keyed ? ', headers: { "X-API-Key": process.env.CLASSIFIER_KEY }' : ""} });
const answer = await response.json();
console.log(answer.predicted_class, answer.confidence);`,
  };

  function update({ name, replies: [{ path }] }) {
    const url = address(path);
    const keyed = Boolean(page.server.key()); // the key itself is not shown
    for (const [id, program] of Object.entries(PROGRAMS)) element(id).textContent = program(name, url, keyed);
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = !navigator.clipboard; // an insecure address has none
    const text = button.textContent;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(element(button.dataset.of).textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = text), COPIED_TIME);
    });
  }

  return { update };
})();

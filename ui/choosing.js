"use strict";

// Images from files, folders, the clipboard and the examples.
page.choosing = (() => {
  const { MAX_BYTES, FORMATS, PHOTO, OTHER_TYPES, state, element, address, note } = page;
  const EXAMPLES = Array.from(document.querySelectorAll("#examples button"), (button) => {
    const path = button.firstElementChild.getAttribute("src");
    const file = path.split("/").pop();
    return { button, path, file, className: file.replace(".jpg", "") };
  });
  const SYSTEM_FOLDER = /^(\.|@eaDir$|__MACOSX$)/; // made by systems and network drives

  function take(files) {
    note("");
    const entries = Array.from(files, (file) => {
      return { file, name: file.name || "pasted", url: URL.createObjectURL(file) };
    });
    page.history.add(entries);
    choose(entries[0]);
    page.predicting.enqueue(entries);
  }

  function choose(entry) {
    page.camera.stop();
    state.chosen = entry;
    page.history.markChosen();
    const image = element("preview");
    image.hidden = true;
    image.onload = () => (image.hidden = false);
    image.src = entry.url;
    page.result.display();
    const shown = entry.replies?.map(({ version }) => version ?? "").join();
    if (entry.replies && shown !== page.server.selectedVersions().join()) page.predicting.predictAgain([entry]);
  }

  // Why a file cannot be sent, or null.
  async function refusal(file) {
    if (OTHER_TYPES.test(file.type)) return `This is not a ${FORMATS} image. Choose another file.`;
    if (file.size > MAX_BYTES) return "This image is larger than 10 MB. Choose a smaller one.";
    if (file.size === 0) return "This file is empty. Choose another one.";
    try {
      await file.slice(0, 1).arrayBuffer();
    } catch {
      return "This file cannot be read. It may have changed, or it is a folder. Choose it again.";
    }
    return null;
  }

  // Only the examples whose class the model has.
  function offerExamples(classes) {
    for (const { button, className } of EXAMPLES) button.hidden = !classes.includes(className);
    element("offer").hidden = EXAMPLES.every(({ button }) => button.hidden);
  }

  async function takeExample({ path, file }) {
    try {
      const response = await fetch(address(path));
      if (!response.ok) return note(`The server does not give this example (status ${response.status}).`);
      take([new File([await response.blob()], file, { type: "image/jpeg" })]);
    } catch {
      note(page.server.UNREACHABLE);
    }
  }

  // Files and folders that were dropped or pasted.
  async function takeTransfer({ items, files }, nothingSent) {
    const entries = Array.from(items, (item) => item.webkitGetAsEntry()).filter(Boolean); // await would clear them
    const folders = entries.filter(({ isDirectory }) => isDirectory);
    const names = folders.map(({ name }) => name);
    let photos;
    try {
      photos = (await Promise.all(folders.map(photosIn))).flat();
    } catch {
      return note("This folder cannot be read. Drop its images instead.");
    }
    const all = [...Array.from(files).filter(({ name }) => !names.includes(name)), ...photos];
    if (all.length) take(all);
    else note(folders.length ? `This folder has no ${FORMATS} images. Drop another one.` : nothingSent);
  }

  async function photosIn(folder) {
    const reader = folder.createReader();
    const entries = [];
    const more = () => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    for (let some = await more(); some.length; some = await more()) entries.push(...some); // at most 100 a call
    entries.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
    const photos = entries.map((entry) => {
      if (entry.isDirectory) return SYSTEM_FOLDER.test(entry.name) ? [] : photosIn(entry);
      return PHOTO.test(entry.name) ? new Promise((resolve, reject) => entry.file(resolve, reject)) : [];
    });
    return (await Promise.all(photos)).flat();
  }

  element("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(target.files);
    target.value = ""; // so that choosing the same file again is a change
  });

  for (const example of EXAMPLES) example.button.addEventListener("click", () => takeExample(example));

  const isTyped = ({ target }) => target.closest?.("input:not([type=file]), textarea");

  for (const type of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      if (isTyped(event) && !event.dataTransfer.types.includes("Files")) return; // a text into a field
      event.preventDefault();
      element("drop").classList.toggle("over", type === "dragover");
      if (type === "drop") takeTransfer(event.dataTransfer, "No file was dropped. Save the image, then drop its file.");
    });
  }

  document.addEventListener("paste", (event) => {
    if (isTyped(event)) return;
    takeTransfer(event.clipboardData, "You pasted no image. Copy an image, not its text or address.");
  });

  return { take, choose, refusal, offerExamples };
})();

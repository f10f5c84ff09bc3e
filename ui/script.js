"use strict";

// `page` is the only global name. Each of the other scripts adds a section to it, such as `page.server`, and calls the
// others by that name. They are not modules, because a browser does not load modules from disk. This one has what the
// others share.
const page = (() => {
  // The gateway serves this page, perhaps below the path of a proxy. From disk, the page asks its default address.
  const GATEWAY = location.protocol === "file:" ? "http://localhost:5001/" : location.origin + location.pathname;

  // These repeat the gateway's limits, so that the page can refuse a file before it sends it.
  const MAX_BYTES = 10 * 1024 * 1024;
  const FORMATS = "JPG, PNG, GIF or WebP";
  const PHOTO = /^[^.].*\.(jpe?g|jpe|jfif|png|gif|webp|hei[cf])$/i; // in a folder; some servers read HEIC, and others tell how
  const OTHER_TYPES = /^(audio|font|text|video)\/|^application\/(pdf|zip)$/; // the server judges all types but these

  // The images of this visit in order, and the one on show. An entry has: file, name, url (of the image), button and
  // summary (in the history). It gets `replies`, one for each version, and `explanations` by class. A reply has: path,
  // answer (the server's JSON), id (of the request), milliseconds, and `lost` if the server was not ready.
  const state = { entries: [], chosen: null };

  const element = (id) => document.getElementById(id);
  const address = (path) => new URL(path, GATEWAY).href;
  const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`; // the space does not break the line

  const FEW_NAMES = 20; // of classes in a sentence; a model may have thousands

  // Some classes in words. Names with commas are told apart by semicolons.
  function listed(names) {
    const some = names.slice(0, FEW_NAMES).join(names.some((name) => name.includes(",")) ? "; " : ", ");
    const others = names.length - FEW_NAMES;
    return others > 0 ? `${some} and ${others.toLocaleString("en")} more` : some;
  }

  function division(className, text = "") {
    const made = document.createElement("div");
    made.className = className;
    made.textContent = text;
    return made;
  }

  // Show the result, an error or a message in the place of the prediction.
  function show(id, message) {
    if (message) element(id).textContent = message;
    for (const place of ["error", "waiting", "result"]) element(place).hidden = place !== id;
  }

  // Tell a screen reader what matters of what is shown, and not the rest.
  function say(text) {
    if (element("spoken").textContent !== text) element("spoken").textContent = text;
  }

  // A note stands below the image. It is about files that were not taken, so the result stays on show.
  function note(message) {
    element("note").textContent = message;
    element("note").hidden = !message;
  }

  return { MAX_BYTES, FORMATS, PHOTO, OTHER_TYPES, state, element, address, percent, listed, division, show, say, note };
})();

"use strict";

// The right class of an image, told to the server, if that keeps feedback.
page.feedback = (() => {
  const { state, element } = page;

  function offer(isKept) {
    element("feedback").hidden = !isKept;
  }

  // For each image anew.
  function reset(names) {
    element("names").replaceChildren(...names.map((name) => new Option(name)));
    element("tell").reset();
    element("tell").hidden = false;
    element("told").textContent = "";
  }

  async function tell(event) {
    event.preventDefault();
    const chosen = state.chosen;
    const { file, name, replies } = chosen;
    const id = replies.find(({ answer }) => answer.success)?.id;
    const fields = { class: element("right").value.trim(), note: element("remark").value.trim(), id };
    const { error } = await page.server.post("feedback", file, name, fields);
    if (state.chosen !== chosen) return; // another image is on show meanwhile
    element("tell").hidden = !error;
    element("told").textContent = error ?? `Thank you. It is kept as ${fields.class} until a person has reviewed it, or it is too old.`;
    if (!error) element("told").focus(); // the button is gone
  }

  element("tell").addEventListener("submit", tell);

  return { offer, reset };
})();

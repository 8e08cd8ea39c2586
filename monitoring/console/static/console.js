/* Keeps open pages fresh. Every page works without it.
 *
 * When the record changed, each element with data-live asks for its page again and takes its own part of the answer. What
 * a person is writing or has opened is left as it is.
 */
"use strict";
(() => {
  const stream = new EventSource(`/live?known=${document.body.dataset.known}`);
  const note = document.getElementById("stale");

  stream.addEventListener("changed", () => document.body.dispatchEvent(new CustomEvent("record-changed")));
  stream.addEventListener("ended", () => { stream.close(); location.reload(); });
  stream.onopen = () => { if (note) note.hidden = true; };
  stream.onerror = () => { if (note) note.hidden = false; };
  addEventListener("pagehide", () => stream.close());

  function isInUse(part) {
    const busy = part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select");
    return busy || [...part.querySelectorAll("textarea, input:not([type=hidden])")].some((one) => one.value !== one.defaultValue);
  }
  document.addEventListener("htmx:beforeRequest", (event) => {
    const part = event.target;
    if (part.matches("[data-live]") && isInUse(part)) event.preventDefault();
  });

  let opened = [], focused = null;
  document.addEventListener("htmx:beforeSwap", (event) => {
    opened = [...event.target.querySelectorAll("details[open][id]")].map((one) => one.id);
    focused = event.target.contains(document.activeElement) ? document.activeElement.id : null;
    // A page that turned into another (signed out, an error) must not be put into a part of this one.
    if (!event.detail.xhr.responseURL.includes(location.pathname)) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus();
  });

  // On a narrow screen the pages are one row, wider than the screen: the page that is open must be in sight.
  const row = document.querySelector(".side nav"), open = row?.querySelector("[aria-current]");
  if (open) row.scrollLeft = open.offsetLeft - row.clientWidth / 2;

  for (const select of document.querySelectorAll("select[data-submit]"))
    select.addEventListener("change", () => select.form.requestSubmit());

  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const meant = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (!meant) return;
    event.preventDefault();
    if (meant.matches("textarea")) meant.focus();
    else meant.click();
    // Whoever opens a box by its key means to write in it.
    if (meant.matches("summary") && meant.parentElement.open) meant.parentElement.querySelector("textarea")?.focus();
  });
})();

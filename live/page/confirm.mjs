// The dialog that asks an operator before an action.

import { setText } from "./view.mjs";

const $ = (id) => document.getElementById(id);
let action = null;

/**
 * Shows a title and a text, and calls act when the operator confirms it, with the reason if
 * withReason is true. The dialog stays open, with the error, if that fails.
 */
export function confirmed({ title, text, yes, act, withReason = false }) {
  setText($("confirm-title"), title);
  setText($("confirm-text"), text);
  setText($("confirm-yes"), yes);
  $("confirm-reason-row").hidden = !withReason;
  $("confirm-reason").value = "";
  $("confirm-error").hidden = true;
  action = act;
  $("confirm").showModal();
}

$("confirm").querySelector("form").addEventListener("submit", (e) => {
  if (e.submitter?.value !== "yes") return; // it only closes
  e.preventDefault();
  action($("confirm-reason").value).then(
    () => $("confirm").close(),
    (err) => {
      setText($("confirm-error"), `It failed: ${err.message}`);
      $("confirm-error").hidden = false;
    },
  );
});

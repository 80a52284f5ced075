/** Asks for the token of a server that wants one. */

import { byId, setText } from "./dom.js";

/**
 * The token that was typed; "" to send none any more; null for not now.
 * @param {boolean} refused the last one was not accepted
 */
export function askToken(refused) {
  const dialog = byId("token-dialog");
  const field = byId("token");
  field.value = "";
  setText(byId("token-error"), refused ? "The server does not accept this token." : "");
  dialog.showModal();
  return new Promise((resolve) => {
    const over = new AbortController();
    const end = (token) => {
      over.abort();
      dialog.close();
      resolve(token);
    };
    const listen = (element, event, run) => element.addEventListener(event, run, { signal: over.signal });
    listen(byId("token-form"), "submit", (event) => {
      event.preventDefault();
      const token = field.value.trim();
      if (/^[\x21-\x7e]*$/.test(token)) end(token);
      else setText(byId("token-error"), "A token holds letters, digits and signs of ASCII only, and no blanks.");
    });
    listen(byId("token-cancel"), "click", () => end(null));
    listen(dialog, "cancel", () => end(null));
  });
}
